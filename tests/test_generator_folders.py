"""Saved generators: folders, presets, names that lead nowhere."""

import json

import numpy as np
import pytest
import torch
from tiny import MODEL_CASES, make_generator, sentence

from arimage.generator import ImageGenerator
from arimage.hub import locate
from arimage.pretrained import identity
from arimage.sampling.guidance import PowerCosine, Schedule
from arimage.tokenizers.base import ImageTokenizer
from arimage.zoo import PRESETS, Preset

pytestmark = pytest.mark.untyped


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_a_saved_generator_makes_the_same_images(name, order, tmp_path):
    generator = make_generator(
        name, order, guidance_scale=2.0, guidance_schedule=PowerCosine(2.0), top_k=20
    )
    generator.class_names = ["a", "b", "c"]
    generator.save_pretrained(tmp_path)
    loaded = ImageGenerator.from_pretrained(tmp_path)
    assert loaded.settings == generator.settings
    assert loaded.class_names == ["a", "b", "c"]
    ours, theirs = (g(["c", "a"], seeds=5, output_type="pixels") for g in (generator, loaded))
    assert torch.equal(ours.ids, theirs.ids)
    assert np.abs(ours.images.astype(int) - theirs.images.astype(int)).max() <= 1
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["image_tokenizer"][1] == type(generator.tokenizer).__name__


@pytest.fixture
def folder(tmp_path):
    make_generator("llama", "raster").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(folder, kind):
    with pytest.raises(kind) as caught:
        ImageGenerator.from_pretrained(folder)
    return sentence(caught)


def test_half_precision_is_stored_and_float32_is_loaded(folder):
    generator = ImageGenerator.from_pretrained(folder)
    generator.save_pretrained(folder / "half", dtype=torch.float16)
    assert generator.transformer.dtype == torch.float32
    size = (folder / "transformer" / "model.safetensors").stat().st_size
    half = (folder / "half" / "transformer" / "model.safetensors").stat().st_size
    assert half < 0.6 * size
    loaded = ImageGenerator.from_pretrained(folder / "half")
    assert loaded.transformer.dtype == loaded.tokenizer.dtype == torch.float32


def test_an_incomplete_folder_is_told(folder):
    assert "no model_index.json in" in refused(folder.parent, FileNotFoundError)
    (folder / "transformer" / "config.json").unlink()
    assert "no transformer/config.json in" in refused(folder, FileNotFoundError)


def test_a_part_of_an_unknown_family_is_told(folder):
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": "arimage_lama"}))
    assert "unknown transformer 'lama'. Did you mean 'llama'" in refused(folder, ValueError)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": {"top_q": 1}}, "unknown sampling setting 'top_q'. Did you mean 'top_"),
        ({"sampling": {"top_p": 3.0}}, "got top_p 3.0"),
        ({"class_names": ["a"]}, "got 1 class names for 3 classes"),
    ],
)
def test_a_broken_index_is_told(folder, changes, message):
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert message in refused(folder, ValueError)


def test_a_failing_save_leaves_the_old_folder(folder, monkeypatch):
    generator = ImageGenerator.from_pretrained(folder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(type(generator.transformer), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        generator.save_pretrained(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_an_unknown_preset_gets_the_nearest_ones(monkeypatch):
    preset = Preset(
        name="toy-raster",
        folder="presets/toy-raster",
        order="raster",
        image_size=16,
        num_classes=3,
        parameters=(1, 1),
        licence="Apache-2.0",
        data="none",
        paper="2406.06525",
        command="none",
        verified="not verified",
    )
    monkeypatch.setitem(PRESETS, "toy-raster", preset)
    with pytest.raises(FileNotFoundError) as caught:
        ImageGenerator.from_pretrained("toy-rastr")
    text = sentence(caught)
    assert "unknown preset 'toy-rastr'. Did you mean 'toy-raster'" in text
    assert "or give a folder that exists, or a hub id 'owner/name'" in text
    assert locate("toy-raster").parts[-2:] == ("presets", "toy-raster")


def test_names_that_lead_nowhere_are_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError) as caught:
        locate(tmp_path / "file")
    assert "is a file; give the folder made by save_pretrained" in sentence(caught)
    with pytest.raises(FileNotFoundError) as caught:
        locate("nobody/nothing")
    assert "cannot get 'nobody/nothing' from the hub" in sentence(caught)
    assert locate(tmp_path) == tmp_path


def test_a_schedule_that_is_not_registered_cannot_be_saved(tmp_path):
    class Mine(Schedule):
        def __call__(self, scale, index, num_steps):
            return scale

    generator = make_generator("llama", "raster", guidance_schedule=Mine())
    with pytest.raises(ValueError) as caught:
        generator.save_pretrained(tmp_path / "out")
    assert "Mine is not a registered guidance schedule" in sentence(caught)
    assert list(tmp_path.iterdir()) == []


def test_a_fine_tuned_tokenizer_takes_the_place_of_the_one_in_the_folder(tmp_path):
    tuned = ImageTokenizer.from_pretrained("digits-var")
    with torch.no_grad():
        for parameter in tuned.decoder.parameters():
            parameter.mul_(1.01)
    tuned.save_pretrained(tmp_path / "tuned")
    exact = {"dtype": torch.float32}
    generator = ImageGenerator.from_pretrained("digits-var", tokenizer=tmp_path / "tuned", **exact)
    assert identity(generator.tokenizer) == identity(tuned)
    plain = ImageGenerator.from_pretrained("digits-var", **exact)
    images = [g([3], seeds=[0], output_type="pixels") for g in (generator, plain)]
    assert images[0].ids.equal(images[1].ids)
    assert (images[0].images != images[1].images).any()
    other = ImageTokenizer.from_pretrained("digits-llamagen")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError) as caught:
        ImageGenerator.from_pretrained("digits-var", tokenizer=tmp_path / "other")
    assert "use the pair that was trained together" in sentence(caught)
