"""``arimage tokens``: what it writes, what it survives, what it refuses."""

import json
import os
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from shards import WRITERS
from tiny import sentence
from token_runs import CLASSES, files_of, go, write_classes, write_tokenizer
from transformers import PreTrainedModel

from arimage.images import center_crop, from_pixels, open_image
from arimage.pretrained import identity
from arimage.tokenizers.base import ImageTokenizer
from arimage.training import image_files, token_run
from arimage.training.token_data import INDEX, TOKENS, TokenData
from arimage.training.token_run import TokenRun, run_in_processes
from arimage.training.variants import VARIANTS, Augmentation


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("data") / "stripes")


@pytest.fixture(scope="module")
def whole(tokenizer, data, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "tokens"
    go(tokenizer, data, out, "flip")
    return out


def all_rows(tokens, variant=0):
    index = torch.arange(len(tokens))
    return tokens.rows(index, torch.full_like(index, variant))


@pytest.mark.parametrize("augment", VARIANTS)
def test_the_tokens_are_those_of_the_squares(tokenizer, data, tmp_path, augment):
    tokens = go(tokenizer, data, tmp_path / "tokens", augment)
    model = ImageTokenizer.from_pretrained(tokenizer)
    paths = sorted(data.rglob("*.png"))
    assert (len(tokens), tokens.variants) == (10, VARIANTS[augment][0])
    for variant in range(tokens.variants):
        ids, labels = all_rows(tokens, variant)
        assert labels.tolist() == [0] * 5 + [1] * 5
        squares = [Augmentation(name=augment).squares(open_image(p), 16, 0)[variant] for p in paths]
        assert torch.equal(ids, model.encode(from_pixels(np.stack(squares))))
        assert ids.dtype == labels.dtype == torch.int64


def test_a_run_leaves_shards_an_index_and_the_tokenizer(tokenizer, whole):
    names = set(files_of(whole))
    assert names == {
        *(f"shard-{i:05d}.safetensors" for i in range(4)),
        INDEX,
        "image_tokenizer/config.json",
        "image_tokenizer/model.safetensors",
    }
    about = json.loads((whole / INDEX).read_text())
    assert about["tokenizer"] == identity(ImageTokenizer.from_pretrained(tokenizer))
    assert about["class_names"] == list(CLASSES)
    assert about["class_counts"] == [5, 5]
    assert about["augmentation"] == {"name": "flip", "jittered_copies": 0}
    assert about["data"]["name"] == "stripes"
    assert [shard["images"] for shard in about["shards"]] == [3, 3, 3, 1]
    assert about["skipped"] == []
    assert str(whole.parent) not in (whole / INDEX).read_text()


def test_all_token_maps_are_kept_in_the_order_of_the_slots(tokenizer, data, whole):
    tokens, model = TokenData(whole), ImageTokenizer.from_pretrained(tokenizer)
    about = json.loads((whole / INDEX).read_text())
    assert about["grids"] == [list(grid) for grid in model.slots.grids]
    assert len(about["grids"]) > 1
    ids, _ = all_rows(tokens)
    first = center_crop(open_image(sorted(data.rglob("*.png"))[0]), 16)
    latents = model.encode_latents(from_pixels(np.asarray(first)[None]))
    assert torch.equal(model.canvas_of(ids[:1]), model.quantize(latents).codes)


@pytest.mark.parametrize("kind", WRITERS)
def test_labels_come_from_columns(tokenizer, tmp_path, kind):
    shards = WRITERS[kind](tmp_path / "data", 4, 3, broken=(2,))
    tokens = go(tokenizer, shards, tmp_path / "tokens")
    assert all_rows(tokens)[1].tolist() == [0, 1, 0, 1, 2, 0]
    assert tokens.num_classes == 3
    assert tokens.class_names == (["a", "b", "c"] if kind == "parquet" else None)
    assert len(tokens.skipped) == 1
    assert "image 2" in tokens.skipped[0]


def test_the_id_of_a_hub_data_set_is_kept_whole(tokenizer, tmp_path, monkeypatch):
    """And a local one has no path, also where it looks like an id."""
    (tmp_path / "owner").mkdir()
    shards = WRITERS["parquet"](tmp_path / "owner" / "photos", 4, 3)
    monkeypatch.setattr(image_files, "find_shards", lambda path: [])
    found = datasets.load_dataset("parquet", data_dir=str(shards), split="train")
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **_: {"train": found})
    tokens = go(tokenizer, "owner/photos", tmp_path / "tokens")
    about = json.loads((tmp_path / "tokens" / INDEX).read_text())
    assert about["data"]["name"] == tokens.dataset == tokens.describe()["dataset"] == "owner/photos"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert go(tokenizer, "owner/photos", tmp_path / "local").dataset == "photos"


