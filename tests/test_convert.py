"""Published files -> generators: every way to name them, the cache, and what is refused."""

import dataclasses
import os
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from published import full_size, save_var, var_case
from tiny import sentence

from arimage import checkpoint, convert, hub
from arimage.ar.convert.var import VARLayout
from arimage.cli import main, parse_scales
from arimage.generator import ImageGenerator
from arimage.tokenizers.base import ImageTokenizer
from arimage.zoo import PRESETS, VAR_SCHEDULES

CASE = "var_no_l2norm"  # the smallest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A home of the hub for each test."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    return home / "arimage"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_var(CASE, tmp_path_factory.mktemp("published"))


def encode(generator):
    """Ids of the recorded images: equal only with the published weights."""
    return generator.tokenizer.encode(var_case(CASE).expected["image"])


def is_the_published_one(generator):
    expected, settings = var_case(CASE).expected, {"guidance_schedule": "linear", "top_k": 1}
    labels = expected["gen_labels"].tolist()
    ids = generator(labels, seeds=0, guidance_scale=2.5, top_p=None, **settings).ids
    same = torch.equal(ids, expected["greedy_ids"].long())
    return same and torch.equal(encode(generator), expected["encode_ids"].long())


def save(path, content):
    torch.save(content, path)
    return path


def as_files(files, folder):
    return {"name": files[0], "tokenizer": files[1]}


def as_folder(files, folder):
    return {"name": files[0].parent}


def as_variant_in_a_folder(files, folder):
    for number, name in enumerate(("var_d16.pth", "vae_ch160v4096z32.pth", "var_d20.pth")):
        (folder / name).symlink_to(files[number % 2])
    return {"name": folder, "variant": "d16"}


def as_trainer_file(files, folder):
    case = var_case(CASE)
    trainer = {"config": {"x": 1}, "var_wo_ddp": case.var, "vae_local": case.vae}
    trainer["var_opt"] = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
    content = {"epoch": 3, "trainer": trainer, "args": {"depth": 2}}
    return {"name": save(folder / "ar-ckpt-best.pth", content)}


def as_wrapped_files(files, folder):
    case = var_case(CASE)
    var = {f"module._orig_mod.{key}": value for key, value in case.var.items()}
    name = save(folder / "a.pt", {"state_dict": var})
    return {"name": name, "tokenizer": save(folder / "b.bin", {"model": case.vae})}


def as_safetensors(files, folder):
    from safetensors.torch import save_file

    save_file(var_case(CASE).var, folder / "a.safetensors")
    return {"name": folder / "a.safetensors", "tokenizer": files[1]}


def as_old_pickles(files, folder):
    torch.save(var_case(CASE).var, folder / "a.pth", _use_new_zipfile_serialization=False)
    return {"name": folder / "a.pth", "tokenizer": files[1]}


