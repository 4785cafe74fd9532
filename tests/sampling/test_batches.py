"""Batches that shrink when memory runs out, and the thread that finishes what was made."""

import threading
import time

import pytest
import torch
from tiny import make_generator, sentence

from arimage.images import to_levels
from arimage.sampling.batches import Arrival, Fit, arriving, finished
from arimage.sampling.loop import generate


def joined(parts):
    return [i for part in parts for i in part]


def runs_out(above):
    """Makes a slice, unless it has more than ``above`` images; and what was asked for."""
    asked = []

    def make(part):
        asked.append((part.start, part.stop))
        if part.stop - part.start > above:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has")
        return list(range(part.start, part.stop))

    return make, asked


def test_batches_of_a_size():
    make, asked = runs_out(99)
    assert joined(Fit(4).batches(make, 10)) == list(range(10))
    assert asked == [(0, 4), (4, 8), (8, 10)]
    assert joined(Fit(4).batches(make, 10, start=7)) == [7, 8, 9]


def test_out_of_memory_halves_the_batch_and_goes_on():
    make, asked = runs_out(3)
    fit = Fit(8, lambda: 8)
    with pytest.warns(RuntimeWarning, match="memory ran out with 8 images at once .* on with 4"):
        with pytest.warns(RuntimeWarning, match="memory ran out with 4 images at once"):
            made = joined(fit.batches(make, 9))
    assert made == list(range(9))
    assert fit.size == 2
    assert asked == [(0, 8), (0, 4), (0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]


def test_a_new_plan_below_the_half_is_followed():
    make, _ = runs_out(3)
    fit = Fit(8, lambda: 1)
    with pytest.warns(RuntimeWarning, match="going on with 1"):
        assert joined(fit.batches(make, 8)) == list(range(8))
    assert fit.size == 1


def test_a_single_image_that_does_not_fit_is_told():
    make, _ = runs_out(0)
    with pytest.raises(MemoryError) as caught:
        list(Fit(1, lambda: 1).batches(make, 3))
    assert "a single image does not fit into memory (CUDA out of memory)" in sentence(caught)


def test_a_given_size_is_the_callers():
    make, _ = runs_out(3)
    with pytest.raises(torch.OutOfMemoryError):
        list(Fit.of(4, lambda: 2, shared=False).batches(make, 4))
    assert Fit.of(None, lambda: 2, shared=True) == Fit(2)
    assert Fit.of(None, lambda: 2, shared=False).plan is not None


def test_a_generator_makes_the_same_images_after_memory_ran_out(monkeypatch):
    torch.manual_seed(0)
    generator = make_generator("var", "next_scale")
    expected = generator([0, 1, 2, 0, 1], seeds=3, batch_size=2)

    def scarce(branches, order, sampler, noise, known=None, run=None):
        if noise.batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(branches, order, sampler, noise, known, run)

    monkeypatch.setattr("arimage.generator.generate", scarce)
    with pytest.warns(RuntimeWarning, match="going on with 2"):
        output = generator([0, 1, 2, 0, 1], seeds=3)
    assert torch.equal(output.ids, expected.ids)
    assert output.images == expected.images
    with pytest.raises(torch.OutOfMemoryError):
        generator([0, 1, 2, 0, 1], seeds=3, batch_size=5)
    with pytest.raises(torch.OutOfMemoryError):  # drawn for all together: no half of it
        generator([0, 1, 2, 0, 1], seeds=3, rng="reference")


def test_items_are_finished_in_order_while_the_next_ones_are_made():
    """The second item is not made before the first is being finished in the other thread."""
    begun, names = threading.Event(), set()

    def items():
        yield 0
        assert begun.wait(20)
        yield from (1, 2, 3)

    def finish(item):
        names.add(threading.current_thread().name)
        begun.set()
        return item * 10

    assert list(finished(items(), finish)) == [0, 10, 20, 30]
    assert threading.current_thread().name not in names


def test_no_more_than_a_few_items_wait():
    made, go_on = [], threading.Event()

    def items():
        for i in range(9):
            made.append(i)
            yield i

    results = finished(items(), lambda item: go_on.wait(20))
    reader = threading.Thread(target=lambda: list(results))
    reader.start()
    time.sleep(0.1)
    assert len(made) <= 2
    go_on.set()
    reader.join()
    assert len(made) == 9


def test_an_error_of_the_thread_stops_the_rest():
    written, made = [], []

    def items():
        for i in range(50):
            made.append(i)
            yield i

    def finish(item):
        if item == 2:
            raise OSError("no room")
        written.append(item)

    with pytest.raises(OSError, match="no room"):
        list(finished(items(), finish))
    assert written[:2] == [0, 1]
    assert len(made) <= 5


def test_what_was_made_before_an_interrupt_is_finished():
    written = []

    def items():
        yield from (0, 1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(finished(items(), lambda item: written.append(time.sleep(0.05) or item)))
    assert written == [0, 1, 2]


def test_what_is_on_its_way_is_taken_when_the_next_one_has_started():
    """As on a GPU, where an arrival waits for its stream."""
    steps = []

    class Slow(Arrival):
        is_there = False

        def __init__(self, i):
            steps.append(f"start {i}")
            self.i = i

        def take(self):
            steps.append(f"take {self.i}")
            return torch.zeros(1, 2, 2, 3, dtype=torch.uint8).numpy(), torch.tensor([[self.i]])

    assert [int(ids) for _, ids in arriving(Slow(i) for i in range(3))] == [0, 1, 2]
    assert steps == ["start 0", "start 1", "take 0", "start 2", "take 1", "take 2"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: streams")
def test_a_stream_of_its_own_gives_the_same_pixels():
    torch.manual_seed(0)
    generator = make_generator("var", "next_scale").to("cuda")
    *_, state = generator.sample([0, 1, 2], [4, 5, 6])
    pixels, ids = Arrival(state, generator.decode).take()
    assert torch.equal(ids, state.ids.cpu())
    direct = to_levels(generator.decode(state)).cpu().numpy()
    assert (pixels == direct).all()