def test_an_index_of_before_has_no_data_set_or_a_short_one(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "tokens")
    about = json.loads((out / INDEX).read_text())
    del about["data"]
    (out / INDEX).write_text(json.dumps(about))
    assert TokenData(out).dataset is None
    assert TokenData(out).identity == TokenData(whole).identity


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def sabotaged(tokenizer, data, out, name, count, augment="flip"):
    """A run that a patch kills at the given call of a function."""
    torch.set_num_threads(1)
    home = PreTrainedModel if name == "tokenizer" else token_run
    name = "save_pretrained" if name == "tokenizer" else name
    left, plain = iter(range(count)), getattr(home, name)

    def dying(*args, **kwargs):
        if next(left, None) is not None:
            return plain(*args, **kwargs)
        if name in ("save_file", "save_pretrained"):
            plain(*args, **kwargs)
        if name == "save_file":  # half a shard
            os.truncate(args[1], os.path.getsize(args[1]) // 2)
        return die()

    setattr(home, name, dying)
    go(tokenizer, data, out, augment)


def kill(*arguments):
    process = get_context("fork").Process(target=sabotaged, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


KILLS = [
    [("save_file", 0), ("save_file", 1), ("write_json", 0)],
    [("read_metadata", 2), ("save_file", 3), ("read_metadata", 6)],
    [("new_file", 2), ("tokenizer", 0), ("TokenData", 0)],
]


@pytest.mark.parametrize("kills", KILLS)
def test_a_killed_run_goes_on_bit_identically(tokenizer, data, whole, tmp_path, kills):
    out = tmp_path / "tokens"
    for name, count in kills:
        kill(tokenizer, data, out, name, count)
    go(tokenizer, data, out, "flip")
    assert files_of(out) == files_of(whole)


def test_twenty_crops_survive_a_kill(tokenizer, data, tmp_path):
    kill(tokenizer, data, tmp_path / "tokens", "save_file", 1, "twenty_crop")
    made = go(tokenizer, data, tmp_path / "tokens", "twenty_crop")
    go(tokenizer, data, tmp_path / "whole", "twenty_crop")
    assert files_of(tmp_path / "tokens") == files_of(tmp_path / "whole")
    assert made.variants == 20


def test_what_is_made_is_not_made_again(tokenizer, data, whole, tmp_path, monkeypatch):
    out = shutil.copytree(whole, tmp_path / "tokens")
    (out / "shard-00001.safetensors").unlink()
    torn = out / "shard-00003.safetensors"
    torn.write_bytes(torn.read_bytes()[:-5])
    written, plain = [], token_run.save_file

    def noted(arrays, path, metadata):
        written.append(arrays["index"].tolist())
        plain(arrays, path, metadata)

    monkeypatch.setattr(token_run, "save_file", noted)
    go(tokenizer, data, out, "flip")
    assert written == [[3, 4, 5], [9]]
    assert files_of(out) == files_of(whole)


def test_shares_make_the_same_and_the_last_one_finishes(tokenizer, data, whole, tmp_path):
    out = tmp_path / "tokens"
    assert go(tokenizer, data, out, "flip", share=(1, 3)) is None
    assert set(files_of(out)) == {"shard-00001.safetensors"}
    with pytest.raises(ValueError, match="not complete"):
        TokenData(out)
    assert go(tokenizer, data, out, "flip", share=(0, 3)) is None
    assert len(go(tokenizer, data, out, "flip", share=(2, 3))) == 10
    assert files_of(out) == files_of(whole)


def test_torchrun_shares_the_shards(tokenizer, data, whole, tmp_path, monkeypatch):
    asked = {"batch_size": 2, "shard_size": 3, "progress": False, "data": str(data)}
    augmentation = Augmentation(name="flip")
    out = tmp_path / "tokens"
    run = TokenRun(tokenizer=str(tokenizer), out=out, augmentation=augmentation, **asked)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run_in_processes(run, 1) is None
    monkeypatch.setenv("RANK", "0")
    assert len(run_in_processes(run, 1)) == 10
    assert files_of(out) == files_of(whole)


def test_a_data_set_that_was_moved_is_the_same(tokenizer, data, whole, tmp_path):
    out, moved = tmp_path / "tokens", shutil.copytree(data, tmp_path / "elsewhere")
    shutil.copytree(whole, out)
    assert len(go(tokenizer, moved, out, "flip")) == 10


def test_another_image_makes_other_tokens(tokenizer, data, whole, tmp_path):
    """The negative twin."""
    other = shutil.copytree(data, tmp_path / "stripes")
    shutil.copy(sorted(data.rglob("*.png"))[0], sorted(other.rglob("*.png"))[4])
    tokens = go(tokenizer, other, tmp_path / "tokens", "flip")
    assert tokens.identity != TokenData(whole).identity
    changed = {n for n, b in files_of(tokens.folder).items() if b != files_of(whole)[n]}
    assert changed == {INDEX, "shard-00001.safetensors"}


def test_broken_images_are_skipped_counted_and_named(tokenizer, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / "across" / "04.png").write_bytes(b"not an image")
    tokens = go(tokenizer, folder, tmp_path / "tokens", "flip")
    assert len(tokens) == 9
    assert tokens.skipped[0].startswith(os.path.join("across", "04.png"))
    about = json.loads((tmp_path / "tokens" / INDEX).read_text())
    assert about["class_counts"] == [4, 5]
    clean, _ = all_rows(go(tokenizer, data, tmp_path / "clean", "flip"))
    kept = [i for i in range(10) if i != 2]
    assert torch.equal(all_rows(tokens)[0], clean[kept])


def test_nothing_but_broken_images_is_an_error(tokenizer, tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "data", 6)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="6 images in a row cannot be used"):
        go(tokenizer, folder, tmp_path / "tokens")
    assert not files_of(tmp_path / "tokens")
    monkeypatch.setattr("arimage.training.token_encoder.BROKEN_IN_A_ROW", 2)
    with pytest.raises(ValueError, match="3 images in a row cannot be used"):
        go(tokenizer, folder, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists() or not files_of(tmp_path / "tokens")


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"augment": "none"}, "augmentation.name: flip, now none"),
        ({"batch_size": 4}, "batch_size: 2, now 4"),
        ({"shard_size": 5}, "shard_size: 3, now 5"),
        ({"data": "other"}, "data.identity"),
        ({"tokenizer": "other"}, "another tokenizer: "),
    ],
)
def test_a_folder_with_other_tokens_is_not_mixed(tokenizer, data, whole, tmp_path, fields, key):
    out, before = shutil.copytree(whole, tmp_path / "tokens"), files_of(whole)
    if "data" in fields:
        fields = {"data": write_classes(tmp_path / "stripes", 8)}
    if "tokenizer" in fields:
        fields = {"tokenizer": write_tokenizer(tmp_path / "other", "vq")}
    asked = {"tokenizer": tokenizer, "data": data, "augment": "flip", **fields}
    with pytest.raises(ValueError) as caught:
        go(out=out, **asked)
    assert key in sentence(caught)
    assert files_of(out) == before


