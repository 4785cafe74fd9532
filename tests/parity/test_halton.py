"""Halton-MaskGIT against recorded outputs of the reference (tests/golden/halton_maskgit)."""

import dataclasses

import numpy as np
import pytest
import torch
from published import case as recorded
from published import check_random_numbers, full_size, near
from tiny import Recorder, ToyFuser, sentence

from arimage.ar.base import UNKNOWN, Known
from arimage.ar.convert.halton import HaltonLayout
from arimage.ar.orders.halton import HaltonOrder, group_sizes, halton_path
from arimage.ar.orders.masked import MaskedOrder
from arimage.ar.registry import LAYOUTS
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise, ReferenceNoise
from arimage.sampling.settings import Settings
from arimage.sampling.temperature import Sharpening
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
# Sampler/halton_sampler.py: 16 x 16 and 24 x 24 cells, 32 steps
PATH_16 = [133, 74, 193, 39, 172, 99, 232, 30, 144, 85, 219, 50, 183, 125, 244, 9]
PATH_24 = [296, 160, 434, 82, 378, 221, 517, 45, 312, 176, 472, 99, 395, 259, 534, 14]
SIZES_16 = "5 5 5 5 5 5 5 6 5 5 6 5 6 5 6 6 6 6 6 7 6 7 7 8 8 8 9 10 11 14 17 41"


@pytest.fixture(scope="module")
def case():
    found = recorded("halton_maskgit")
    converted = HaltonLayout().convert(found.parts["transformer"], num_heads=6)
    found.model = HaltonLayout.model(converted.config).eval()
    found.model.load_state_dict(converted.weights)
    with torch.no_grad():
        yield found


def bind(case, cls=HaltonOrder, **options):
    fuser = ToyFuser(((4, 4),), 256, 4)
    return cls(fuser, 1, "cpu", **case.model.order_options, **options)


def logits(case, labels, order):
    ids = case.expected["masked_ids"].flatten(1)[: len(labels)]
    ids = ids.masked_fill(ids == 256, UNKNOWN)
    return case.model.head(case.model(ids, case.model.prepare(labels), order.full_step()))


def test_logits_of_half_masked_tokens(case):
    labels, expected, order = case.expected["labels"], case.expected, bind(case)
    assert near(logits(case, labels, order), expected["logits"])
    assert near(logits(case, torch.tensor([10]), order), expected["logits_uncond"])
    assert not near(logits(case, (labels + 1) % 10, order), expected["logits"])


def test_logits_are_computed_for_the_slots_of_a_step_alone(case):
    order = bind(case, num_steps=6, rolled=False)
    step, state = order.step(4), order.start(PerImageNoise([0, 1], "cpu"))
    context = case.model.prepare(case.expected["labels"])
    hidden = case.model(state.ids, context, step)
    assert hidden.shape[1] == step.predicts == 3
    whole = case.model(state.ids, context, order.full_step())
    assert torch.allclose(hidden, whole[:, step.slots], atol=1e-5)
    assert not torch.allclose(hidden, whole[:, step.slots + 1], atol=1e-2)


def test_the_path_is_the_references(case):
    row, column = case.expected["halton_order"].T
    assert torch.equal(halton_path(4, 4), row * 4 + column)
    assert halton_path(16, 16)[:16].tolist() == PATH_16
    assert halton_path(24, 24)[:16].tolist() == PATH_24
    assert halton_path(3, 5).sort().values.tolist() == list(range(15))


def test_the_steps_of_the_published_models():
    assert group_sizes(256, 32) == [int(size) for size in SIZES_16.split()]
    large = group_sizes(576, 32)
    assert (large[:3], large[-4:], sum(large)) == ([11, 11, 12], [25, 30, 39, 92], 576)


class NumpyNoise(ReferenceNoise):
    """Gumbel noise of numpy's global generator, as the confidence sampler draws it."""

    def __init__(self, seed):
        super().__init__([seed] * 2, "cpu")
        self.numpy = np.random.RandomState(seed)

    def gumbel(self, count, inverse=False):
        return torch.from_numpy(self.numpy.gumbel(size=(self.batch, count)))


def settings(call):
    """A recorded call of the Halton sampler in our words."""
    ramp = Sharpening(
        call["sm_temp_min"] / 1, call["sm_temp_max"] / 1, call["temp_pow"] / 1, call["temp_warmup"]
    )
    top_k = call["top_k"] if call["top_k"] > 0 else None
    return Settings(guidance_scale=1 + call["w"], temperature_schedule=ramp, top_k=top_k)


