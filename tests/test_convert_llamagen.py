"""LlamaGen's published files -> generators: names, wrappers, grids, and what is refused."""

import argparse
import dataclasses
import warnings

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from published import case, full_size, save_part
from tiny import sentence

from arimage import convert, hub
from arimage.ar.convert import llamagen as layouts
from arimage.ar.convert.llamagen import LlamaGenLayout
from arimage.cli import main
from arimage.generator import ImageGenerator
from arimage.images import to_pixels
from arimage.sampling.editing import kept_slots
from arimage.tokenizers.base import ImageTokenizer
from arimage.zoo import PRESETS

CLASSES, TEXT = "llamagen_c2i", "llamagen_t2i"
GREEDY = {"guidance_scale": 4.0, "temperature": 0.0, "top_k": None}


@pytest.fixture(autouse=True)
def small(tmp_path_factory, monkeypatch):
    """A home of the hub for each test, and presets as if they had the sizes of the tiny files."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setitem(layouts.HEADS, 128, 4)
    for name, preset in list(PRESETS.items()):
        if "llamagen" in name and preset.repo:
            side = preset.image_size // 64
            tiny = dataclasses.replace(preset, depth=3, scales=(side,), image_size=16 * side)
            monkeypatch.setitem(PRESETS, name, tiny)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """part -> file, under the published names."""
    folder = tmp_path_factory.mktemp("published")
    parts = {"class": (CLASSES, "gpt"), "text": (TEXT, "gpt"), "tokenizer": (CLASSES, "vq")}
    return {name: save_part(*part, folder) for name, part in parts.items()}


def is_the_published_one(generator):
    """Greedy ids and the ids of images: equal only with the recorded weights."""
    expected = case(CLASSES).expected
    ids = generator(expected["gen_labels"].tolist(), seeds=0, **GREEDY).ids
    with torch.no_grad():
        encoded = generator.tokenizer.encode(expected["image"].float() / 255 * 2 - 1)
    same = torch.equal(ids, expected["greedy_ids"])
    return same and torch.equal(encoded, expected["encode_ids"])


def save(path, content):
    torch.save(content, path)
    return path


def as_published(files, folder):
    return {"name": files["class"]}


def as_a_variant_of_another_name(files, folder):
    weights = case(CLASSES).parts["gpt"]
    return {"name": save(folder / "x.pt", {"model": weights}), "variant": "c2i-B-256"}


def as_deepspeed(files, folder):
    return {"name": save(folder / "c2i_L_256.pt", {"module": case(CLASSES).parts["gpt"]})}


def as_lightning(files, folder):
    return {"name": save(folder / "c2i_L_256.pt", {"state_dict": case(CLASSES).parts["gpt"]})}


def as_fsdp(files, folder):
    return {"name": save(folder / "c2i_L_256.pt", case(CLASSES).parts["gpt"])}


def as_a_trainers_file(files, folder):
    weights = dict(case(CLASSES).parts["gpt"])
    weights["freqs_cis"] = torch.zeros(17, 16, 2)
    content = {
        "model": weights,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]},
        "steps": 5000,
        "args": argparse.Namespace(gpt_model="GPT-B", image_size=256),
    }
    return {"name": save(folder / "c2i_B_256.pt", content)}


WAYS = (
    as_published,
    as_a_variant_of_another_name,
    as_deepspeed,
    as_lightning,
    as_fsdp,
    as_a_trainers_file,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_published_files_load(way, files, tmp_path):
    arguments = way(files, tmp_path)
    generator = ImageGenerator.from_pretrained(tokenizer=files["tokenizer"], **arguments)
    assert is_the_published_one(generator)
    assert generator.settings.guidance_scale == 2.0
    assert generator.settings.top_k is None


def test_other_weights_are_not_the_published_ones(files):
    generator = ImageGenerator.from_pretrained(files["class"], tokenizer=files["tokenizer"])
    with torch.no_grad():
        generator.transformer.output.weight[7] += 1
    assert not is_the_published_one(generator)


@pytest.mark.parametrize(
    ("arguments", "file", "scale"),
    [
        (("FoundationVision/LlamaGen", "c2i-B-256"), "c2i_B_256.pt", 2.0),
        (("llamagen-l-256", None), "c2i_L_256.pt", 2.0),
        (("peizesun/llamagen_t2i", "t2i-XL-256"), "t2i_XL_stage1_256.pt", 7.5),
    ],
)
def test_hub_ids_and_presets_load(files, monkeypatch, arguments, file, scale):
    asked = []

    def fetch(repo, name, revision=None):
        asked.append((repo, name))
        return files["tokenizer" if "vq" in name else "text" if "t2i" in name else "class"]

    monkeypatch.setattr(hub, "fetch", fetch)
    generator = ImageGenerator.from_pretrained(arguments[0], variant=arguments[1])
    text = generator.transformer.takes_text
    repo = "peizesun/llamagen_t2i" if text else "FoundationVision/LlamaGen"
    assert asked == [(repo, file), (repo, f"vq_ds16_{'t2i' if text else 'c2i'}.pt")]
    assert generator.settings.guidance_scale == scale
    assert generator.settings.top_k == (1000 if text else None)
    assert text or is_the_published_one(generator)


def test_guidance_free_weights_run_without_guidance(files, monkeypatch):
    def fetch(repo, name, revision=None):
        return files["tokenizer" if "vq" in name else "class"]

    monkeypatch.setattr(hub, "fetch", fetch)
    generator = ImageGenerator.from_pretrained("ChenDRAG/CCA_LlamaGen", variant="c2i-B-384")
    assert generator.settings.guidance_scale == 1.0
    assert generator.transformer.config.grid == [6, 6]


def test_the_grid_follows_the_name_of_a_file(files, tmp_path):
    content = {"model": case(CLASSES).parts["gpt"]}
    for name, side, scale in (
        ("c2i_B_256.pt", 4, 2.0),
        ("c2i_3B_384.pt", 6, 1.65),
        ("c2i_XL_384_CCA_0005000.pt", 6, 1.0),
    ):
        path = save(tmp_path / name, content)
        generator = ImageGenerator.from_pretrained(path, tokenizer=files["tokenizer"])
        assert list(generator.transformer.config.grid) == [side, side]
        assert generator.tokenizer.config.image_size == 16 * side
        assert generator.settings.guidance_scale == scale


def test_a_file_without_a_name_is_of_256_px_and_says_so(files, tmp_path):
    path = save(tmp_path / "mine.pt", {"model": case(CLASSES).parts["gpt"]})
    with pytest.warns(UserWarning, match="does not say its grid: 16 x 16 tokens, 256 px, are"):
        generator = ImageGenerator.from_pretrained(path, tokenizer=files["tokenizer"])
    assert generator.tokenizer.config.image_size == 256
    convert.convert(path, tmp_path / "g", tokenizer=files["tokenizer"], scales=[4])
    assert is_the_published_one(ImageGenerator.from_pretrained(tmp_path / "g"))


def test_the_command_takes_a_grid_and_heads(files, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(layouts.HEADS, 128)
    path = save(tmp_path / "mine.pt", case(CLASSES).parts["gpt"])
    options = ["--tokenizer", str(files["tokenizer"]), "--scales", "4", "--num-heads", "4"]
    arguments = ["arimage", "convert", str(path), str(tmp_path / "g"), *options]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code, capsys.readouterr()
    assert is_the_published_one(ImageGenerator.from_pretrained(tmp_path / "g"))


def test_a_published_width_says_its_heads():
    assert LlamaGenLayout().convert(full_size("llamagen_c2i_GPT-3B", CLASSES), scales=[24]).config
    assert {w: w // h for w, h in layouts.HEADS.items() if w // h != 64} == {
        **{128: 32},  # the tiny file
        **{3200: 100, 4096: 128},
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory, files):
    """The generator that the files make, 4 x 4 tokens."""
    folder, hints = tmp_path_factory.mktemp("pair"), {"scales": [4], "num_heads": 4}
    path = save(folder / "x.pt", case(CLASSES).parts["gpt"])
    convert.convert(path, folder / "g", tokenizer=files["tokenizer"], **hints)
    return ImageGenerator.from_pretrained(folder / "g")


def test_editing_streaming_and_chunking(pair):
    images = case(CLASSES).expected["image"].float() / 255 * 2 - 1
    pixels = to_pixels(images)
    mask = np.arange(64)[:, None].repeat(64, axis=1) >= 32
    edited = pair.edit(pixels, mask, [3, 4], seeds=[1, 2], output_type="pixels")
    kept = kept_slots(mask, pair.tokenizer.slots)
    known = case(CLASSES).expected["encode_ids"]
    assert torch.equal(edited.ids[:, kept], known[:, kept])
    assert not torch.equal(edited.ids[:, ~kept], known[:, ~kept])
    labels, seeds = [3, 4, 5], [1, 2, 3]
    whole = pair(labels, seeds=seeds)
    previews = list(pair.stream(labels, seeds=seeds))
    assert [p.step for p in previews] == list(range(1, 17))
    assert torch.equal(previews[-1].ids, whole.ids)
    parts = [ids for _, ids in pair.batches(labels, seeds, batch_size=2)]
    assert [len(ids) for ids in parts] == [2, 1]
    assert torch.equal(torch.cat(parts), whole.ids)
    assert torch.equal(pair(labels[1:2], seeds=seeds[1:2]).ids, whole.ids[1:2])


def wrong(files, tmp_path):
    """(arguments, words) of loads that cannot be right."""
    yield (
        {"name": save(tmp_path / "c2i_B_384.pt", {"model": case(CLASSES).parts["gpt"]})},
        "c2i-B-256",
        "has the name of variant c2i-B-384 (96 px) and c2i-B-256 (64 px) was asked for",
    )
    yield {"name": files["class"]}, "c2i-XL-256", "unknown variant 'c2i-XL-256'. Did you mean 'c2i-"
    yield (
        {"name": "FoundationVision/LlamaGen"},
        "c2i-XL-256",
        "unknown variant of FoundationVision/LlamaGen 'c2i-XL-256'. Did you mean 'c2i-",
    )
    yield {"name": "FoundationVision/LlamaGen"}, None, "give variant: c2i-B-256, c2i-B-384, c2i-L-2"


def test_files_and_variants_that_do_not_fit_are_told(files, tmp_path):
    for arguments, variant, words in wrong(files, tmp_path):
        with pytest.raises(ValueError) as caught:
            ImageGenerator.from_pretrained(
                tokenizer=files["tokenizer"], variant=variant, **arguments
            )
        assert words in sentence(caught)


def test_a_file_of_another_depth_is_told(files, tmp_path, monkeypatch):
    preset = dataclasses.replace(PRESETS["llamagen-b-256"], depth=12)
    monkeypatch.setitem(PRESETS, preset.name, preset)
    with pytest.raises(ValueError) as caught:
        ImageGenerator.from_pretrained(files["class"], tokenizer=files["tokenizer"])
    assert "holds a LlamaGen transformer of depth 3, not 12" in sentence(caught)


def test_a_tokenizer_of_another_vocabulary_or_grid_is_told(files, pair):
    transformer = LlamaGenLayout.model(
        LlamaGenLayout.model.config_class(**{**fields(pair), "vocab_size": 300})
    )
    with pytest.raises(ValueError) as caught:
        ImageGenerator(pair.tokenizer, transformer)
    assert "built for vocab_size 300 and the tokenizer has 256" in sentence(caught)
    tokenizer = ImageTokenizer.from_pretrained(files["tokenizer"], image_size=96)
    with pytest.raises(ValueError) as caught:
        ImageGenerator(tokenizer, pair.transformer)
    assert "built for grids ((4, 4),) and the tokenizer has ((6, 6),)" in sentence(caught)


def fields(pair):
    config = pair.transformer.config
    return {name: getattr(config, name) for name in config.own_fields()}


def test_offline_says_which_files():
    with pytest.raises(FileNotFoundError) as caught:
        ImageGenerator.from_pretrained("llamagen-t2i-xl-256")
    text = sentence(caught)
    assert "t2i_XL_stage1_256.pt of the hub repository peizesun/llamagen_t2i" in text
    assert "put it in a folder" in text


def test_a_folder_with_both_files_needs_no_more(tmp_path):
    for name, part in ((CLASSES, "gpt"), (CLASSES, "vq")):
        save_part(name, part, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_the_published_one(ImageGenerator.from_pretrained(tmp_path))
