"""TiTok's generators against recorded outputs of the reference (tests/golden/titok)."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from published import case as recorded
from published import check_random_numbers, full_size, near
from tiny import sentence

from arimage.ar.base import UNKNOWN
from arimage.ar.convert.titok import TiTokLayout, TiTokUViTLayout
from arimage.ar.registry import LAYOUTS
from arimage.ar.titok import TiTokUViTConfig
from arimage.parts import make_order
from arimage.sampling.guidance import PowerCosine
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import ReferenceNoise
from arimage.sampling.settings import Settings
from arimage.tokenizers.convert.titok import TiTokTokenizerLayout
from arimage.tokenizers.titok import TiTokTokenizer
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
KINDS = {"generator_vit": TiTokLayout(), "generator_uvit": TiTokUViTLayout()}
SEEDED = ("seeded_linear", "seeded_powcos", "seeded_constant", "no_noise")


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    """A generator and the two-stage tokenizer; what was recorded, under names without its own."""
    found, name = recorded("titok"), request.param
    converted = TiTokTokenizerLayout().convert(found.parts["tokenizer_legacy"], num_heads=4)
    tokenizer = TiTokTokenizer(converted.config).eval()
    tokenizer.load_state_dict(converted.weights)
    layout = KINDS[name]
    converted = layout.convert(found.parts[name], num_heads=4)
    model = layout.model(converted.config).eval()
    model.load_state_dict(converted.weights)
    expected = {k.partition(".")[2]: v for k, v in found.expected.items() if k.startswith(name)}
    calls = {k.partition(".")[2]: v for k, v in found.calls.items() if k.startswith(name)}
    with torch.no_grad():
        yield SimpleNamespace(
            model=model,
            tokenizer=tokenizer,
            calls=calls,
            theirs=found.config[name],
            expected=expected,
            probe=found.expected["rng_probe"],
        )


def test_the_config_is_what_the_reference_was_built_with(case):
    ours, theirs = case.model.config, case.theirs
    extra = isinstance(ours, TiTokUViTConfig)
    assert (ours.depth - extra, ours.width) == (theirs["num_hidden_layers"], theirs["hidden_size"])
    assert (ours.num_heads, ours.mlp_hidden) == (
        theirs["num_attention_heads"],
        theirs["intermediate_size"],
    )
    assert (ours.vocab_size, ours.num_classes, *ours.grid) == (256, 10, 1, 16)


def logits(case, labels, ids):
    step = make_order(case.tokenizer, case.model).full_step()
    hidden = case.model(ids, case.model.prepare(labels), step)
    return case.model.head(hidden)[..., ::8]


def test_logits_of_masked_tokens(case):
    expected = case.expected
    ids, labels = expected["masked_ids"], expected["labels"]
    ids = ids.masked_fill(ids == 256, UNKNOWN)
    assert near(logits(case, labels, ids), expected["logits"])
    assert near(logits(case, torch.tensor([10]), ids), expected["logits_uncond"])
    assert not near(logits(case, (labels + 1) % 10, ids), expected["logits"])
    assert not near(logits(case, labels, ids.flip(1)), expected["logits"])


def settings(call):
    """A recorded call in our words."""
    decay, scale = call["guidance_decay"], call["guidance_scale"]
    schedules = {"linear": "linear_before", "constant": "constant"}
    schedules["power-cosine"] = PowerCosine(call.get("guidance_scale_pow", 3.0))
    falls = call.get("softmax_temperature_annealing", False)
    return Settings(
        sampler="annealed",
        guidance_scale=scale if decay == "power-cosine" else 1 + scale,
        guidance_schedule=schedules[decay],
        temperature_schedule="falling" if falls else "constant",
        num_steps=call["num_sample_steps"],
        choice_temperature=call["randomize_temperature"],
    )


def sample(case, name, **changes):
    """The states of a recorded call."""
    check_random_numbers(case.probe)
    call = case.calls[name]
    asked = settings(call).updated(changes)
    order = make_order(case.tokenizer, case.model, **asked.order_options)
    branch = Branch.of(case.model, order, case.expected["labels"], asked.guidance())
    noise = ReferenceNoise([call["manual_seed"]], "cpu")
    return list(generate([branch], order, asked.make_sampler(), noise))


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_generation(case, name):
    states = sample(case, name)
    assert torch.equal(states[-1].ids, case.expected[f"{name}_ids"])
    left = [16, *(int((state.ids < 0).sum()) for state in states)]
    assert left[:-1] == case.calls[name]["masked_before_each_step"]
    assert left[-1] == 0
    image = (case.tokenizer.decode_canvas(states[-1].canvas) + 1) / 2
    assert near(F.avg_pool2d(image, 8), case.expected[f"{name}_image_pooled"])


CHANGES = (
    {"guidance_scale": 2.0},
    {"guidance_schedule": PowerCosine(3.0)},
    {"choice_temperature": 0.5},
    {"temperature_schedule": "falling"},
    {"sampler": "categorical"},
)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_gives_other_ids(case, change):
    ids = sample(case, "seeded_linear", **change)[-1].ids
    assert not torch.equal(ids, case.expected["seeded_linear_ids"])


def test_without_the_numbers_that_they_do_not_use_the_ids_differ(case, monkeypatch):
    monkeypatch.setattr(type(case.model), "pass_draws", 0)
    ids = sample(case, "seeded_linear")[-1].ids
    assert not torch.equal(ids, case.expected["seeded_linear_ids"])


SIZES = {  # depth, width, hidden units, tokens
    "l32": ("titok_vit", 24, 768, 3072, 32),
    "s128": ("titok_uvit", 21, 1024, 4096, 128),
}


@pytest.mark.parametrize("size", SIZES)
def test_full_size_generators_load_strictly(size):
    weights, preset = full_size(f"generator_titok_{size}", "titok"), PRESETS[f"titok-{size}"]
    layout, *numbers, tokens = SIZES[size]
    assert [name for name in LAYOUTS if LAYOUTS[name]().recognizes(weights)] == [layout]
    converted = LAYOUTS[layout]().convert(weights, **preset.hints)
    config = converted.config
    assert [config.depth, config.width, config.mlp_hidden] == numbers
    assert (config.num_heads, *config.grid) == (16, 1, tokens)
    assert (config.vocab_size, config.num_classes) == (4096, 1000)
    count = sum(value.numel() for value in converted.weights.values())
    assert count == preset.parameters[0]
    types = 2 * config.width if size == "l32" else 0  # added to the positions, or never fed
    assert sum(value.numel() for value in weights.values()) == count + types
    assert converted.dropped == []


@pytest.mark.parametrize("size", ["l32", "b64", "s128"])
def test_parameters_of_the_presets(size):
    weights = full_size(f"tokenizer_titok_{size}", "titok")
    converted = TiTokTokenizerLayout().convert(weights)
    count = sum(value.numel() for value in converted.weights.values())
    assert count == PRESETS[f"titok-{size}"].parameters[1]


@pytest.mark.parametrize(
    ("size", "change", "words"),
    [
        ("l32", {"blocks.0.mamba.x": (1,)}, "1 left over (blocks.0.mamba.x)"),
        ("l32", {"model.lm_head.bias": None}, "1 missing (output.bias)"),
        ("l32", {"model.embeddings.token_type_embeddings.weight": None}, "lacks model.embeddings"),
        ("s128", {"mid_block.attn.proj.bias": None}, "1 missing (blocks.10.project.bias)"),
        ("s128", {"out_blocks.3.skip_linear.bias": (5,)}, "(blocks.14.join.bias [5], not [1024])"),
    ],
)
def test_a_file_that_does_not_fit_is_told(size, change, words):
    weights = dict(full_size(f"generator_titok_{size}", "titok"))
    for key, shape in change.items():
        weights.pop(key, None)
        if shape is not None:
            weights[key] = torch.empty(shape, device="meta")
    with pytest.raises(ValueError) as caught:
        LAYOUTS[SIZES[size][0]]().convert(weights)
    assert words in sentence(caught)


def test_another_depth_and_an_even_one_are_told():
    with pytest.raises(ValueError) as caught:
        TiTokLayout().convert(full_size("generator_titok_l32", "titok"), depth=12)
    assert "holds a TiTok transformer of depth 24, not 12" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        TiTokUViTConfig(depth=4)
    assert "got depth 4; a U-ViT has two equal halves" in sentence(caught)
