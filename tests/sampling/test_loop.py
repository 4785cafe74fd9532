"""The loop: one for every order, its states, its cache, its refusal of NaN."""

import pytest
import torch
from branches import guided_logits
from tiny import (
    MODEL_CASES,
    make_generator,
    make_model,
    make_order,
    make_tokenizer,
    sentence,
)

from arimage.ar.base import UNKNOWN, Cache, CacheShape, Draw, Known
from arimage.ar.orders.next_scale import NextScaleOrder
from arimage.sampling import loop as loop_module
from arimage.sampling.cache import StaticCache, cache_dtype
from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch, first_broken, generate
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.argmax import Argmax
from arimage.sampling.samplers.categorical import Categorical
from arimage.slots import square_grids


def states_of(model, *, branches=1, sampler=None, known=None, guidance=None, seeds=(0, 1)):
    order = make_order(model)
    labels = torch.arange(len(seeds))
    made = [Branch.of(model, order, labels, guidance or Guidance()) for _ in range(branches)]
    noise = PerImageNoise(seeds, "cpu")
    return order, list(generate(made, order, sampler or Categorical(), noise, known))


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_a_state_after_every_step_and_at_the_end_every_token(name, order):
    model = make_model(name, order)
    bound, states = states_of(model)
    assert [s.step for s in states] == list(range(1, bound.num_steps + 1))
    open_slots = [int((s.ids == UNKNOWN).sum()) for s in states]
    assert open_slots == sorted(open_slots, reverse=True)
    assert open_slots[-1] == 0
    last = states[-1].ids
    assert 0 <= last.min() <= last.max() < model.config.vocab_size
    assert all(not s.canvas.requires_grad for s in states)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_a_rerun_gives_the_same_and_another_seed_another_image(name, order):
    model = make_model(name, order)
    first, again, other = (states_of(model, seeds=s)[1][-1] for s in ((0, 1), (0, 1), (2, 3)))
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.canvas, again.canvas)
    assert not torch.equal(first.ids, other.ids)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_logits_of_branches_are_added(name, order):
    """Two equal branches have twice the logits: argmax stays, a draw is that at half the heat."""
    model = make_model(name, order)
    _, one = states_of(model, sampler=Categorical(temperature=0.5))
    _, two = states_of(model, sampler=Categorical(temperature=1.0), branches=2)
    assert torch.equal(one[-1].ids, two[-1].ids)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_known_tokens_are_seen_by_the_model(name, order):
    model = make_model(name, order)
    slots = model.slots.num_slots
    mask, half = torch.zeros(2, slots, dtype=torch.bool), slots // 2
    mask[:, :half] = True
    ids = torch.randint(0, 32, (2, slots), generator=torch.Generator().manual_seed(0))
    _, some = states_of(model, sampler=Argmax(), known=Known(ids, mask))
    _, others = states_of(model, sampler=Argmax(), known=Known((ids + 7) % 32, mask))
    assert torch.equal(some[-1].ids[:, :half], ids[:, :half])
    assert not torch.equal(some[-1].ids[:, half:], others[-1].ids[:, half:])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_nan_in_the_logits_names_the_step(name, order, value):
    model = make_model(name, order)
    bound = make_order(model)

    def poison(module, arguments, output):
        return torch.full_like(output, value) if arguments[2].index == 1 else output

    model.register_forward_hook(poison)
    branch = Branch.of(model, bound, torch.arange(2), Guidance())
    states = generate([branch], bound, Categorical(), PerImageNoise([0, 1], "cpu"))
    next(states)
    with pytest.raises(FloatingPointError) as caught:
        next(states)
    assert f"in the logits at step 2 of {bound.num_steps}" in sentence(caught)


def test_tokens_that_are_ruled_out_are_no_error():
    step = make_order(make_model("llama", "raster")).step(0)
    fine = first_broken(torch.tensor([[[0.0, -torch.inf, 1.0]]]), step, None)
    assert int(fine) == step.num_steps
    assert int(first_broken(torch.full((1, 1, 3), -torch.inf), step, fine)) == 0


