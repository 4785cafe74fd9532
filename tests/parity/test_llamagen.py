"""LlamaGen, of classes and of text, against recorded outputs of the reference (tests/golden)."""

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from published import case, check_random_numbers, full_size, near, save_part
from tiny import Recorder

from arimage.ar.convert import llamagen as layouts
from arimage.ar.convert.llamagen import LlamaGenLayout, LlamaGenTextLayout
from arimage.ar.llama_text import full_length
from arimage.generator import ImageGenerator
from arimage.sampling.guidance import Guidance, Interval
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise
from arimage.text import TextFeatures
from arimage.tokenizers.base import ImageTokenizer
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
CLASSES, TEXT = "llamagen_c2i", "llamagen_t2i"
SEEDED = [
    *((CLASSES, f"seeded_{name}") for name in ("topk", "plain", "topp_temp", "cfg_interval")),
    *((CLASSES, "seeded_no_cfg"), (TEXT, "seeded"), (TEXT, "seeded_no_cfg")),
]


def load(name, folder, **hints):
    """A generator with the transformer of a case and the one tokenizer that was recorded."""
    layout = {CLASSES: LlamaGenLayout(), TEXT: LlamaGenTextLayout()}[name]
    size = hints.get("scales", [4])[0]
    converted = layout.convert(case(name).parts["gpt"], num_heads=4, **{"scales": [4], **hints})
    transformer = layout.model(converted.config)
    transformer.load_state_dict(converted.weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(folder / "home"))
        path = save_part(CLASSES, "vq", folder)
        tokenizer = ImageTokenizer.from_pretrained(path, image_size=16 * size)
    return ImageGenerator(tokenizer, transformer)


@pytest.fixture(scope="module", params=[CLASSES, TEXT])
def found(request, tmp_path_factory):
    found = case(request.param)
    found.generator = load(request.param, tmp_path_factory.mktemp(request.param))
    if request.param == CLASSES:
        found.asked = {"class_labels": found.expected["gen_labels"].tolist()}
        found.condition = found.expected["gen_labels"]
    else:
        found.condition = TextFeatures(found.expected["caption"], found.expected["emb_masks"])
        found.asked = {"prompts": found.condition}
    with torch.no_grad():
        yield found


def test_the_config_is_what_the_reference_was_built_with(found):
    config, theirs = found.generator.transformer.config, found.config
    assert (config.depth, config.width) == (theirs["n_layer"], theirs["dim"])
    assert (config.num_heads, config.mlp_hidden) == (theirs["n_head"], theirs["ffn_hidden"])
    assert (config.vocab_size, config.norm_eps) == (theirs["vocab_size"], theirs["norm_eps"])
    assert config.num_classes == theirs.get("num_classes", 0)
    if found.name == TEXT:
        assert config.text_tokens == theirs["cls_token_num"]
        assert config.text_width == theirs["caption_dim"]


def logits(found, condition, forward=None):
    """Teacher-forced logits of the 16 tokens, as they are kept."""
    transformer, step = found.generator.transformer, found.generator.order().full_step()
    ids = found.expected["encode_ids" if found.name == CLASSES else "tf_ids"]
    context = transformer.prepare(condition)
    inputs = ids[: len(context.prefix), :-1]
    hidden = transformer(inputs, context, step)
    if forward is not None:
        hidden = forward(transformer, inputs, context, step)
    return transformer.head(hidden)[..., ::8]


def test_teacher_forced_logits(found):
    expected = found.expected["logits"][:, :16]  # the last row lies beyond the image
    if found.name == CLASSES:
        labels = found.expected["labels"]
        assert near(logits(found, labels), expected)
        assert not near(logits(found, labels.flip(0)), expected)
        null = logits(found, torch.tensor([found.config["num_classes"]]))
        assert near(null, found.expected["logits_uncond"][:, :16])
        return
    every = TextFeatures(found.expected["caption"], torch.ones(2, 120))  # as it was recorded
    assert near(logits(found, every), expected)
    assert near(logits(found, every, full_length), expected)
    assert not near(logits(found, found.condition), expected)


