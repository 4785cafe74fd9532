"""RAR against recorded outputs of the reference (tests/golden/rar); each has a negative twin."""

import dataclasses
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from published import case as recorded
from published import check_random_numbers, full_size, near, save_part
from tiny import sentence

from arimage import hub
from arimage.ar.convert.rar import RARLayout
from arimage.ar.orders.random import RandomOrder
from arimage.generator import ImageGenerator
from arimage.sampling.guidance import PowerCosine
from arimage.sampling.samplers.argmax import Argmax
from arimage.tokenizers.vq import VQTokenizer, VQTokenizerConfig
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
SEEDED = ("seeded_pow", "seeded_pow_b", "seeded_const", "seeded_no_cfg")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """The files under their published names, loaded as a user would."""
    found, folder = recorded("rar"), tmp_path_factory.mktemp("published")
    files = [save_part("rar", part, folder) for part in ("rar", "maskgit_vqgan")]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(constants, "HF_HOME", str(tmp_path_factory.mktemp("home")))
        found.generator = ImageGenerator.from_pretrained(files[0], tokenizer=files[1])
        yield found


def test_a_file_of_another_name_loads_with_the_settings_of_the_demo(case, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    files = [save_part("rar", part, tmp_path) for part in ("rar", "maskgit_vqgan")]
    generator = ImageGenerator.from_pretrained(
        files[0].rename(tmp_path / "mine.bin"), tokenizer=files[1]
    )
    settings = generator.settings
    assert (settings.guidance_scale, settings.guidance_schedule) == (4.0, "constant")
    assert generator.class_names is None
    assert case.generator.settings.guidance_scale == 16.0  # under its published name, rar_b.bin


def test_a_size_loads_by_repository_and_variant(case, tmp_path, monkeypatch):
    """With the settings of its score and both files from where they are published."""
    files, asked = {}, []
    for part in ("rar", "maskgit_vqgan"):
        files[part] = save_part("rar", part, tmp_path)

    def fetch(repo, name, revision=None):
        asked.append((repo, name))
        return files["rar" if name == "rar_b.bin" else "maskgit_vqgan"]

    preset = dataclasses.replace(PRESETS["rar-b"], depth=3)
    monkeypatch.setitem(PRESETS, "rar-b", preset)
    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    generator = ImageGenerator.from_pretrained("yucornetto/RAR", variant="rar-b")
    published = [("yucornetto/RAR", "rar_b.bin"), (preset.tokenizer_repo, preset.tokenizer_file)]
    assert asked == published
    assert generator.settings.guidance_schedule == PowerCosine(2.75)
    labels = case.expected["gen_labels"].tolist()
    ids = generator(labels, seeds=0, rng="reference").ids
    assert torch.equal(ids, case.expected["seeded_pow_ids"])


def test_the_config_is_what_the_reference_was_built_with(case):
    config, theirs = case.generator.transformer.config, case.config
    assert (config.depth, config.width) == (theirs["num_hidden_layers"], theirs["hidden_size"])
    assert (config.num_heads, config.mlp_hidden) == (
        theirs["num_attention_heads"],
        theirs["intermediate_size"],
    )
    assert (config.vocab_size, config.num_classes) == (theirs["codebook_size"], 10)
    assert list(config.grid) == [4, 4]
    assert config.norm_eps == theirs["norm_eps"]
    assert config.order == "raster"


def logits(case, labels, path=None):
    transformer, order = case.generator.transformer, case.generator.order()
    if path is not None:
        order = RandomOrder(order.fuser, order.prefix_length, order.device, path)
    ids = case.expected["encode_ids"][: len(labels)]
    lesson = order.lesson(ids, torch.Generator())
    if path is not None:
        assert torch.equal(lesson.targets, case.expected["labels_permuted"])
    hidden = transformer(lesson.inputs, transformer.prepare(labels), lesson.step)
    return transformer.head(hidden)[..., ::8]


def test_teacher_forced_logits(case):
    """Their last row lies beyond the image."""
    null = torch.tensor([case.config["condition_num_classes"]])
    assert near(logits(case, case.expected["labels"]), case.expected["logits"][:, :-1])
    assert near(logits(case, null), case.expected["logits_uncond"][:, :-1])


def test_teacher_forced_logits_in_an_order_per_image(case):
    path, theirs = case.expected["orders"], case.expected["logits_permuted"][:, :-1]
    assert near(logits(case, case.expected["labels"], path), theirs)


def test_other_labels_give_other_logits(case):
    labels, expected = case.expected["labels"], case.expected
    assert not near(logits(case, (labels + 1) % 10), expected["logits"][:, :-1])
    assert not near(logits(case, labels), expected["logits_permuted"][:, :-1])


def settings(call):
    """A recorded call in our words; power 0 is the scale at every step, scale 0 is no guidance."""
    power = call["guidance_scale_pow"]
    schedule = PowerCosine(power) if power else "constant"
    return {
        "guidance_scale": call["guidance_scale"] or 1.0,
        "guidance_schedule": schedule,
        "temperature": call["randomize_temperature"],
        "rng": "reference",
    }


def image_of(case, state):
    """The image in [0, 1]."""
    return (case.generator.tokenizer.decode_canvas(state.canvas).clamp(-1, 1) + 1) / 2


def generate(case, name, **changes):
    """The final state of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    call, labels = case.calls[name], case.expected["gen_labels"].tolist()
    seeds = [call.get("manual_seed", 0)] * len(labels)
    *_, state = case.generator.sample(labels, seeds, **settings(call) | changes)
    return state


@dataclass(frozen=True)
class Recorder(Argmax):
    """Greedy; keeps the logits."""

    logits: list = field(default_factory=list)

    def __call__(self, logits, step, noise):
        self.logits.append(logits)
        return super().__call__(logits, step, noise)


def test_greedy_generation(case, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("arimage.sampling.settings.Settings.make_sampler", lambda self: recorder)
    state = generate(case, "greedy")
    assert torch.equal(state.ids, case.expected["greedy_ids"])
    assert near(image_of(case, state)[..., ::4, ::4], case.expected["greedy_image"])
    guided = torch.cat(recorder.logits, dim=1)[:1, :, ::8]
    assert near(guided, case.expected["greedy_cfg_logits"])
    assert not near(guided.roll(1, 1), case.expected["greedy_cfg_logits"])


def test_a_low_temperature_is_greedy_too(case):
    assert torch.equal(generate(case, "greedy").ids, case.expected["greedy_ids"])


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_generation(case, name):
    state = generate(case, name)
    assert torch.equal(state.ids, case.expected[f"{name}_ids"])
    pooled = F.avg_pool2d(image_of(case, state), 8)[..., ::2, ::2]
    assert near(pooled, case.expected[f"{name}_image_pooled"])
    others = [other for other in SEEDED if other != name]
    assert not any(near(pooled, case.expected[f"{other}_image_pooled"]) for other in others)


CHANGES = (
    {"rng": "per_image"},
    {"guidance_schedule": "constant"},
    {"guidance_schedule": PowerCosine(1.5)},
    {"guidance_scale": 6.0},
    {"temperature": 1.3},
)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_gives_other_ids(case, change):
    state = generate(case, "seeded_pow", **change)
    assert not torch.equal(state.ids, case.expected["seeded_pow_ids"])


def test_without_the_number_that_they_do_not_use_the_ids_differ(case, monkeypatch):
    monkeypatch.setattr(type(case.generator.transformer), "unused_draws", 0)
    state = generate(case, "seeded_pow")
    assert not torch.equal(state.ids, case.expected["seeded_pow_ids"])


SIZES = {  # depth, width, hidden units of the MLP
    "b": (24, 768, 3072),
    "l": (24, 1024, 4096),
    "xl": (32, 1280, 5120),
    "xxl": (40, 1408, 6144),
}


@pytest.mark.parametrize("size", SIZES)
def test_full_size_transformers_load_strictly(size):
    weights, preset = full_size(f"rar_{size}", "rar"), PRESETS[f"rar-{size}"]
    converted = RARLayout().convert(weights, depth=preset.depth)
    config = converted.config
    assert (config.depth, config.width, config.mlp_hidden) == SIZES[size]
    assert config.num_heads == 16
    assert list(config.grid) == [16, 16]
    assert (config.vocab_size, config.num_classes) == (1024, 1000)
    count = sum(value.numel() for value in converted.weights.values())
    assert count == preset.parameters[0]
    spare = 1280 - 258 + 1280 - 256 + 356 - 257 + 1  # positions, targets, steps, the mask token
    assert sum(value.numel() for value in weights.values()) == count + spare * config.width
    assert [key.partition(".")[0] for key in converted.dropped] == [
        "embeddings",
        "pos_embed",
        "target_aware_pos_embed",
        "target_aware_pos_embed",
        "timesteps_embeddings",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.0.mamba.x": (1,)}, "1 left over (blocks.0.mamba.x)"),
        ({"lm_head.bias": None}, "1 missing (output.bias)"),
        ({"lm_head.bias": (5,)}, "1 of another shape (output.bias [5], not [1024])"),
        ({"embeddings.weight": None}, "lacks embeddings.weight"),
        ({"pos_embed": (1, 257, 768)}, "the tables are too short for the grid"),
        ({"target_aware_pos_embed": (1, 200, 768)}, "1280 and 200 positions"),
        ({"timesteps_embeddings": (1, 257, 768)}, "have 257 steps and 1280 and 1280 positions"),
    ],
)
def test_a_file_that_does_not_fit_is_told(change, words):
    weights = dict(full_size("rar_b", "rar"))
    for key, size in change.items():
        weights.pop(key, None)
        if size is not None:
            weights[key] = torch.empty(size, device="meta")
    with pytest.raises(ValueError) as caught:
        RARLayout().convert(weights)
    assert words in sentence(caught)


def test_a_file_of_another_depth_is_told():
    with pytest.raises(ValueError) as caught:
        RARLayout().convert(full_size("rar_b", "rar"), depth=32)
    assert "holds a RAR transformer of depth 24, not 32" in sentence(caught)


@pytest.mark.parametrize(
    ("change", "words"), [({"vocab_size": 128}, "vocab_size"), ({"image_size": 96}, "grids")]
)
def test_a_tokenizer_of_another_vocabulary_or_grid_is_told(case, change, words):
    config = case.generator.tokenizer.config
    fields = {name: getattr(config, name) for name in config.own_fields()} | change
    with pytest.raises(ValueError) as caught:
        ImageGenerator(VQTokenizer(VQTokenizerConfig(**fields)), case.generator.transformer)
    assert f"built for {words}" in sentence(caught)