def test_a_folder_of_the_older_form_is_left_alone(tokenizer, data, tmp_path):
    (tmp_path / TOKENS).write_bytes(b"")
    with pytest.raises(FileExistsError, match="choose another folder"):
        go(tokenizer, data, tmp_path)


def test_images_without_classes_are_refused_and_one_folder_is_one_class(tokenizer, tmp_path):
    write_classes(tmp_path / "flat", 4, ("",))
    with pytest.raises(ValueError, match="have no classes") as caught:
        go(tokenizer, tmp_path / "flat", tmp_path / "tokens")
    assert "sub-folder" in sentence(caught)
    assert not (tmp_path / "tokens").exists()
    tokens = go(tokenizer, write_classes(tmp_path / "one", 4, ("cat",)), tmp_path / "tokens")
    assert (tokens.num_classes, tokens.class_names) == (1, ["cat"])


def test_unknown_classes_of_a_test_split_are_refused(tokenizer, tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "data", 4)
    minus = np.array([0, -1, -1, -1])
    monkeypatch.setattr(image_files, "labels_of", lambda names: minus)
    with pytest.raises(ValueError, match="class labels from -1"):
        go(tokenizer, folder, tmp_path / "tokens")


@pytest.mark.parametrize("name", ["batch_size", "shard_size", "workers"])
def test_numbers_that_are_too_small_are_told(name):
    with pytest.raises(ValueError, match=f"got {name} -1"):
        TokenRun(tokenizer="digits-var", data="x", out=Path("y"), **{name: -1})