def test_the_padding_of_the_encoder_and_of_the_reference_are_alike():
    expected = case(TEXT).expected
    right = TextFeatures(expected["caption_right"], expected["mask_right"]).right_aligned()
    left = TextFeatures(expected["caption"], expected["emb_masks"])
    tokens = right.mask.shape[1]
    assert tokens == int(expected["mask_right"].sum(1).max()) < 120
    assert torch.equal(right.features, left.features[:, -tokens:])
    assert torch.equal(right.mask, left.mask[:, -tokens:])


def settings(call):
    """A recorded call in our words."""
    interval = call.get("cfg_interval", -1)
    return {
        "guidance_scale": call["cfg_scale"],
        "guidance_schedule": Interval(last=interval + 1) if interval >= 0 else "constant",
        "temperature": call["temperature"] if call["sample_logits"] else 0.0,
        "top_k": call["top_k"] or None,
        "top_p": None if call["top_p"] == 1 else call["top_p"],
        "rng": "reference",
    }


def sample(found, name, **changes):
    """The final state of a recorded call, and its image."""
    check_random_numbers(found.expected["rng_probe"])
    call = found.calls[name]
    asked = {"class_labels": None, **found.asked}
    seeds = call.get("manual_seed", 0)
    *_, state = found.generator.sample(seeds=seeds, **asked, **settings(call) | changes)
    return state.ids, found.generator.tokenizer.decode_canvas(state.canvas)


def test_greedy_generation(found):
    ids, image = sample(found, "greedy")
    assert torch.equal(ids, found.expected["greedy_ids"])
    if found.name == CLASSES:
        assert near(image[..., ::4, ::4], found.expected["greedy_image"])


def test_guided_logits(found):
    transformer, recorder = found.generator.transformer, Recorder()
    guidance = Guidance(found.calls["greedy"]["cfg_scale"])
    order, noise = found.generator.order(), PerImageNoise([0, 1], "cpu")
    branch = Branch.of(transformer, order, found.condition, guidance)
    for _ in generate([branch], order, recorder, noise):
        pass
    expected = found.expected["greedy_cfg_logits"]
    assert near(torch.cat(recorder.logits, dim=1)[: len(expected), :, ::8], expected)


@pytest.mark.parametrize(("found", "name"), SEEDED, indirect=["found"])
def test_seeded_generation(found, name):
    ids, image = sample(found, name)
    assert torch.equal(ids, found.expected[f"{name}_ids"])
    if f"{name}_image_pooled" in found.expected:
        pooled = F.avg_pool2d(image, 8)[..., ::2, ::2]
        assert near(pooled, found.expected[f"{name}_image_pooled"])


@pytest.mark.parametrize(
    "change", [{"rng": "per_image"}, {"guidance_scale": 9.0}, {"top_k": 3}], ids=str
)
def test_another_setting_gives_other_ids(found, change):
    name = "seeded_topk" if found.name == CLASSES else "seeded"
    ids, _ = sample(found, name, **change)
    assert not torch.equal(ids, found.expected[f"{name}_ids"])


@pytest.mark.parametrize("found", [TEXT], indirect=True)
def test_null_rows_see_as_much_as_their_prompt(found, monkeypatch):
    """The reference masks null text as the prompt beside it; all of it gives other images."""
    transformer = found.generator.transformer

    def whole(condition):
        text, null = condition.right_aligned(), transformer.nothing()
        pad = 120 - text.mask.shape[1]
        features, mask = F.pad(text.features, (0, 0, pad, 0)), F.pad(text.mask, (pad, 0))
        both = torch.cat([features, null.features.expand(2, -1, -1)])
        return TextFeatures(both, torch.cat([mask, null.mask.expand(2, -1)]))

    monkeypatch.setattr(transformer, "with_null", whole)
    ids, _ = sample(found, "seeded")
    assert not torch.equal(ids, found.expected["seeded_ids"])


