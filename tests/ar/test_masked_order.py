"""The masked orders: schedules, what is kept of a pass, lessons; known tokens in between."""

import math

import pytest
import torch
from test_orders import bind, half_known, lesson
from tiny import sentence

from arimage.ar.base import UNKNOWN, Draw
from arimage.ar.orders.masked import SCHEDULES, open_share
from arimage.sampling.noise import PerImageNoise


def commit_sizes(order, known=None, batch=3, vocab=32):
    """How many slots of each image are chosen after each step; ids of the last state."""
    noise = PerImageNoise(range(batch), "cpu")
    state = order.start(noise, known)
    generator = torch.Generator().manual_seed(2)
    left, sizes = (order.inputs(state, order.step(0)) == UNKNOWN).sum(1), []
    while (step := order.next_step(state)) is not None:
        ids = torch.randint(0, vocab, (batch, order.num_slots), generator=generator)
        log_probs = torch.rand(ids.shape, generator=generator).log()
        before = state.ids
        state = order.commit(state, step, Draw(ids, log_probs), noise)
        kept = before != UNKNOWN
        assert torch.equal(state.ids[kept], before[kept]), "a chosen token was changed"
        now = (state.ids == UNKNOWN).sum(1)
        sizes.append((left - now).tolist())
        left = now
    return torch.tensor(sizes), state


def follows_the_cosine(sizes, totals, num_steps):
    """Whether floor(total cos(pi/2 t/T)) slots stay open after step t, but one is chosen each."""
    left = totals.clone()
    for t, chosen in enumerate(sizes, 1):
        stay = (totals.double() * math.cos(math.pi / 2 * t / num_steps)).floor().long()
        stay = torch.minimum(stay, left - 1).clamp_min(0)
        left = left - chosen
        if not torch.equal(left, stay):
            return False
    return bool((left == 0).all())


GOLDEN_8_OF_256 = [5, 15, 24, 31, 39, 45, 48, 49]
GOLDEN_12_OF_1024 = [9, 26, 43, 60, 74, 88, 101, 111, 121, 126, 132, 133]


@pytest.mark.parametrize(
    ("side", "steps", "golden"), [(16, 8, GOLDEN_8_OF_256), (32, 12, GOLDEN_12_OF_1024)]
)
def test_the_masked_order_commits_as_maskgit_does(side, steps, golden):
    sizes, state = commit_sizes(bind("masked", ((side, side),), num_steps=steps))
    assert sizes.tolist() == [[n] * 3 for n in golden]
    assert (state.ids != UNKNOWN).all()


def test_another_number_of_steps_commits_otherwise():
    sizes, _ = commit_sizes(bind("masked", ((16, 16),), num_steps=9))
    assert sizes[:, 0].tolist()[:8] != GOLDEN_8_OF_256
    assert not follows_the_cosine(sizes[:8], torch.full((3,), 256), 8)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize(("side", "steps"), [(4, 8), (8, 5), (8, 1), (3, 9)])
def test_editing_keeps_the_schedule_over_the_open_slots(side, steps, share):
    order = bind("masked", ((side, side),), num_steps=steps)
    known = half_known(order, 3, share)
    sizes, state = commit_sizes(order, known)
    assert follows_the_cosine(sizes, (~known.mask).sum(1), steps)
    assert torch.equal(state.ids[known.mask], known.ids[known.mask])


def test_the_most_confident_are_kept_where_there_is_no_gumbel_noise():
    order = bind("masked", ((4, 4),), num_steps=4, choice_temperature=0.0)
    noise = PerImageNoise([0], "cpu")
    log_probs = torch.linspace(-5, -1, 16)[None]
    draw = Draw(torch.zeros(1, 16, dtype=torch.long), log_probs)
    state = order.commit(order.start(noise), order.step(0), draw, noise)
    kept = (state.ids[0] != UNKNOWN).nonzero().flatten()
    assert kept.tolist() == [14, 15]  # 16 - floor(16 cos(pi/8))