WAYS = (
    as_files,
    as_folder,
    as_trainer_file,
    as_wrapped_files,
    as_safetensors,
    as_old_pickles,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_published_files_load(way, files, tmp_path):
    generator = ImageGenerator.from_pretrained(**way(files, tmp_path))
    assert is_the_published_one(generator)
    assert generator.settings.guidance_scale == 2.5
    assert generator.class_names is None


def test_other_weights_are_not_the_published_ones(files):
    generator = ImageGenerator.from_pretrained(files[0], tokenizer=files[1])
    with torch.no_grad():
        generator.transformer.output.bias[7] += 50
    assert not is_the_published_one(generator)


@pytest.fixture
def tiny_presets(monkeypatch):
    """The published models of VAR, as if they had the depth of the tiny one."""
    for name in ("var-d16", "cca-var-d16"):
        monkeypatch.setitem(PRESETS, name, dataclasses.replace(PRESETS[name], depth=2))


def test_a_variant_picks_its_file_in_a_folder(files, tmp_path, tiny_presets):
    arguments = as_variant_in_a_folder(files, tmp_path)
    assert is_the_published_one(ImageGenerator.from_pretrained(**arguments))


@pytest.mark.parametrize(
    ("arguments", "scale", "file"),
    [
        ({"name": "FoundationVision/var", "variant": "d16"}, 2.5, "var_d16.pth"),
        ({"name": "var-d16"}, 2.5, "var_d16.pth"),
        ({"name": "cca-var-d16"}, 1.0, "CCA_VAR_Guidance_Free/VAR_d16_CCA.pth"),
    ],
)
def test_hub_ids_and_presets_load(files, monkeypatch, tiny_presets, arguments, scale, file):
    asked = []

    def fetch(repo, name, revision=None):
        asked.append(name)
        return files[1] if "vae" in name else files[0]

    monkeypatch.setattr(hub, "fetch", fetch)
    generator = ImageGenerator.from_pretrained(**arguments)
    assert is_the_published_one(generator)
    assert generator.settings.guidance_scale == scale
    assert asked == [file, "vae_ch160v4096z32.pth"]


def test_the_second_load_reads_the_cache_alone(files, cache, monkeypatch):
    arguments = {"tokenizer": files[1], "dtype": torch.bfloat16}
    ImageGenerator.from_pretrained(files[0], **arguments)
    (folder,) = cache.iterdir()
    assert sorted(p.suffix for p in folder.rglob("*") if p.is_file()) == sorted(
        [".json"] * 3 + [".safetensors"] * 2
    )
    monkeypatch.delattr(checkpoint, "read")
    again = ImageGenerator.from_pretrained(files[0], **arguments)
    assert again.transformer.dtype == torch.bfloat16
    os.utime(files[0], (1, 1))  # another file, for all that is known
    with pytest.raises(NameError):
        ImageGenerator.from_pretrained(files[0], **arguments)
    assert list(cache.iterdir()) == [folder]


def test_a_conversion_that_fails_leaves_nothing(files, cache):
    with pytest.raises(FileNotFoundError):
        ImageGenerator.from_pretrained(files[0])
    assert not cache.exists() or not list(cache.iterdir())


def test_large_files_are_written_in_shards(files, monkeypatch, cache):
    monkeypatch.setattr(checkpoint, "SHARD", "1MB")
    generator = ImageGenerator.from_pretrained(files[0], tokenizer=files[1])
    assert is_the_published_one(generator)
    assert len(list(cache.rglob("model-*-of-*.safetensors"))) > 2


@pytest.mark.parametrize("source", ["file", "folder", "generator"])
def test_the_tokenizer_alone(files, source, tmp_path):
    if source == "generator":
        convert.convert(files[0], tmp_path / "g", tokenizer=files[1])
    name = {"file": files[1], "folder": files[1].parent, "generator": tmp_path / "g"}[source]
    tokenizer = ImageTokenizer.from_pretrained(name)
    expected = var_case(CASE).expected
    with torch.no_grad():
        latents = tokenizer.encode_latents(expected["image"])
    assert torch.allclose(latents, expected["encoder_feature"], atol=1e-4)
    assert tokenizer.config.scales[-1] == (4 if source == "generator" else 16)


@pytest.mark.parametrize(("name", "side"), [("FoundationVision/var", 16), ("var-d36", 32)])
def test_the_tokenizer_of_a_hub_id(files, monkeypatch, name, side):
    monkeypatch.setattr(hub, "fetch", lambda *_: files[1])
    tokenizer = ImageTokenizer.from_pretrained(name, dtype=torch.float16)
    assert tokenizer.config.scales[-1] == side
    assert tokenizer.dtype == torch.float16


def test_packaged_presets_have_a_tokenizer_too():
    assert ImageTokenizer.from_pretrained("digits-var").config.image_size == 32


def test_the_command_makes_a_folder_whose_parts_load(files, tmp_path, monkeypatch, capsys):
    from transformers import AutoModel

    import arimage.auto  # noqa: F401

    arguments = ["convert", str(files[0]), str(tmp_path / "m"), "--tokenizer", str(files[1])]
    monkeypatch.setattr("sys.argv", ["arimage", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    assert "saved: " in capsys.readouterr().out
    generator = ImageGenerator.from_pretrained(tmp_path / "m")
    assert is_the_published_one(generator)
    for part in ("image_tokenizer", "transformer"):
        model = AutoModel.from_pretrained(tmp_path / "m" / part)
        assert model.config.model_type.startswith("arimage_")


def test_a_tokenizer_file_becomes_a_tokenizer_folder(files, tmp_path):
    convert.convert(files[1], tmp_path / "t", scales=(1, 2, 4))
    assert ImageTokenizer.from_pretrained(tmp_path / "t").config.image_size == 64


class Evil:
    """What a hostile pickle does: it names a function to call."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, files, zipped):
    bad = tmp_path / "var_d16.pth"
    content = {"model": var_case(CASE).var, "x": Evil(tmp_path / "ran")}
    torch.save(content, bad, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError) as caught:
        ImageGenerator.from_pretrained(bad, tokenizer=files[1])
    assert "was refused and nothing in it was run" in sentence(caught)
    assert not (tmp_path / "ran").exists()
    torch.load(bad, weights_only=False)  # the negative twin: it would have run
    assert (tmp_path / "ran").exists()


def write_text(path):
    path.write_text("<html>404</html>")


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "b")


def write_half(path):
    torch.save(var_case(CASE).var, path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("write", [write_text, write_zip, write_half, Path.touch])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_checkpoint_is_told(tmp_path, files, write, suffix):
    write(tmp_path / f"x{suffix}")
    with pytest.raises(ValueError) as caught:
        ImageGenerator.from_pretrained(tmp_path / f"x{suffix}", tokenizer=files[1])
    assert "is not a checkpoint that can be read" in sentence(caught)


def test_what_is_missing_is_told(files, tmp_path):
    cases = [
        ({"name": files[0]}, "no tokenizer in", "Give the tokenizer's file, too"),
        ({"name": files[1]}, "no transformer in", "known layouts: VAR, LlamaGen,"),
        ({"name": files[0], "tokenizer": "vae.pth"}, "no tokenizer file vae.pth", "hub id"),
        ({"name": save(tmp_path / "x.pth", {"a": torch.zeros(1)})}, "no transformer in", "x.pth"),
        ({"name": tmp_path / "no.pth"}, "no.pth", "folder that exists"),
    ]
    for arguments, *words in cases:
        with pytest.raises(FileNotFoundError) as caught:
            ImageGenerator.from_pretrained(**arguments)
        assert all(word in sentence(caught) for word in words)


def test_offline_says_which_file_from_where_and_how_to_place_it():
    for load in (
        lambda: ImageGenerator.from_pretrained("FoundationVision/var", variant="d16"),
        lambda: ImageTokenizer.from_pretrained("FoundationVision/var"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            load()
        text = sentence(caught)
        assert ".pth of the hub repository FoundationVision/var" in text
        assert "put it in a folder" in text


def test_files_that_do_not_fit_are_told(files, tmp_path):
    cases = [
        ({"name": files[0], "variant": "d20"}, "holds a VAR transformer of depth 2, not 20"),
        ({"name": files[0], "variant": "d21"}, "unknown variant 'd21'. Did you mean"),
        ({"name": "FoundationVision/var"}, "give variant: d16"),
    ]
    twice = save(tmp_path / "x.pth", {"model": var_case(CASE).var, "ema": var_case(CASE).var})
    cases.append(({"name": twice}, "found 2 sets of transformer weights (x.pth model, x.pth ema)"))
    for arguments, words in cases:
        with pytest.raises(ValueError) as caught:
            ImageGenerator.from_pretrained(tokenizer=files[1], **arguments)
        assert words in sentence(caught)


@pytest.mark.parametrize(
    ("name", "scales", "words"),
    [
        ("var_d36", VAR_SCHEDULES[256], "have 680 positions; the file has 2240 in 10 scales"),
        ("var_d16", VAR_SCHEDULES[512], "the schedule 1, 2, 3, 4, 5, 6, 8, 10, 13, 16 has"),
        ("var_d16", (1, 2), "have 5 positions; the file has 680"),
    ],
)
def test_a_schedule_that_is_not_the_files_is_told(name, scales, words):
    with pytest.raises(ValueError) as caught:
        VARLayout().convert(full_size(name), scales=scales)
    assert words in sentence(caught)


def test_an_unknown_schedule_is_asked_for():
    weights = dict(full_size("var_d16"))
    weights["pos_1LC"] = torch.empty(1, 681, 1024, device="meta")
    with pytest.raises(ValueError) as caught:
        VARLayout().convert(weights)
    assert "681 positions in 10 scales, which is no published schedule" in sentence(caught)


def test_labels_of_a_published_model(files):
    generator = ImageGenerator.from_pretrained(files[0], tokenizer=files[1])
    assert generator.labels([0, 10]) == [0, 10]  # 10 is no class
    for label, words in ((11, "expected 0 to 9, or 10 for no class"), (-1, "got class label -1")):
        with pytest.raises(ValueError) as caught:
            generator([label], seeds=0)
        assert words in sentence(caught)


def test_scales_on_the_command_line():
    assert parse_scales("1, 2,4") == [1, 2, 4]
    with pytest.raises(ValueError) as caught:
        parse_scales("1,x")
    assert "got scales '1,x'" in sentence(caught)
