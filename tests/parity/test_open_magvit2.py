"""Open-MAGVIT2 against recorded outputs of the reference; each has a negative twin."""

import pytest
import torch
from published import case as recorded
from published import check_random_numbers, near, save_part
from tiny import Recorder, make_generator, sentence

from arimage import checkpoint
from arimage.ar.convert.open_magvit2 import OpenMAGVIT2Layout
from arimage.ar.open_magvit2 import OpenMAGVIT2Config, OpenMAGVIT2Model
from arimage.ar.parts import join_ids, split_ids, token_losses
from arimage.ar.registry import LAYOUTS
from arimage.parts import make_order
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import ReferenceNoise
from arimage.sampling.settings import Settings
from arimage.tokenizers.convert.open_magvit2 import OpenMAGVIT2TokenizerLayout
from arimage.tokenizers.registry import LAYOUTS as TOKENIZER_LAYOUTS
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
NAMES = [name for name in PRESETS if name.startswith("open-magvit2-")]


@pytest.fixture(scope="module")
def case():
    found = recorded("open_magvit2")
    inside = {f"first_stage_model.{k}": v for k, v in found.parts["tokenizer"].items()}
    converted = OpenMAGVIT2Layout().convert(found.parts["ar"] | inside, num_heads=4, scales=[4])
    assert converted.dropped == list(inside)
    found.model = OpenMAGVIT2Model(converted.config).eval()
    found.model.load_state_dict(converted.weights)
    converted = OpenMAGVIT2TokenizerLayout().convert(found.parts["tokenizer"], image_size=64)
    found.tokenizer = OpenMAGVIT2TokenizerLayout.model(converted.config).eval()
    found.tokenizer.load_state_dict(converted.weights)
    found.order = make_order(found.tokenizer, found.model)
    found.ids = join_ids(
        [found.expected["encode_ids_pre"], found.expected["encode_ids_post"]], found.model.parts
    )
    with torch.no_grad():
        yield found


def test_the_configs_are_what_the_reference_was_built_with(case):
    config, theirs = case.model.config, case.config["transformer"]
    assert (config.depth, config.width) == (theirs["spatial_n_layer"], theirs["dim"])
    assert (config.num_heads, config.mlp_hidden) == (theirs["n_head"], theirs["ffn_hidden"])
    assert config.inner_depth == theirs["factorized_n_layer"]
    assert [2**bits for bits in case.config["factorized_bits"]] == list(config.parts)
    config, theirs = case.tokenizer.config, case.config["tokenizer"]
    assert list(config.channel_multipliers) == theirs["ddconfig"]["ch_mult"]
    assert (config.vocab_size, config.code_dim) == (theirs["n_embed"], theirs["embed_dim"])
    assert config.num_res_blocks == theirs["ddconfig"]["num_res_blocks"]
    assert (config.quantizer, config.network) == ("lfq", "magvit2")


def test_encoding_and_decoding(case):
    images, expected = case.expected["image"], case.expected
    latents = case.tokenizer.encode_latents(images).flip(1)  # the first channel is the lowest bit
    assert near(latents, expected["pre_quant"])
    assert not near(latents.flip(1), expected["pre_quant"])
    assert torch.equal(case.tokenizer.encode(images), case.ids)
    assert torch.equal(painted(case, case.ids)[1].flip(1), expected["quant"])
    assert near(painted(case, case.ids)[0], expected["decoded"])
    assert not near(painted(case, case.ids.flip(0))[0], expected["decoded"])


def painted(case, ids):
    """Images of ids, not clamped, and what they were decoded from."""
    canvas = case.tokenizer.lookup(ids).transpose(1, 2).reshape(len(ids), -1, 4, 4)
    return case.tokenizer.decode_canvas(canvas), canvas


def logits(case, labels):
    """Of both parts."""
    lesson = case.order.lesson(case.ids[: len(labels)], torch.Generator())
    hidden = case.model(lesson.inputs, case.model.prepare(labels), lesson.step)
    first = split_ids(lesson.targets, case.model.parts)[:1]
    heads = case.model.heads
    return [heads[i](case.model.within(hidden, first[:i])) for i in (0, 1)], hidden


def test_teacher_forced_logits(case):
    labels, expected = case.expected["labels"], case.expected
    for part, name in enumerate(("logits_pre", "logits_post")):
        assert near(logits(case, labels)[0][part], expected[name])
        assert near(logits(case, torch.tensor([10]))[0][part], expected[f"{name}_uncond"])
        assert not near(logits(case, (labels + 1) % 10)[0][part], expected[name])


def test_the_loss_is_that_of_both_parts(case):
    (first, second), hidden = logits(case, case.expected["labels"])
    found = token_losses(case.model, hidden, case.ids)
    pre, post = case.expected["encode_ids_pre"], case.expected["encode_ids_post"]
    own = -first.log_softmax(-1).gather(-1, pre[..., None])[..., 0]
    own = own - second.log_softmax(-1).gather(-1, post[..., None])[..., 0]
    assert torch.allclose(found, own, atol=1e-5)
    whole = case.model.head(hidden)
    assert torch.allclose(whole.exp().sum(-1), torch.ones(2, 16), atol=1e-5)
    assert torch.allclose(-whole.gather(-1, case.ids[..., None])[..., 0], own, atol=1e-4)


def settings(call):
    """A recorded call in our words; a scale below 1 is none in the reference."""
    rows = [
        {
            "guidance_scale": scale if scale > 1 else 1.0,
            "temperature": temperature,
            "top_k": k or None,
            "top_p": None if p == 1 else p,
        }
        for scale, temperature, k, p in zip(
            *(call[name] for name in ("cfg_scale", "temperature", "top_k", "top_p")), strict=True
        )
    ]
    return Settings(**rows[0], parts=rows[1:])


