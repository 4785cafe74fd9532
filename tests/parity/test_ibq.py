"""IBQ against recorded outputs of the reference (tests/golden/ibq); each has a negative twin."""

import pytest
import torch
from published import case as recorded
from published import check_random_numbers, near, save_part
from tiny import Recorder, sentence

from arimage import checkpoint
from arimage.ar.convert.ibq import IBQLayout
from arimage.ar.ibq import IBQConfig, IBQModel
from arimage.ar.registry import LAYOUTS
from arimage.parts import make_order
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import ReferenceNoise
from arimage.sampling.settings import Settings
from arimage.tokenizers.convert.ibq import IBQTokenizerLayout, averaged
from arimage.tokenizers.registry import LAYOUTS as TOKENIZER_LAYOUTS
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
NAMES = [name for name in PRESETS if name.startswith("ibq-")]


@pytest.fixture(scope="module")
def case():
    found = recorded("ibq")
    converted = IBQLayout().convert(found.parts["ar"], num_heads=4, scales=[4])
    found.model = IBQModel(converted.config).eval()
    found.model.load_state_dict(converted.weights)
    converted = IBQTokenizerLayout().convert(found.parts["tokenizer"], image_size=64)
    found.dropped = converted.dropped
    found.tokenizer = IBQTokenizerLayout.model(converted.config).eval()
    found.tokenizer.load_state_dict(converted.weights)
    found.order = make_order(found.tokenizer, found.model)
    with torch.no_grad():
        yield found


def test_the_configs_are_what_the_reference_was_built_with(case):
    config, theirs = case.model.config, case.config["transformer"]
    assert (config.depth, config.width) == (theirs["n_layer"], theirs["n_embd"])
    assert (config.num_heads, config.mlp_hidden) == (theirs["n_head"], theirs["ffn_hidden"])
    assert (config.vocab_size, config.norm_eps) == (theirs["vocab_size"], theirs["norm_eps"])
    config, theirs = case.tokenizer.config, case.config["tokenizer"]
    assert list(config.channel_multipliers) == theirs["ddconfig"]["ch_mult"]
    assert (config.vocab_size, config.code_dim) == (theirs["n_embed"], theirs["embed_dim"])
    assert config.num_res_blocks == theirs["ddconfig"]["num_res_blocks"]
    assert config.quantizer == "ibq"


def test_encoding_by_averaged_weights_and_products(case):
    images, expected = case.expected["image"], case.expected
    latents = case.tokenizer.encode_latents(images)
    assert near(latents, expected["pre_quant"])
    assert torch.equal(case.tokenizer.encode(images), expected["encode_ids"])
    rows = latents.flatten(2).transpose(1, 2)
    nearest = torch.cdist(rows, case.tokenizer.quantizer.inner.weight).argmin(-1)
    assert not torch.equal(nearest, expected["encode_ids"])


def test_the_weights_that_training_left_are_others(case):
    raw = case.parts["tokenizer"]
    assert case.dropped == ["model_ema.decay", "model_ema.num_updates"]
    used = averaged(raw)
    assert 2 * len(used) == len(raw) + 2
    assert not any(torch.equal(used[k], raw[k]) for k in used if not k.startswith("model_ema."))
    plain = IBQTokenizerLayout.model(case.tokenizer.config).eval()
    kept = {k: v for k, v in raw.items() if not k.startswith("model_ema.") or k.endswith("decay")}
    plain.load_state_dict(IBQTokenizerLayout().convert(kept, image_size=64).weights)
    assert not near(plain.encode_latents(case.expected["image"]), case.expected["pre_quant"])


def painted(case, ids):
    """Images of ids, not clamped."""
    codes = case.tokenizer.lookup(ids)
    return case.tokenizer.decode_canvas(codes.transpose(1, 2).reshape(len(ids), -1, 4, 4))


def test_decoding(case):
    ids = case.expected["encode_ids"]
    assert near(painted(case, ids), case.expected["decoded"])
    assert near(case.tokenizer.decode(ids), case.expected["decoded"].clamp(-1, 1))
    assert not near(case.tokenizer.decode(ids.flip(0)), case.expected["decoded"].clamp(-1, 1))


def logits(case, labels):
    ids = case.expected["encode_ids"][: len(labels)]
    lesson = case.order.lesson(ids, torch.Generator())
    return case.model.head(case.model(lesson.inputs, case.model.prepare(labels), lesson.step))


