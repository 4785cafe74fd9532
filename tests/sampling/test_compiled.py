"""Captured steps give the ids of plain ones; on a CPU the trace stands in for CUDA graphs."""

import dataclasses

import pytest
import torch
from branches import guided_logits
from tiny import EVERY_MODEL, MODEL_CASES, make_condition, make_generator, make_model, make_order
from tiny import sentence as said

from arimage.ar.base import Draw, Known
from arimage.ar.registry import ORDERS
from arimage.sampling import compiled as compiled_module
from arimage.sampling import groups as groups_module
from arimage.sampling.capture import CaptureError, Inductor, Trace, traced
from arimage.sampling.compiled import SESSIONS, Captures
from arimage.sampling.groups import MovingStep, groups_of
from arimage.sampling.guidance import Guidance, Linear
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.base import Sampler
from arimage.sampling.samplers.categorical import Categorical

pytestmark = pytest.mark.untyped

LINEAR = Guidance(3.0, Linear())
SMALL = 6  # positions of a bucket here, so that tiny sequences have several


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    def small(order, cuts):
        return groups_of(order, SMALL, cuts)

    monkeypatch.setattr(compiled_module, "groups_of", small)


def ids_of(model, order, *, run=None, sampler=None, guidance=LINEAR, rows=(0, 1), seeds=(3, 4)):
    """What the loop chooses, captured or not."""
    with torch.no_grad():
        condition = make_condition(model, rows)
        branch = Branch.of(model, order, condition, guidance, allocate=run is None)
    noise = PerImageNoise(seeds, "cpu")
    *_, state = generate([branch], order, sampler or Categorical(), noise, None, run)
    return state.ids


def captures():
    return Captures(Trace(torch.device("cpu")))


@pytest.mark.parametrize(("name", "order"), EVERY_MODEL)
def test_captured_steps_choose_the_ids_of_plain_ones(name, order):
    model = make_model(name, order)
    few = {"num_steps": 5} if ORDERS[order].free_steps else {}
    bound, kept = make_order(model, **few), captures()
    for call in ({}, {"rows": (2, 0), "seeds": (8, 9)}, {"guidance": Guidance(1.7, Linear())}):
        plain = ids_of(model, bound, **call)
        assert torch.equal(ids_of(model, bound, run=kept.run(), **call), plain)
    assert len(kept.sessions) == 1
    (session,) = kept.sessions.values()
    assert len(session.replays) == len(session.groups)


def test_captured_steps_choose_parts_as_plain_ones():
    model = make_model("open_magvit2", "raster")
    bound, kept = make_order(model), captures()
    ids = []
    for later in ((2.0,), (1.0,), (9.0,)):
        guidance = Guidance(1.0, later=later)
        plain = ids_of(model, bound, guidance=guidance)
        assert torch.equal(ids_of(model, bound, run=kept.run(), guidance=guidance), plain)
        ids.append(plain)
    assert torch.equal(ids[0][:, 0] % 8, ids[1][:, 0] % 8)  # the first part of the first token
    assert not torch.equal(ids[0], ids[2])


SETTINGS = {
    "off": {"guidance": Guidance()},
    "top-k, top-p": {"sampler": Categorical(0.8, top_k=9, top_p=0.9)},
    "greedy": {"sampler": Categorical(0)},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("name", "order"), [("var", "next_scale"), ("llama", "raster")])
def test_whatever_the_settings(name, order, settings):
    model = make_model(name, order)
    bound, call = make_order(model), SETTINGS[settings]
    run = captures().run()
    assert torch.equal(ids_of(model, bound, run=run, **call), ids_of(model, bound, **call))


def test_mixed_codes_draw_as_many_numbers():
    model = make_model("var", "next_scale")
    bound, call = make_order(model), {"sampler": Categorical(top_k=5, more_smooth=True)}
    run = captures().run()
    assert torch.equal(ids_of(model, bound, run=run, **call), ids_of(model, bound, **call))


def test_raster_steps_share_graphs_by_the_end_of_their_bucket():
    bound = make_order(make_model("rar", "raster"))  # 17 positions, 2 of them in the first step
    groups = groups_of(bound, SMALL)
    assert [len(group.steps) for group in groups] == [1, 4, 6, 5]
    assert [group.mask.shape[-1] for group in groups] == [2, 6, 12, 17]
    for group in groups[1:]:
        for i, step in enumerate(group.steps):
            moving = group.step(torch.tensor([group.first + i]))
            assert isinstance(moving, MovingStep)
            assert torch.equal(moving.positions, step.positions)
            assert torch.equal(moving.slots, step.slots)
            assert int(moving.mask.sum()) == step.stop
    scales = make_order(make_model("var", "next_scale"))
    assert all(
        group.step(torch.tensor([i])) is scales.step(i) for i, group in enumerate(groups_of(scales))
    )
    assert groups_module.BUCKET == 64