def test_a_cache_returns_every_row_up_to_the_last_written():
    order = make_order(make_model("var", "next_scale"))
    cache = StaticCache.allocate(CacheShape(2, 3, 4), 5, order.length, torch.float32, "cpu")
    assert isinstance(cache, Cache)
    for memory in cache.keys:
        memory.zero_()
    written = []
    for index in range(order.num_steps):
        step = order.step(index)
        part = torch.randn(5, 3, step.stop - step.start, 4)
        written.append(part)
        keys, values = cache.update(1, step, part, -part)
        assert torch.equal(keys, torch.cat(written, dim=2))
        assert torch.equal(values, -keys)
    assert (cache.keys[0] == 0).all()


def test_rows_of_a_cache_are_the_same_memory():
    cache = StaticCache.allocate(CacheShape(1, 1, 2), 4, 3, torch.float32, "cpu")
    cache.keys[0].zero_()
    cache.rows(2).keys[0].fill_(1)
    assert (cache.keys[0][:2] == 1).all()
    assert (cache.keys[0][2:] == 0).all()


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_what_was_in_the_memory_of_a_cache_is_never_read(name, order, monkeypatch):
    generator = make_generator(name, order, guidance_scale=2.0)
    clean = generator([0, 1], seeds=3, output_type="pixels").ids
    allocate = StaticCache.allocate

    def poisoned(*arguments):
        cache = allocate(*arguments)
        for memory in (*cache.keys, *cache.values):
            memory.fill_(torch.nan)
        return cache

    monkeypatch.setattr(StaticCache, "allocate", poisoned)
    assert torch.equal(generator([0, 1], seeds=3, output_type="pixels").ids, clean)


def test_the_cache_keeps_float32_where_steps_are_small():
    raster = make_order(make_model("llama", "raster"))
    tokenizer = make_tokenizer("multiscale_vq").at(square_grids([1, 2, 3, 4, 5, 6, 8, 10, 13, 16]))
    scales = NextScaleOrder(tokenizer, 1, "cpu")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert cache_dtype(torch.bfloat16, cpu, raster) == torch.float32
    assert cache_dtype(torch.bfloat16, cpu, scales) == torch.bfloat16
    assert cache_dtype(torch.bfloat16, cuda, raster) == torch.bfloat16
    assert cache_dtype(torch.float16, cpu, raster) == torch.float16
    assert cache_dtype(torch.float32, cpu, scales) == torch.float32


@pytest.mark.parametrize("order", ["raster", "random"])
def test_a_float32_cache_changes_nothing_beyond_rounding(order, monkeypatch):
    exact = make_model("rar", order)
    model = make_model("rar", order).to(torch.bfloat16)
    bound = make_order(exact)
    logits = []
    for one, dtype in ((exact, torch.float32), (model, torch.bfloat16), (model, torch.float32)):
        monkeypatch.setattr(loop_module, "cache_dtype", lambda *_, dtype=dtype: dtype)
        branch = Branch.of(one, bound, torch.tensor([0, 1]), Guidance(2.0))
        assert branch.cache.keys[0].dtype == dtype
        state = bound.start(PerImageNoise([0, 1], "cpu"))
        step = bound.next_step(state)
        steps = []
        while step is not None:  # the same tokens whatever the logits say
            with torch.no_grad():
                steps.append(guided_logits(branch, bound.inputs(state, step), step, 2))
            ids = (step.slots.expand(2, -1) * 3 + 1) % model.config.vocab_size
            state = bound.commit(state, step, Draw(ids, ids.float()), PerImageNoise([0, 1], "cpu"))
            step = bound.next_step(state)
        logits.append(torch.cat(steps, dim=1))
    plain, usual, kept = logits
    assert (kept - plain).norm() < 1.2 * (usual - plain).norm()
    assert not torch.equal(kept, usual)