def test_teacher_forced_logits(case):
    labels, expected = case.expected["labels"], case.expected
    assert near(logits(case, labels), expected["logits"])
    assert near(logits(case, torch.tensor([10])), expected["logits_uncond"])
    assert not near(logits(case, (labels + 1) % 10), expected["logits"])


def settings(call):
    """A recorded call in our words."""
    return Settings(
        guidance_scale=call["cfg_scale"],
        temperature=call["temperature"],
        top_k=call["top_k"] or None,
        top_p=None if call["top_p"] == 1 else call["top_p"],
    )


def sample(case, name, sampler=None, **changes):
    """Ids of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    asked = settings(case.calls[name]).updated(changes)
    branch = Branch.of(case.model, case.order, case.expected["gen_labels"], asked.guidance())
    noise = ReferenceNoise([case.calls[name]["manual_seed"]] * 2, "cpu")
    *_, state = generate([branch], case.order, sampler or asked.make_sampler(), noise)
    return state.ids


def test_greedy_generation(case):
    ids = sample(case, "greedy")
    assert torch.equal(ids, case.expected["greedy_ids"])
    pooled = torch.nn.functional.avg_pool2d(painted(case, ids), 8)
    assert near(pooled, case.expected["greedy_image_pooled"])
    recorder = Recorder()
    sample(case, "greedy", recorder)
    guided = torch.cat(recorder.logits, dim=1)[:1]
    assert near(guided, case.expected["greedy_cfg_logits"])
    assert not near(guided.roll(1, 1), case.expected["greedy_cfg_logits"])


@pytest.mark.parametrize("name", ["seeded", "seeded_filters"])
def test_seeded_generation(case, name):
    assert torch.equal(sample(case, name), case.expected[f"{name}_ids"])


@pytest.mark.parametrize("change", [{"guidance_scale": 9.0}, {"temperature": 2.0}], ids=str)
def test_another_setting_gives_other_ids(case, change):
    assert not torch.equal(sample(case, "seeded", **change), case.expected["seeded_ids"])


@pytest.mark.parametrize("name", NAMES)
def test_full_size_models_load_strictly(name):
    """By the names of the recorded files, at the sizes of the published configs."""
    preset, found = PRESETS[name], recorded("ibq")
    width, hidden = {16: (1024, 2816), 20: (1280, 3584), 24: (1536, 4096), 30: (1920, 5120)}[
        preset.depth
    ]
    sizes = {128: width, 384: 3 * width, 512: hidden, 768: 6 * width, 256: 2 * width, 11: 1001}
    block, weights = "transformer.blocks.0.", {}
    for key, value in found.parts["ar"].items():
        shape = [sizes[n] for n in value.shape]
        if "tok_emb" in key or key == "transformer.head.weight":
            shape[0] = 16384
        if key.startswith(block):
            names = [key.replace("blocks.0.", f"blocks.{i}.") for i in range(preset.depth)]
        else:
            names = [] if "transformer.blocks." in key else [key]
        weights |= {k: torch.empty(shape, device="meta") for k in names}
    extra = [
        "first_stage_model.quantize.embedding.weight",
        "transformer.blocks.1.attention.kv_cache.k_cache",
    ]
    weights |= {key: torch.empty(3, device="meta") for key in extra}
    converted = IBQLayout().convert(weights, **preset.hints)
    assert sorted(converted.dropped) == extra
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert converted.config.num_heads * 64 == width


def test_files_are_recognised_alone(tmp_path):
    path = save_part("ibq", "ar", tmp_path)
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    assert isinstance(checkpoint.find_one([path], layouts, "transformer")[0], IBQLayout)
    path = save_part("ibq", "tokenizer", tmp_path)
    layouts = [TOKENIZER_LAYOUTS[name]() for name in TOKENIZER_LAYOUTS]
    assert isinstance(checkpoint.find_one([path], layouts, "tokenizer")[0], IBQTokenizerLayout)
    left = dict(recorded("ibq").parts["tokenizer"], model_emaX=torch.zeros(1))
    with pytest.raises(ValueError) as caught:
        IBQTokenizerLayout().convert(left)
    assert "1 left over (model_emaX)" in sentence(caught)


def test_another_order_is_told():
    with pytest.raises(ValueError) as caught:
        IBQConfig(order="masked")
    assert "masked" in sentence(caught)
