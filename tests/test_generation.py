"""Folders of any number of images: killed, gone on with, shared by processes; what is refused."""

import errno
import json
import os
import signal
import zipfile
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from tiny import TEXT, make_encoder, make_generator, make_model, make_tokenizer, sentence

from arimage.eval.protocols import EvaluationProtocol
from arimage.eval.sources import open_path
from arimage.generation import RECORD, generate_to
from arimage.generation_files import NpzFile, is_whole_png
from arimage.generator import ImageGenerator
from arimage.images import read_image, write_png
from arimage.sampling.loop import generate

COUNT, BATCH = 7, 2
BALANCED = [0, 1, 2, 0, 1, 2, 0]


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return make_generator("var", "next_scale", guidance_scale=2.0)


@pytest.fixture(scope="module")
def expected(generator):
    """The images, sampled one batch after the other."""
    made = generator.batches(BALANCED, seeds=0, batch_size=BATCH)
    return np.concatenate([pixels for pixels, _ in made])


@pytest.fixture(scope="module")
def whole(generator, tmp_path_factory):
    """What a run leaves that was never stopped, for each kind of files."""
    folder = tmp_path_factory.mktemp("whole")
    for files in ("png", "npz"):
        go(generator, folder / files, files=files)
    return {files: files_of(folder / files) for files in ("png", "npz")}


def go(generator, out, **changes):
    return generate_to(generator, out, **{"count": COUNT, "batch_size": BATCH, **changes})