def test_a_batch_size_is_captured_once_and_the_oldest_goes(monkeypatch):
    model, made = make_model("llama", "raster"), []
    monkeypatch.setattr(Trace, "__call__", lambda self, body, buffers: made.append(1) or body)
    bound, kept = make_order(model), captures()
    for batch in range(2, SESSIONS + 2):  # one image may go by other weights (ar/linear.py)
        ids_of(model, bound, run=kept.run(), rows=(0,) * batch, seeds=range(batch))
    once, first = len(made), next(iter(kept.sessions.values()))
    ids_of(model, bound, run=kept.run(), rows=(1, 2, 0), seeds=(5, 6, 7))
    assert len(made) == once
    ids_of(model, bound, run=kept.run(), rows=(0,) * 6, seeds=range(6))
    assert len(made) > once
    assert len(kept.sessions) == SESSIONS
    assert not first.buffers
    kept.free()
    assert kept.size == 0


class Peeks(Sampler):
    """Asks the host for a number, as a captured step may not."""

    def __call__(self, logits, step, noise):
        first = int(logits.argmax(-1)[0, 0])
        return Draw(torch.full(logits.shape[:2], first), logits[..., 0])

    def draws(self, step, vocab_size):
        return 0


class Bakes(Peeks):
    """Reads a Python number that differs from call to call."""

    number = 0

    def __call__(self, logits, step, noise):
        return Draw(torch.full(logits.shape[:2], Bakes.number), logits[..., 0])


class DrawsMore(Categorical):
    """Draws what it does not declare."""

    def __call__(self, logits, step, noise):
        noise.uniform(1)
        return super().__call__(logits, step, noise)


def test_a_step_that_waits_for_the_host_is_refused():
    model = make_model("llama", "raster")
    with pytest.raises(CaptureError, match="reads a tensor on the host"):
        ids_of(model, make_order(model), run=captures().run(), sampler=Peeks())


def test_a_number_that_is_baked_in_shows():
    model = make_model("llama", "raster")
    bound, kept, sampler = make_order(model), captures(), Bakes()
    same = []
    for Bakes.number in (3, 4):
        plain = ids_of(model, bound, sampler=sampler)
        same.append(torch.equal(ids_of(model, bound, run=kept.run(), sampler=sampler), plain))
    assert same == [True, False]


def test_a_sampler_that_draws_more_than_it_says_is_refused():
    model = make_model("llama", "raster")
    with pytest.raises(CaptureError, match="correct their draws"):
        ids_of(model, make_order(model), run=captures().run(), sampler=DrawsMore())


def test_the_recorded_step_is_one_graph_to_torch_compile(monkeypatch):
    """Without the code generator; the test on a CPU has it."""
    monkeypatch.setattr(Inductor, "options", {"cpu": {"backend": "eager"}})
    model = make_model("var", "next_scale")
    bound, kept = make_order(model), Captures(Inductor(torch.device("cpu")))
    for seeds in ((3, 4), (5, 6)):
        plain = ids_of(model, bound, seeds=seeds)
        assert torch.equal(ids_of(model, bound, run=kept.run(), seeds=seeds), plain)


UNCAPTURABLE = {
    "copies from the host": lambda x: x + torch.tensor([1.0, 2.0]),
    "shapes by data": lambda x: x[x > 0].sum() + x,
    "draws": lambda x: x + torch.rand(2),
}


@pytest.mark.parametrize("kind", UNCAPTURABLE)
def test_operations_that_graphs_cannot_hold_are_refused(kind):
    def body(buffers):
        buffers["x"].copy_(UNCAPTURABLE[kind](buffers["x"]))

    with pytest.raises(CaptureError):
        traced(body, {"x": torch.ones(2)})


def test_nan_names_the_step_and_the_next_call_is_clean():
    model = make_model("llama", "raster")
    bound, kept = make_order(model), captures()
    fine = ids_of(model, bound, run=kept.run())
    head = model.output.weight.detach().clone()
    with torch.no_grad():
        model.output.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 1 of 16"):
        ids_of(model, bound, run=kept.run())
    with torch.no_grad():
        model.output.weight.copy_(head)
    assert torch.equal(ids_of(model, bound, run=kept.run()), fine)


def test_two_generations_at_once_are_told_apart():
    generator = make_generator("llama", "raster").compile("trace")
    older = generator.sample([0], [1])
    next(older)
    next(generator.sample([0], [2]))
    with pytest.raises(RuntimeError) as caught:
        next(older)
    assert "taken over by another call" in said(caught)


