"""FlexVAR against recorded outputs of the reference (tests/golden/flexvar); with negative twins."""

import pytest
import torch
import torch.nn.functional as F
from published import built, check_random_numbers, near, save_part
from published import case as recorded
from tiny import Recorder, sentence

from arimage import checkpoint
from arimage.ar.convert.flexvar import FlexVARLayout
from arimage.ar.registry import LAYOUTS
from arimage.generator import ImageGenerator
from arimage.sampling.guidance import Constant, LinearByMap
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import ReferenceNoise
from arimage.sampling.samplers.familiar import Familiar
from arimage.sampling.settings import Settings
from arimage.tokenizers.convert.flexvar import FlexVARTokenizerLayout
from arimage.tokenizers.registry import LAYOUTS as TOKENIZER_LAYOUTS
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
SEEDED = ("seeded", "seeded_schedule", "seeded_llamagen_cfg", "seeded_invalid_ids")


@pytest.fixture(scope="module")
def case():
    found = recorded("flexvar")
    transformer = built(FlexVARLayout(), found.parts["flexvar"], scales=[1, 2, 3, 4])
    tokenizer = built(FlexVARTokenizerLayout(), found.parts["vae"], scales=[1, 2, 3, 4])
    found.generator = ImageGenerator(tokenizer, transformer)
    with torch.no_grad():
        yield found


def test_the_config_is_what_the_reference_was_built_with(case):
    config, theirs = case.generator.transformer.config, case.config
    assert (config.depth, config.width) == (theirs["depth"], theirs["embed_dim"])
    assert (config.num_heads, config.mlp_ratio) == (theirs["num_heads"], 4.0)
    assert (config.table, config.qk_norm) == (32, theirs["attn_l2_norm"])
    assert (config.num_classes, config.vocab_size, config.code_dim) == (10, 256, 32)


def test_encoding_and_decoding(case):
    tokenizer, expected = case.generator.tokenizer, case.expected
    ids = tokenizer.encode(expected["image"])
    assert torch.equal(ids, expected["encode_ids"])
    assert near(tokenizer.canvas_of(ids), expected["encode_quant_last"])
    image = tokenizer.decode_canvas(tokenizer.canvas_of(ids))
    assert near(image[..., ::4, ::4], expected["decoded"])
    assert not torch.equal(tokenizer.encode(expected["image"].flip(1)), ids)


def logits(case, labels, shift=0):
    transformer, order = case.generator.transformer, case.generator.order()
    ids = case.expected["encode_ids"][: len(labels)].roll(shift, 1)
    lesson = order.replay(ids, torch.Generator())
    if not shift:
        assert near(lesson.inputs, case.expected["var_input"][: len(labels)])
    return transformer.head(transformer(lesson.inputs, transformer.prepare(labels), lesson.step))


def test_teacher_forced_logits(case):
    labels, expected = case.expected["labels"], case.expected
    assert near(logits(case, labels)[..., ::16], expected["logits"])
    assert near(logits(case, torch.tensor([10]))[..., ::16], expected["logits_uncond"])
    assert not near(logits(case, (labels + 1) % 10)[..., ::16], expected["logits"])
    assert not near(logits(case, labels, shift=1)[..., ::16], expected["logits"])


class Without(Familiar):
    """The logits of some ids are set to -100."""

    def __call__(self, logits, step, noise):
        logits[..., range(3, 256, 5)] = -100.0
        return super().__call__(logits, step, noise)


def sample(case, name, sampler=None, **changes):
    """The final state of a recorded call, and its image."""
    check_random_numbers(case.expected["rng_probe"])
    call = case.calls[name]
    constant = "used_llamagen_cfg" in call
    settings = Settings(
        guidance_scale=call["cfg"] + (not constant),
        guidance_schedule=Constant() if constant else LinearByMap(9, call["max_pn"] ** 2),
    ).updated(changes)
    options = {"top_k": call["top_k"], "top_p": call["top_p"] or None, "largest": call["max_pn"]}
    sampler = sampler or (Without if "invalid_ids" in call else Familiar)(**options)
    generator = case.generator.at(call["infer_patch_nums"])
    order, model = generator.order(), generator.transformer
    branch = Branch.of(model, order, case.expected["gen_labels"], settings.guidance())
    noise = ReferenceNoise([call["g_seed"]] * 2, "cpu")
    *_, state = generate([branch], order, sampler, noise)
    return state.ids, generator.tokenizer.decode_canvas(state.canvas)


def test_greedy_generation(case):
    ids, image = sample(case, "greedy")
    assert torch.equal(ids, case.expected["greedy_ids"])
    assert near(image[..., ::4, ::4], case.expected["greedy_image"])
    recorder = Recorder()
    sample(case, "greedy", recorder)
    guided = torch.cat(recorder.logits, dim=1)[:1, :, ::16]
    assert near(guided, case.expected["greedy_cfg_logits"])
    assert not near(guided.roll(1, 1), case.expected["greedy_cfg_logits"])


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_generation(case, name):
    ids, image = sample(case, name)
    assert torch.equal(ids, case.expected[f"{name}_ids"])
    pooled = case.expected.get(f"{name}_image_pooled")
    if pooled is not None:
        assert near(F.interpolate(image, (8, 8), mode="area")[..., ::2, ::2], pooled)


def test_another_setting_gives_other_ids(case):
    for change in ({"guidance_scale": 9.0}, {"guidance_schedule": "constant"}):
        ids, _ = sample(case, "seeded", **change)
        assert not torch.equal(ids, case.expected["seeded_ids"])


@pytest.mark.parametrize("depth", [16, 20, 24])
def test_full_size_transformers_load_strictly(case, depth):
    """Widths and depths of the published models, from the keys of the recorded one."""
    width = 64 * depth
    sizes = {10: 1000, 11: 1001, 128: width, 256: 2 * width, 384: 3 * width, 512: 4 * width}
    weights = {}
    for key, value in case.parts["flexvar"].items():
        shape = [{768: 6 * width, 2: depth}.get(n, sizes.get(n, n)) for n in value.shape]
        if key.startswith("head."):
            shape[0] = 8912
        if not key.startswith("blocks.1."):
            numbers = range(depth) if key.startswith("blocks.0.") else [0]
            for i in numbers:
                name = key.replace("blocks.0.", f"blocks.{i}.")
                weights[name] = torch.empty(shape, device="meta")
    preset = PRESETS[f"flexvar-d{depth}"]
    converted = FlexVARLayout().convert(weights, **preset.hints)
    assert len(converted.dropped) == depth + 1
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert converted.config.scales == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def test_files_are_recognised_as_flexvars_alone(tmp_path):
    transformer, tokenizer = (save_part("flexvar", part, tmp_path) for part in ("flexvar", "vae"))
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    layout, weights = checkpoint.find_one([transformer], layouts, "transformer")
    assert type(layout) is FlexVARLayout
    layouts = [TOKENIZER_LAYOUTS[name]() for name in TOKENIZER_LAYOUTS]
    assert type(checkpoint.find_one([tokenizer], layouts, "")[0]) is FlexVARTokenizerLayout
    with pytest.raises(ValueError) as caught:
        layout.convert({**weights, "blocks.0.mamba.x": torch.empty(1)})
    assert "1 left over (blocks.0.mamba.x)" in sentence(caught)
