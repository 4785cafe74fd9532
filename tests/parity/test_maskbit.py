"""MaskBit against recorded outputs of the reference (tests/golden/maskbit); with negative twins."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from published import case as recorded
from published import check_random_numbers, full_size, near
from tiny import ToyFuser, sentence

from arimage.ar.base import UNKNOWN, Draw, State
from arimage.ar.convert.maskbit import MaskBitLayout
from arimage.ar.maskbit import MaskBitConfig
from arimage.ar.orders.bits import BitOrder
from arimage.ar.registry import LAYOUTS
from arimage.ar.subtokens import join_open, split_open
from arimage.parts import make_order
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise, ReferenceNoise
from arimage.sampling.settings import Settings
from arimage.tokenizers.convert.maskbit import MaskBitTokenizerLayout
from arimage.tokenizers.registry import LAYOUTS as TOKENIZER_LAYOUTS
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
DRAW = Draw(torch.zeros(1, 1, dtype=torch.long), torch.rand(1, 512).log())
SEEDED = ("seeded", "seeded_linear", "seeded_no_cfg")


@pytest.fixture(scope="module")
def case():
    found = recorded("maskbit")
    for part, layout, hints in (
        ("generator", MaskBitLayout(), {"num_heads": 4}),
        ("tokenizer", MaskBitTokenizerLayout(), {"image_size": 64}),
    ):
        converted = layout.convert(found.parts[part], **hints)
        model = layout.model(converted.config).eval()
        model.load_state_dict(converted.weights)
        setattr(found, part, model)
    with torch.no_grad():
        yield found


def test_the_config_is_what_the_reference_was_built_with(case):
    ours, theirs = case.generator.config, case.config["generator"]
    assert (ours.depth, ours.width, ours.mlp_hidden) == (2, theirs["hidden_dim"], theirs["mlp_dim"])
    assert (ours.vocab_size, ours.splits) == (theirs["codebook_size"], theirs["codebook_splits"])
    assert (ours.num_classes, *ours.grid) == (theirs["nclass"], 4, 4)


def test_the_tokenizer_encodes_and_decodes(case):
    expected, images = case.expected, case.expected["image"] * 2 - 1
    latents = case.tokenizer.encode_latents(images)
    assert near(latents.flip(1), expected["pre_quant"])
    assert not near(latents, expected["pre_quant"])
    assert torch.equal(case.tokenizer.encode(images), expected["encode_ids"])
    canvas = case.tokenizer.quantize(latents).codes
    assert near((case.tokenizer.decode_canvas(canvas) + 1) / 2, expected["decoded"])
    assert not near((case.tokenizer.decode_canvas(canvas.flip(1)) + 1) / 2, expected["decoded"])


def partly_known(case):
    parts = case.expected["masked_ids"]
    return join_open(parts.masked_fill(parts == 32, UNKNOWN), 32)


def logits(case, ids, labels):
    """(b, slots, splits, values)."""
    step = make_order(case.tokenizer, case.generator).full_step()
    hidden = case.generator(ids, case.generator.prepare(labels), step)
    return case.generator.head(hidden).unflatten(1, (-1, 2))


def test_logits_of_half_masked_entries(case):
    expected, ids = case.expected, partly_known(case)
    labels = expected["labels"]
    assert near(logits(case, ids, labels), expected["logits"])
    assert near(logits(case, ids[:1], torch.tensor([10])), expected["logits_uncond"])
    assert not near(logits(case, ids, (labels + 1) % 10), expected["logits"])
    forgotten = ids.masked_fill(ids < 0, UNKNOWN)  # entries that are known beside an open one
    assert not torch.equal(forgotten, ids)
    assert not near(logits(case, forgotten, labels), expected["logits"])


def test_ids_fall_into_entries_and_come_back(case):
    expected = case.expected
    parts = expected["masked_ids"].masked_fill(expected["masked_ids"] == 32, UNKNOWN)
    assert torch.equal(split_open(join_open(parts, 32), 2, 32), parts)
    known = expected["split_ids"]
    assert torch.equal(split_open(join_open(known, 32), 2, 32), known)
    assert join_open(torch.full((1, 3, 2), UNKNOWN), 32).unique().tolist() == [UNKNOWN]
    assert (join_open(parts, 32)[(parts == UNKNOWN).any(-1)] < 0).all()


def settings(call):
    """A recorded call in our words."""
    annealing = {"cosine": {"name": "power_cosine", "power": call["scale_pow"]}}
    annealing |= {"linear": "linear_before", "none": "constant"}
    return Settings.from_json(
        {
            "guidance_scale": 1 + call["guidance_scale"],
            "guidance_schedule": annealing[call["guidance_annealing"]],
            "temperature_schedule": "falling" if call["use_sampling_annealing"] else "constant",
            "num_steps": call["num_steps"],
            "choice_temperature": call["randomize_temperature"],
        }
    )


def sample(case, name, schedule=None, **changes):
    """The states of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    call = case.calls[name]
    asked = settings(call).updated(changes)
    model = case.generator
    options = model.order_options | {"schedule": schedule or call["mask_schedule_strategy"]}
    order = BitOrder(case.tokenizer, 1, "cpu", **options, **asked.order_options)
    branch = Branch.of(model, order, case.expected["labels"], asked.guidance())
    noise = ReferenceNoise([call["manual_seed"]] * 2, "cpu")
    states = list(generate([branch], order, asked.make_sampler(), noise))
    return order, states


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_generation(case, name):
    order, states = sample(case, name)
    assert torch.equal(states[-1].ids, case.expected[f"{name}_ids"])
    open_before = [order.num_entries, *(int((order.entries(s.ids[:1]) < 0).sum()) for s in states)]
    assert open_before[:-1] == case.calls[name]["masked_before_each_step"]
    for t, state in enumerate(states):
        kept = order.entries(state.ids)
        steps = case.expected[f"{name}_steps"][:, t].flatten(1)
        assert torch.equal(kept[kept >= 0], steps[kept >= 0])