@pytest.mark.parametrize(("name", "order"), [("var", "next_scale"), ("llama", "masked")])
def test_a_generator_edits_streams_and_decodes_compiled(name, order):
    generator = make_generator(name, order, guidance_scale=2.0)
    slots = generator.tokenizer.slots.num_slots
    known = Known(torch.randint(0, 32, (2, slots)), torch.rand(2, slots) < 0.5)
    call = {"class_labels": [0, 1], "seeds": [3, 4], "known": known}
    plain = list(generator.stream(**call))
    assert generator.compile("trace") is generator
    for before, after in zip(plain, generator.stream(**call), strict=True):
        assert torch.equal(before.ids, after.ids)
        gap = torch.tensor(list(before.images[0].tobytes())).sub(
            torch.tensor(list(after.images[0].tobytes()))
        )
        assert gap.abs().max() <= 1
    assert generator.held_bytes > 0
    assert generator.to("cpu").captures is None


def test_the_reference_noise_stays_plain_and_says_so():
    generator = make_generator("llama", "raster")
    plain = generator([0], seeds=3, rng="reference").ids
    generator.compile("trace")
    with pytest.warns(UserWarning, match="made without compilation"):
        *_, state = generator.sample([0], 3, rng="reference")
    assert torch.equal(state.ids, plain)


def test_modes_have_names():
    generator = make_generator("llama", "raster")
    assert generator.compile().captures is None
    with pytest.raises(KeyError, match="Did you mean 'graphs'"):
        generator.compile("graph")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_graphs_need_cuda():
    with pytest.raises(ValueError, match=r"'graphs' needs CUDA .* use 'compile' or 'off'"):
        make_generator("llama", "raster").compile("graphs")


def test_compiling_on_a_cpu_needs_a_compiler(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    generator = make_generator("llama", "raster")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler on a CPU and there is no"):
        generator.compile("compile")
    assert generator.captures is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of Inductor itself
@pytest.mark.parametrize("few", [0, 8])  # rows by plain weights: none, or all of a step
def test_compiled_on_a_cpu_ids_are_those_of_the_plain_path(few, monkeypatch):
    monkeypatch.setattr("arimage.ar.linear.FEW", few)
    monkeypatch.setattr(compiled_module, "groups_of", groups_of)
    model = make_model("llama", "raster")
    bound, kept = make_order(model), Captures(Inductor(torch.device("cpu")))
    for seeds in ((3, 4), (5, 6)):
        plain = ids_of(model, bound, seeds=seeds)
        assert torch.equal(ids_of(model, bound, run=kept.run(), seeds=seeds), plain)
    assert bool(model.blocks[0].qkv.packed is None) == bool(few)


def test_on_a_cpu_neither_decoders_nor_steps_that_come_once_are_compiled(monkeypatch):
    generator = make_generator("var", "next_scale", guidance_scale=2.0)
    plain = generator([0, 1], seeds=0, output_type="pixels")
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    generator.compile("compile")
    found = generator([0, 1], seeds=0, output_type="pixels")
    assert torch.equal(found.ids, plain.ids)
    assert (found.images == plain.images).all()


def test_joined_biases_are_the_blocks_own():
    model = make_model("var", "next_scale")
    assert model.prepare(torch.tensor([0])).biases is None  # gradients go through the blocks
    with torch.no_grad():
        context = model.prepare(torch.tensor([0, 1, 2]))
    for block, bias in zip(model.blocks, context.biases, strict=True):
        q, k, v = bias.chunk(3)
        assert torch.equal(q, block.q_bias)
        assert torch.equal(v, block.v_bias)
        assert not k.any()
    assert torch.equal(context.rows(1).biases, context.biases)


def test_settled_contexts_change_nothing():
    for name, order in [("rar", "raster"), ("llama_text", "raster")]:
        model = make_model(name, order)
        bound = make_order(model)
        branch = Branch.of(model, bound, make_condition(model, [0, 0]), LINEAR)
        wide = dataclasses.replace(branch, context=model.settled(branch.context))
        logits = [guided_logits(b, None, bound.step(0), 2).detach() for b in (branch, wide)]
        assert (logits[0] - logits[1]).abs().max() < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["graphs", "compile"])
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_on_cuda_ids_are_those_of_the_plain_path(name, order, mode):
    generator = make_generator(name, order, guidance_scale=2.0).to("cuda")
    labels = [0, 1, 2] * 4
    plain = generator(labels, seeds=0, output_type="pixels").ids
    generator.compile(mode)
    for _ in range(2):
        ids = generator(labels, seeds=0, output_type="pixels").ids
        rate = (ids == plain).float().mean().item()
        print(f"{name} {order} {mode}: {rate:.4f} of ids equal")
        assert rate == 1 if mode == "graphs" else rate > 0.95
    generator.compile("off")