def sample(case, name, sampler=None, order=None, **changes):
    """The states of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    call = case.calls[name]
    if name == "confidence":
        order = bind(case, MaskedOrder, num_steps=6, choice_temperature=4.5, redraws=True)
        asked = Settings(guidance_scale=1.0 + call["w"], guidance_schedule="linear")
        noise = NumpyNoise(call["manual_seed"])
    else:
        order = order or bind(case, num_steps=call["step"], rolled=call["randomize"])
        asked, noise = settings(call), ReferenceNoise([call["manual_seed"]] * 2, "cpu")
    asked = asked.updated(changes)
    branch = Branch.of(case.model, order, case.expected["labels"], asked.guidance())
    return list(generate([branch], order, sampler or asked.make_sampler(), noise))


@pytest.mark.parametrize("name", ["halton", "halton_random", "halton_topk"])
def test_generation_along_the_path(case, name):
    states = sample(case, name)
    expected = case.expected
    assert torch.equal(states[-1].ids, expected[f"{name}_ids"])
    codes = torch.full((2, 16), UNKNOWN)
    for t, state in enumerate(states[:-1]):
        drawn, written = expected[f"{name}_steps"][:, t], expected[f"{name}_masks"][:, t].bool()
        codes = torch.where(written, drawn.masked_fill(drawn == 256, UNKNOWN), codes)
        assert torch.equal(state.ids, codes)


def test_generation_by_confidence(case):
    states, expected = sample(case, "confidence"), case.expected
    masked = torch.stack([state.ids == UNKNOWN for state in states[:-1]], dim=1)
    assert torch.equal(masked, expected["confidence_masks"][:, :-1].bool())
    assert torch.equal(states[-1].ids, expected["confidence_ids"])


CHANGES = (
    {"guidance_scale": 9.0},
    {"temperature": 2.0},
    {"temperature_schedule": Sharpening(2.0, 4.0)},
)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_gives_other_ids(case, change):
    assert not torch.equal(sample(case, "halton", **change)[-1].ids, case.expected["halton_ids"])


def test_drawing_for_the_slots_of_a_step_alone_takes_other_numbers(case, monkeypatch):
    monkeypatch.setattr(HaltonOrder, "stream", lambda self, noise, step: noise)
    assert not torch.equal(sample(case, "halton")[-1].ids, case.expected["halton_ids"])


def test_a_path_that_begins_elsewhere_gives_other_ids(case):
    order = bind(case, num_steps=6, rolled=True)
    assert not torch.equal(sample(case, "halton", order=order)[-1].ids, case.expected["halton_ids"])


def test_the_mask_token_may_be_drawn_and_is_the_last_code_in_the_end(case):
    order = bind(case, sizes=[4, 12], rolled=False)
    mask, noise = case.model.config.vocab_size, PerImageNoise([0], "cpu")

    @dataclasses.dataclass(frozen=True)
    class Masks(Recorder):
        def __call__(self, logits, step, noise):
            draw = super().__call__(logits, step, noise)
            return dataclasses.replace(draw, ids=torch.full_like(draw.ids, mask))

    branch = Branch.of(case.model, order, torch.tensor([0]), Settings().guidance())
    ids = torch.arange(16)[None]
    known = Known(ids, ids == order.path[0])
    first, last = generate([branch], order, Masks(), noise, known)
    assert first.ids.flatten()[order.path[1:4]].tolist() == [UNKNOWN] * 3
    assert first.ids.flatten()[order.path[0]] == order.path[0]
    assert last.ids.flatten()[order.path[1:]].unique().tolist() == [mask - 1]


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("halton-")])
def test_full_size_transformers_load_strictly(name):
    """The recorded manifests; other grids have other numbers of positions."""
    preset = PRESETS[name]
    weights = dict(full_size(f"halton_{name.split('-')[1]}", "halton_maskgit"))
    side = preset.scales[0]
    width = weights["pos_emb.weight"].shape[1]
    weights["pos_emb.weight"] = torch.empty(side * side, width, device="meta")
    converted = HaltonLayout().convert(weights, **preset.hints)
    assert converted.dropped == ["head.weight"]
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert list(converted.config.grid) == [side, side]


def test_the_small_size_has_heads_that_do_not_fill_its_width():
    weights = full_size("halton_small", "halton_maskgit")
    config = HaltonLayout().convert(dict(weights)).config
    assert (config.width, config.num_heads, config.head_dim) == (512, 6, 85)


def test_a_file_is_recognised_as_halton_alone(case):
    found = [name for name in LAYOUTS if LAYOUTS[name]().recognizes(case.parts["transformer"])]
    assert found == ["halton"]


def test_files_that_do_not_fit_are_told(case):
    weights = case.parts["transformer"]
    with pytest.raises(ValueError) as caught:
        HaltonLayout().convert(weights)
    assert "width is 128 and nothing in it says how many heads" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        HaltonLayout().convert(weights | {"head.weight": weights["head.weight"] + 1}, num_heads=6)
    assert "head is not its token embedding" in sentence(caught)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": [1, 3, 11]}, "got steps of 15 tokens in all"),
        ({"sizes": [1, 0, 15]}, "the smallest of 0"),
        ({"num_steps": 17}, "got num_steps 17"),
        ({"num_steps": 0}, "takes 1 to 16 steps"),
    ],
)
def test_steps_that_do_not_sum_to_the_grid_are_told(case, options, words):
    with pytest.raises(ValueError) as caught:
        bind(case, **options)
    assert words in sentence(caught)