def test_the_same_weights_on_a_larger_grid(tmp_path):
    found = case(CLASSES)
    found.generator = load(CLASSES, tmp_path, scales=[5])
    found.asked = {"class_labels": found.expected["gen_labels"].tolist()}
    ids, image = sample(found, "greedy_larger_grid")
    assert torch.equal(ids, found.expected["greedy_larger_grid_ids"])
    assert image.shape[-2:] == (80, 80)


SIZES = {
    name: preset
    for name, preset in PRESETS.items()
    if "llamagen" in name and "randar" not in name and preset.repo
}


@pytest.mark.parametrize("name", SIZES)
def test_full_size_transformers_load_strictly(name):
    preset = SIZES[name]
    text = bool(preset.text_encoder)
    size = preset.variant.split("-")[1]
    manifest = full_size(f"llamagen_{'t' if text else 'c'}2i_GPT-{size}", TEXT if text else CLASSES)
    layout = LlamaGenTextLayout() if text else LlamaGenLayout()
    converted = layout.convert(manifest, **preset.hints)
    config = converted.config
    assert not converted.dropped
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert config.head_dim == (100 if size == "3B" else 64)
    assert list(config.grid) == [preset.image_size // 16] * 2
    assert config.num_classes == (0 if text else 1000) == preset.num_classes
    assert config.vocab_size == 16384
    assert (preset.text_encoder or None) == getattr(config, "text_encoder", None)


CHANGES = [
    ({"spe_tok_embeddings.special_embeddings.weight": 3}, "1 left over (spe_tok_embeddings"),
    ({"norm.weight": None}, "1 missing (norm.weight)"),
    ({"norm.weight": 5}, "1 of another shape (norm.weight [5], not [768])"),
    ({"layers.0.feed_forward.w1.weight": None}, "lacks layers.0.feed_forward.w1.weight"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_key_more_or_less_is_an_error(change, words):
    weights = dict(full_size("llamagen_c2i_GPT-B", CLASSES))
    for key, size in change.items():
        weights.pop(key, None)
        if size is not None:
            weights[key] = torch.empty(size, device="meta")
    with pytest.raises(ValueError) as caught:
        LlamaGenLayout().convert(weights, scales=[16])
    assert words in str(caught.value)


def test_what_is_dropped_has_a_reason():
    weights = dict(full_size("llamagen_c2i_GPT-B", CLASSES))
    extra = ("freqs_cis", "layers.3.attention.kv_cache.k_cache", "causal_mask")
    weights |= {key: torch.empty(2, device="meta") for key in extra}
    converted = LlamaGenLayout().convert(weights, scales=[16])
    assert sorted(converted.dropped) == sorted(extra)
    assert all(LlamaGenLayout.droppable.values())


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        ({}, "width 128, which is no published size, and no key says how many heads"),
        ({"num_heads": 5}, "width 128 is not a multiple of num_heads 5"),
        ({"num_heads": 64}, "head_dim 2"),
        ({"num_heads": 4, "depth": 12}, "of depth 3, not 12"),
        ({"num_heads": 4, "scales": (1, 2)}, "got scales 1, 2; a LlamaGen has one token map"),
    ],
)
def test_hints_that_do_not_fit_are_told(hints, words):
    with pytest.raises(ValueError) as caught:
        LlamaGenLayout().convert(case(CLASSES).parts["gpt"], **{"scales": [4], **hints})
    assert words in str(caught.value)


def test_a_grid_that_nobody_says_is_assumed_aloud():
    with pytest.warns(UserWarning, match="16 x 16 tokens, 256 px, are taken"):
        config = LlamaGenLayout().convert(case(CLASSES).parts["gpt"], num_heads=4).config
    assert list(config.grid) == [layouts.SIDE] * 2