def test_gumbel_noise_lets_others_win():
    order = bind("masked", ((4, 4),), num_steps=4)
    noise = PerImageNoise(range(50), "cpu")
    log_probs = torch.linspace(-5, -1, 16).expand(50, -1)
    draw = Draw(torch.zeros(50, 16, dtype=torch.long), log_probs)
    state = order.commit(order.start(noise), order.step(0), draw, noise)
    assert ((state.ids != UNKNOWN).sum(1) == 2).all()
    assert (state.ids[:, :14] != UNKNOWN).any()


def test_an_unfinished_canvas_holds_the_chosen_codes_alone():
    order = bind("masked", ((4, 4),), num_steps=4)
    noise = PerImageNoise([0], "cpu")
    draw = Draw(torch.full((1, 16), 3), torch.rand(1, 16).log())
    state = order.commit(order.start(noise), order.step(0), draw, noise)
    chosen = (state.ids[0] != UNKNOWN).reshape(4, 4)
    assert (state.canvas[0, :, ~chosen] == 0).all()
    assert torch.equal(state.canvas[0, :, chosen].T, order.fuser.lookup(torch.tensor([3, 3])))


@pytest.mark.parametrize("steps", [0, -1, 17])
def test_a_number_of_steps_out_of_range_is_told(steps):
    with pytest.raises(ValueError) as caught:
        bind("masked", ((4, 4),), num_steps=steps)
    assert f"got num_steps {steps}; this order takes 1 to 16 steps" in sentence(caught)


def test_a_masked_lesson_hides_a_cosine_share_and_only_that_counts():
    order = bind("masked", ((8, 8),))
    ids, given = lesson(order, batch=4000)
    hidden = given.inputs == UNKNOWN
    assert torch.equal(hidden, given.counts)
    assert torch.equal(given.inputs[~hidden], ids[~hidden])
    assert torch.equal(given.targets, ids)
    counts = hidden.sum(1)
    assert counts.min() >= 1
    assert counts.max() <= 64
    shares = counts / 64
    assert shares.mean().item() == pytest.approx(2 / math.pi, abs=0.02)  # of cos(pi/2 u)
    assert hidden.float().mean(0).std() < 0.02  # every slot alike


def test_a_lesson_in_bits_hides_entries_apart_and_counts_all():
    order = bind("bits", ((4, 4),), splits=2, size=8)
    ids = torch.randint(0, 64, (500, 16), generator=torch.Generator().manual_seed(0))
    given = order.lesson(ids, torch.Generator().manual_seed(1))
    low, high = (given.targets.unflatten(1, (16, 2))[..., i] for i in range(2))
    assert torch.equal(low + 8 * high, ids)
    assert given.counts.all()
    shown = order.entries(given.inputs)
    hidden = shown == UNKNOWN
    assert torch.equal(shown[~hidden], given.targets[~hidden])
    assert hidden.float().mean().item() == pytest.approx(2 / math.pi, abs=0.05)  # of arccos(u)
    halves = hidden.unflatten(1, (16, 2))
    assert (halves[..., 0] != halves[..., 1]).any()


def test_a_halton_lesson_counts_what_it_shows_too():
    ids, given = lesson(bind("halton", ((4, 4),)), batch=200)
    hidden = given.inputs == UNKNOWN
    assert torch.equal(given.inputs[~hidden], ids[~hidden])
    assert given.counts.all()
    assert (~hidden).any()


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_falls_from_all_to_none(name):
    shares = open_share(name, torch.linspace(0, 1, 11, dtype=torch.float64))
    assert shares[0].item() == pytest.approx(1)
    assert shares[-1].item() == pytest.approx(0)
    assert (shares.diff() < 0).all()


def test_the_schedules_differ_and_an_unknown_one_is_told():
    sizes = {
        name: tuple(commit_sizes(bind("masked", ((8, 8),), num_steps=6, schedule=name))[0][:, 0])
        for name in SCHEDULES
    }
    assert len({tuple(map(int, found)) for found in sizes.values()}) == len(SCHEDULES)
    with pytest.raises(KeyError) as caught:
        bind("masked", ((4, 4),), schedule="cosin")
    assert "unknown schedule of masks 'cosin'. Did you mean 'cosine'" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        bind("masked", ((4, 4),), choice_temperature=-1.0)
    assert "got choice_temperature -1.0" in sentence(caught)