def files_of(folder):
    """Every file below a folder, hidden ones too."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def in_process(*calls):
    """Runs each in a process of its own, all at once; their exit codes."""
    fork = get_context("fork")  # quicker than starting anew; conftest has one thread
    workers = [fork.Process(target=call) for call in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return [worker.exitcode for worker in workers]


def killed_at(move, call):
    """``call`` in a process that is killed when it is about to move its n-th file into place."""

    def run():
        moves, replace = iter(range(1, 99)), os.replace

        def counted(source, target):
            if next(moves) == move:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = counted
        call()

    assert in_process(run) == [-signal.SIGKILL]


def test_a_folder_has_a_png_per_image_as_if_made_one_after_the_other(
    generator, expected, whole, tmp_path
):
    assert go(generator, tmp_path) == tmp_path
    names = [f"{i:06d}_class{label}_seed{i}.png" for i, label in enumerate(BALANCED)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, RECORD]
    pixels = np.stack([read_image(tmp_path / name) for name in names])
    np.testing.assert_array_equal(pixels, expected)
    source = open_path(tmp_path)
    assert source.labels.tolist() == BALANCED
    np.testing.assert_array_equal(source.read(0, COUNT).pixels, expected)
    assert files_of(tmp_path) == whole["png"]


def test_a_npz_is_as_the_published_evaluator_takes_it(generator, expected, whole, tmp_path):
    result = go(generator, tmp_path, files="npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "samples.npz"]
    with np.load(result, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], expected)
        assert arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == BALANCED
    assert zipfile.ZipFile(result).testzip() is None
    source = open_path(result)
    assert isinstance(source.pixels, np.memmap)
    assert source.labels.tolist() == BALANCED
    np.testing.assert_array_equal(source.read(0, COUNT).pixels, expected)
    assert files_of(tmp_path) == whole["npz"]


@pytest.mark.parametrize(
    ("files", "move"), [("png", 1), ("png", 4), ("png", 8), ("npz", 1), ("npz", 3), ("npz", 6)]
)
def test_a_killed_run_goes_on_and_gives_the_same_files(generator, whole, tmp_path, files, move):
    """The record is the first move; an npz is put together in the sixth, of four arrays."""
    killed_at(move, lambda: go(generator, tmp_path, files=files))
    left = files_of(tmp_path)
    assert any(name.startswith(".") for name in left)
    images = sorted(tmp_path.glob("[!.]*_seed*.png"))
    kept = {path: path.stat().st_mtime_ns for path in images[: len(images) // BATCH * BATCH]}
    assert len(images) == (max(0, move - 2) if files == "png" else 0)
    go(generator, tmp_path, files=files)
    assert files_of(tmp_path) == whole[files]
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.parametrize("files", ["png", "npz"])
def test_two_processes_one_of_them_killed_give_the_same_files(generator, whole, tmp_path, files):
    killed_at(2, lambda: go(generator, tmp_path, files=files, share=(1, 2)))
    shares = [(i, 2) for i in range(2)]
    calls = [lambda s=share: go(generator, tmp_path, files=files, share=s) for share in shares]
    assert in_process(*calls) == [0, 0]
    assert files_of(tmp_path) == whole[files]


def test_a_share_is_its_own_batches(generator, whole, tmp_path):
    assert go(generator, tmp_path, share=(1, 2)) is None
    made = sorted(name for name in files_of(tmp_path) if "seed" in name)
    assert [int(name[:6]) for name in made] == [2, 3, 6]
    assert go(generator, tmp_path, share=(0, 2)) == tmp_path
    assert files_of(tmp_path) == whole["png"]


def test_torchrun_says_which_share(generator, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert go(generator, tmp_path) is None
    assert [int(name[:6]) for name in files_of(tmp_path) if "seed" in name] == [6]
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ValueError, match="got RANK 4 and WORLD_SIZE 4"):
        go(generator, tmp_path)


def test_broken_files_are_made_again(generator, whole, tmp_path):
    go(generator, tmp_path / "png")
    torn, empty = sorted((tmp_path / "png").glob("*.png"))[2:4]
    torn.write_bytes(torn.read_bytes()[:-20])
    empty.write_bytes(b"")
    assert not is_whole_png(torn)
    go(generator, tmp_path / "png")
    assert files_of(tmp_path / "png") == whole["png"]
    result = go(generator, tmp_path / "npz", files="npz")
    result.write_bytes(result.read_bytes()[:-100])
    go(generator, tmp_path / "npz", files="npz")
    assert files_of(tmp_path / "npz") == whole["npz"]


def test_a_complete_folder_is_left_as_it_is(generator, tmp_path, monkeypatch):
    for files in ("png", "npz"):
        go(generator, tmp_path / files, files=files)
    monkeypatch.setattr("arimage.generator.generate", None)  # nothing is sampled
    for files in ("png", "npz"):
        go(generator, tmp_path / files, files=files, batch_size=None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 3}, ["another batch_size: 2, now 3", "may differ by rounding"]),
        ({"count": 8}, ["another count: 7, now 8"]),
        ({"seed": 1}, ["another seeds: 0-6, now 1-7"]),
        ({"labels": "drawn"}, ["another labels: balanced, now drawn"]),
        ({"labels": [0, 2]}, ["another labels: balanced, now given"]),
        ({"top_k": 3}, ["another sampling.top_k: None, now 3"]),
        ({"files": "npz"}, ["another files: png, now npz"]),
    ],
)
def test_other_settings_than_the_folders_are_refused(
    generator, whole, tmp_path, monkeypatch, changes, words
):
    (tmp_path / RECORD).write_bytes(whole["png"][RECORD])
    monkeypatch.setattr("arimage.generator.generate", None)
    with pytest.raises(ValueError) as caught:
        go(generator, tmp_path, **changes)
    assert all(word in sentence(caught) for word in [*words, "choose another folder"])
    assert len(files_of(tmp_path)) == 1


def test_another_model_than_the_folders_is_refused(whole, tmp_path):
    (tmp_path / RECORD).write_bytes(whole["png"][RECORD])
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"another model\.weights\.image_tokenizer"):
        go(make_generator("llama", "raster", guidance_scale=2.0), tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"count": 0}, ValueError, "got count 0; expected an integer >= 1"),
        ({"count": None}, ValueError, "got no count"),
        ({"files": "jpeg"}, KeyError, "unknown format 'jpeg'"),
        ({"batch_size": 0}, ValueError, "got batch_size 0"),
        ({"share": (4, 5)}, ValueError, "got 5 processes for 4 batches of 2 images"),
        ({"labels": "random"}, ValueError, "got labels 'random'; expected 'balanced', 'drawn'"),
        ({"labels": [3, 4]}, ValueError, "class label 4"),
        ({"prompts": ["a corgi"]}, ValueError, "got prompts; this model draws one of 3 classes"),
        ({"seed": -1}, ValueError, "got seed -1"),
        ({"rng": "reference"}, ValueError, "draws for a whole batch"),
        ({"topk": 3}, TypeError, "unknown sampling setting 'topk'"),
        ({"protocol": "digits-1k"}, ValueError, "a protocol has its own"),
        ({"protocol": "digits-1k", "count": None}, ValueError, "asks for 10 classes"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(generator, tmp_path, changes, error, words):
    with pytest.raises(error) as caught:
        go(generator, tmp_path / "out", **changes)
    assert words in sentence(caught)
    assert not (tmp_path / "out").exists()


def test_images_of_unknown_origin_are_not_kept(generator, tmp_path):
    write_png(tmp_path / "000000_class0_seed0.png", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(FileExistsError, match=r"holds 000000_class0_seed0.png and no generation"):
        go(generator, tmp_path)


def test_a_folder_that_cannot_be_made_is_told(generator, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot create the folder"):
        go(generator, tmp_path / "file" / "out")


@pytest.mark.parametrize("files", ["png", "npz"])
def test_a_full_disk_is_told_and_complete_files_stay(
    generator, whole, tmp_path, monkeypatch, files
):
    replace, moves = os.replace, iter(range(99))

    def full(source, target):
        if next(moves) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("arimage.files.os.replace", full)
        with pytest.raises(OSError) as caught:
            go(generator, tmp_path, files=files)
    text = sentence(caught)
    assert f"cannot write in {tmp_path} (No space left on device)" in text
    assert "what is complete stays there and the same command goes on" in text
    left = files_of(tmp_path)
    assert len(left) == 3  # the record, and two images or arrays
    assert not any(name.startswith(".") for name in left)
    go(generator, tmp_path, files=files)
    assert files_of(tmp_path) == whole[files]


def test_a_batch_that_does_not_fit_is_halved_also_after_a_kill(
    generator, whole, tmp_path, monkeypatch
):
    sampled = []

    def scarce(branches, order, sampler, noise, known=None, run=None):
        sampled.append(noise.batch)
        if noise.batch > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(branches, order, sampler, noise, known, run)

    monkeypatch.setattr("arimage.generator.generate", scarce)
    with pytest.warns(RuntimeWarning, match="memory ran out with 2 images at once"):
        go(generator, tmp_path, share=(0, 2))
    assert sampled == [2, 1, 1, 1, 1]
    assert json.loads((tmp_path / RECORD).read_text())["sampled_together"] == 1
    go(generator, tmp_path)
    assert sampled[5:] == [1, 1, 1]
    images = {name: data for name, data in files_of(tmp_path).items() if name != RECORD}
    assert images.items() <= whole["png"].items()
    assert len(images) == COUNT


def test_labels_are_drawn_from_seeds_or_given_in_turn(generator, tmp_path):
    drawn = generator(count=5, seeds=4, output_type="pixels", batch_size=5)
    result = go(generator, tmp_path / "d", count=5, seed=4, labels="drawn", files="npz")
    with np.load(result) as arrays:
        assert arrays["arr_1"].tolist() == drawn.class_labels
    go(generator, tmp_path / "g", count=5, labels=[2, 0])
    assert open_path(tmp_path / "g").labels.tolist() == [2, 0, 2, 0, 2]
    go(generator, tmp_path / "all", count=None, labels=[2, 0])
    assert open_path(tmp_path / "all").labels.tolist() == [2, 0]


def test_a_protocol_brings_labels_seeds_size_and_rounding(generator, tmp_path):
    protocol = EvaluationProtocol(
        name="small-v1",
        count=5,
        num_classes=3,
        labels="uniform",
        first_seed=9,
        image_size=8,
        rounding="down",
        settings={"top_k": 4},
    )
    source = generator.stream_dataset(protocol, batch_size=2)
    result = go(generator, tmp_path, count=None, protocol=protocol, files="npz")
    np.testing.assert_array_equal(open_path(result).read(0, 5).pixels, source.read(0, 5).pixels)
    assert open_path(result).labels.tolist() == protocol.class_labels().tolist()
    record = json.loads((tmp_path / RECORD).read_text())
    assert (record["protocol"], record["seeds"], record["rounding"]) == ("small-v1", "9-13", "down")
    assert record["sampling"]["top_k"] == 4


def test_prompts_are_taken_in_turn(tmp_path):
    torch.manual_seed(0)
    encoder = make_encoder(tmp_path / "t5", TEXT["text_width"])
    parts = make_tokenizer("vq"), make_model("llama_text", "raster")
    generator = ImageGenerator(*parts, text_encoder=encoder)
    result = go(generator, tmp_path / "npz", prompts=["a corgi", "the moon"], files="npz", count=3)
    output = generator(
        prompts=["a corgi", "the moon", "a corgi"], seeds=0, batch_size=2, output_type="pixels"
    )
    with np.load(result) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], output.images)
        assert arrays.files == ["arr_0"]
    with pytest.raises(ValueError, match="got no prompt"):
        go(generator, tmp_path / "no")
    with pytest.raises(ValueError, match="got class_labels; this model draws from text"):
        go(generator, tmp_path / "no", labels="drawn")


def test_no_more_than_a_batch_is_held_while_a_npz_is_put_together(generator, tmp_path, monkeypatch):
    read, load = [], np.load
    monkeypatch.setattr(NpzFile, "holds", lambda self, batch: self._part(batch).is_file())
    monkeypatch.setattr(np, "load", lambda *a, **k: read.append(load(*a, **k)) or read[-1])
    go(generator, tmp_path, files="npz")
    assert [len(array) for array in read] == [2, 2, 2, 1]