def sample(case, name, sampler=None, **changes):
    """Ids of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    asked = settings(case.calls[name]).updated(changes)
    branch = Branch.of(case.model, case.order, case.expected["gen_labels"], asked.guidance())
    noise = ReferenceNoise([case.calls[name].get("manual_seed", 0)] * 2, "cpu")
    *_, state = generate([branch], case.order, sampler or asked.make_sampler(), noise)
    return state.ids


def in_parts(case, ids):
    """As the reference records them, (b, n, 2)."""
    return torch.stack(split_ids(ids, case.model.parts), dim=-1)


def test_greedy_generation(case):
    ids = sample(case, "greedy")
    assert torch.equal(in_parts(case, ids), case.expected["greedy_ids"])
    pooled = torch.nn.functional.avg_pool2d(painted(case, ids)[0], 8)
    assert near(pooled, case.expected["greedy_image_pooled"])
    recorder = Recorder()
    sample(case, "greedy", recorder)
    for part, name in enumerate(("pre", "post")):
        guided = torch.cat(recorder.logits[part::2], dim=1)[:1]
        assert near(guided, case.expected[f"greedy_cfg_logits_{name}"])
        assert not near(guided.roll(1, 1), case.expected[f"greedy_cfg_logits_{name}"])


@pytest.mark.parametrize("name", ["seeded", "seeded_filters", "seeded_no_cfg"])
def test_seeded_generation(case, name):
    assert torch.equal(in_parts(case, sample(case, name)), case.expected[f"{name}_ids"])


CHANGES = [
    {"guidance_scale": 9.0},
    {"temperature": 2.0},
    {"parts": []},
    {"parts": [{"guidance_scale": 2.5, "temperature": 0.1}]},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_gives_other_ids(case, change):
    ids = in_parts(case, sample(case, "seeded", **change))
    assert not torch.equal(ids, case.expected["seeded_ids"])
    if "parts" in change:  # the first part of the first token is as it was
        assert torch.equal(ids[:, 0, 0], case.expected["seeded_ids"][:, 0, 0])


@pytest.mark.parametrize("name", NAMES)
def test_full_size_models_load_strictly(name):
    """By the names of the recorded files, at the sizes of the published configs."""
    preset, found = PRESETS[name], recorded("open_magvit2")
    width, hidden, inner = {24: (1024, 2816, 2), 36: (1280, 3584, 3), 48: (1536, 4096, 4)}[
        preset.depth
    ]
    sizes = {16: 64, 64: 4096, 128: width, 384: 3 * width, 512: hidden, 11: 1001}
    counts, weights = {"spatial_blocks": preset.depth, "factorized_blocks": inner}, {}
    for key, value in found.parts["ar"].items():
        stack = key.split(".")[1]
        names = [key]
        if stack in counts:
            names = [key.replace(f"{stack}.0.", f"{stack}.{i}.") for i in range(counts[stack])]
            names = names if f"{stack}.0." in key else []
        shape = [sizes[n] for n in value.shape]
        weights |= {k: torch.empty(shape, device="meta") for k in names}
    cache = "transformer.factorized_blocks.1.attention.kv_cache.v_cache"
    weights[cache] = torch.empty(3, device="meta")
    converted = OpenMAGVIT2Layout().convert(weights, **preset.hints)
    assert list(converted.dropped) == [cache]
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert (converted.config.vocab_size, converted.config.inner_depth) == (2**18, inner)


def test_files_are_recognised_alone(tmp_path):
    path = save_part("open_magvit2", "ar", tmp_path)
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    assert isinstance(checkpoint.find_one([path], layouts, "transformer")[0], OpenMAGVIT2Layout)
    path = save_part("open_magvit2", "tokenizer", tmp_path)
    layouts = [TOKENIZER_LAYOUTS[name]() for name in TOKENIZER_LAYOUTS]
    layout, _ = checkpoint.find_one([path], layouts, "tokenizer")
    assert isinstance(layout, OpenMAGVIT2TokenizerLayout)


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError) as caught:
        OpenMAGVIT2Config(vocab_size=100, first_part=64)
    assert "got first_part 64 with vocab_size 100" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        Settings(parts=[{"temprature": 1.0}])
    assert "Did you mean 'temperature'" in sentence(caught)
    with pytest.raises(ValueError, match="got temperature -1"):
        Settings(parts=[{"temperature": -1}])
    with pytest.raises(ValueError) as caught:
        make_generator("llama", "raster")(0, seeds=0, parts=[{"temperature": 1.0}])
    assert "got settings of 1 more parts of a token; this transformer has 0" in sentence(caught)


def test_a_setting_of_a_call_is_that_of_all_parts():
    asked = Settings(guidance_scale=2.0, parts=[{"guidance_scale": 3.0, "temperature": 0.5}])
    assert asked.updated({}) == asked
    off = asked.updated({"guidance_scale": 1.0})
    assert off.guidance().last_active(4) == -1
    assert off.parts == [{"temperature": 0.5}]
    assert Settings.from_json(asked.to_json()) == asked
    only = Settings(guidance_scale=1.0, parts=[{"guidance_scale": 3.0}])
    assert only.guidance().last_active(4) == 3
    assert [only.guidance().part(i).scale for i in range(3)] == [1.0, 3.0, 3.0]


def test_ids_and_their_parts():
    ids = torch.arange(2 * 3 * 5)[None]
    parts = split_ids(ids, (2, 3, 5))
    assert [int(part.max()) for part in parts] == [1, 2, 4]
    assert torch.equal(join_ids(parts, (2, 3, 5)), ids)
    assert torch.equal(parts[0], ids % 2)
    assert split_ids(ids, (30,))[0] is ids