@pytest.mark.parametrize("name", SEEDED[:1])
def test_the_image_of_a_generation(case, name):
    _, states = sample(case, name)
    images = (case.tokenizer.decode_canvas(states[-1].canvas) + 1) / 2
    assert near(F.avg_pool2d(images, 8), case.expected[f"{name}_image_pooled"])


CHANGES = ({"guidance_scale": 2.0}, {"choice_temperature": 0.5}, {"temperature": 2.0})


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_gives_other_ids(case, change):
    assert not torch.equal(sample(case, "seeded", **change)[1][-1].ids, case.expected["seeded_ids"])


def test_another_schedule_gives_other_ids(case):
    _, states = sample(case, "seeded", schedule="cosine")
    assert not torch.equal(states[-1].ids, case.expected["seeded_ids"])


def test_gumbel_noise_by_another_rule_gives_other_ids(case, monkeypatch):
    by_race = ReferenceNoise.gumbel
    monkeypatch.setattr(ReferenceNoise, "gumbel", lambda self, n, inverse: by_race(self, n))
    assert not torch.equal(sample(case, "seeded")[1][-1].ids, case.expected["seeded_ids"])


@pytest.mark.parametrize(("schedule", "steps", "side"), [("cosine", 6, 3), ("linear", 5, 5)])
def test_shares_are_counted_in_float32(schedule, steps, side):
    """modeling/modules/masking.py get_masking_ratio, of a tensor of the progress."""
    order = BitOrder(
        ToyFuser(((side, side),), 4, 4), 1, "cpu", steps, schedule=schedule, splits=2, size=2
    )
    is_open, ids = torch.ones(1, 2 * side**2, dtype=torch.bool), torch.zeros(1, side**2).long() - 1
    state, left, double = State(ids, torch.zeros(1), 0), [], []
    for index in range(steps - 1):
        r = torch.tensor((index + 1) / steps)
        share = torch.cos(r * math.pi * 0.5) if schedule == "cosine" else 1 - r
        left.append(int(torch.floor(share * is_open.numel())))
        done = (index + 1) / steps
        exact = math.cos(math.pi / 2 * done) if schedule == "cosine" else 1 - done
        double.append(int(exact * is_open.numel()))
        assert 2 * side**2 - int(order._to_keep(state, is_open, index)) == left[-1]
    assert left != double


def test_the_steps_of_the_published_models():
    order = BitOrder(ToyFuser(((16, 16),), 4, 4), 1, "cpu", splits=2, size=2)
    noise, sizes = PerImageNoise([0], "cpu"), []
    state = order.start(noise)
    left = order.num_entries
    while (step := order.next_step(state)) is not None:
        ids = torch.zeros(1, 512, dtype=torch.long)
        state = order.commit(state, step, dataclasses.replace(DRAW, ids=ids), noise)
        now = int((order.entries(state.ids) < 0).sum())
        sizes.append(left - now)
        left = now
    assert (len(sizes), sum(sizes)) == (64, 512)
    assert sizes[:10] == [6, *[5] * 8, 6]
    assert sizes[-4:] == [15, 19, 24, 57]


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("maskbit-")])
def test_full_size_generators_load_strictly(name):
    preset = PRESETS[name]
    weights = full_size(f"maskbit_generator_{preset.variant}", "maskbit")
    converted = MaskBitLayout().convert(dict(weights), **preset.hints)
    assert converted.dropped == ["bits_to_indices"]
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    config = converted.config
    assert (config.vocab_size, *config.grid) == (2 ** int(preset.variant[:2]), 16, 16)
    assert config.head_dim == 64


@pytest.mark.parametrize("bits", [10, 14, 18])
def test_full_size_tokenizers_load_strictly(bits):
    weights = full_size(f"maskbit_tokenizer_{bits}bit", "maskbit")
    converted = MaskBitTokenizerLayout().convert(dict(weights))
    assert converted.dropped == ["quantize.codebook"]
    counted = sum(v.numel() for v in converted.weights.values() if v.is_floating_point())
    assert counted == PRESETS[f"maskbit-{bits}bit"].parameters[1]
    assert converted.config.vocab_size == 2**bits


def test_files_are_recognised_as_maskbits_alone(case):
    for part, layouts in (("generator", LAYOUTS), ("tokenizer", TOKENIZER_LAYOUTS)):
        assert [n for n in layouts if layouts[n]().recognizes(case.parts[part])] == ["maskbit"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vocab_size": 60}, "got vocab_size 60 and splits 2"),
        ({"vocab_size": 32}, "bits that are a multiple of splits"),
        ({"order": "masked"}, "unknown order of MaskBitConfig 'masked'"),
    ],
)
def test_what_is_no_bit_token_is_told(fields, words):
    with pytest.raises(ValueError) as caught:
        MaskBitConfig(**fields)
    assert words in sentence(caught)


def test_a_schedule_longer_than_the_entries_is_told(case):
    with pytest.raises(ValueError) as caught:
        make_order(case.tokenizer, case.generator, num_steps=33)
    assert "got num_steps 33; this order takes 1 to 32 steps" in sentence(caught)
