"""``arimage generate`` for many images, on a packaged preset."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import fails, run

from arimage.cli import main
from arimage.generation import RECORD


def test_count_fills_a_folder_that_the_evaluator_reads(tmp_path):
    text = run("generate", "--count", 12, "--batch-size", 6, "--out", tmp_path / "samples")
    assert text.strip().endswith(f"images: {tmp_path / 'samples'}/")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    files = sorted((tmp_path / "samples").glob("*.png"))
    assert [f.name for f in files][::11] == [
        "000000_class0_seed0.png",
        "000011_class1_seed11.png",
    ]
    with Image.open(files[3]) as image:
        said = json.loads(image.info["arimage"])
    assert (said["model"], said["class_label"], said["seed"]) == ("digits-var", 3, 3)
    again = ("generate", "--count", 12, "--out", tmp_path / "samples")  # the folder's batch size
    assert run(*again).strip() == f"images: {tmp_path / 'samples'}/"
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    result = ("--classes", "0-9", "--format", "npz", "--batch-size", 6, "--count", 12)
    run("generate", *result, "--out", tmp_path / "arrays")
    npz = tmp_path / "arrays" / "samples.npz"
    with np.load(npz) as arrays:
        pixels = np.stack([np.asarray(Image.open(file)) for file in files])
        np.testing.assert_array_equal(arrays["arr_0"], pixels)
    options = ("--metrics", "fid", "--features", "pixels", "--reference", npz)
    for images in (tmp_path / "samples", npz):
        report = json.loads(run("evaluate", images, *options).strip().splitlines()[-1])
        assert report["scores"][0]["value"] == pytest.approx(0, abs=1e-6)


def test_per_class_drawn_labels_and_a_protocol(tmp_path):
    run("generate", "--classes", "7,1", "--per-class", 2, "--format", "png", "--out", tmp_path)
    labels = [name.split("_")[1] for name in sorted(p.name for p in tmp_path.glob("*.png"))]
    assert labels == ["class7", "class7", "class1", "class1"]
    run("generate", "--classes", "drawn", "--count", 2, "--out", tmp_path / "drawn")
    assert json.loads((tmp_path / "drawn" / RECORD).read_text())["labels"] == "drawn"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--count", "0"], ["got count 0"]),
        (["--count", "5", "--format", "jpeg"], ["unknown format 'jpeg'", "npz, png"]),
        (["--count", "5", "--per-class", "2"], ["--per-class 2 and 5", "one of them"]),
        (["--count", "5", "--out", "OUT.png"], ["OUT.png for many images", "give a folder"]),
        (["--count", "5", "--protocol", "digits-1k"], ["a protocol has its own"]),
        (["--protocol", "digit-1k"], ["unknown protocol 'digit-1k'", "digits-1k"]),
        (["--count", "5", "--classes", "12"], ["12", "0 to 9"]),
        (["--batch-size", "0", "--count", "5"], ["got batch_size 0"]),
    ],
)
def test_bad_input_gets_one_sentence_and_no_file(tmp_path, monkeypatch, capsys, arguments, words):
    text = fails(monkeypatch, capsys, "generate", "--out", tmp_path / "out", *arguments)
    assert all(word in text for word in words), text
    assert not list(tmp_path.iterdir())


def test_no_memory_for_a_single_image_gets_one_sentence(tmp_path, monkeypatch, capsys):
    def scarce(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("arimage.generator.generate", scarce)
    command = ["arimage", "generate", "--count", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        main()
    last = capsys.readouterr().err.strip().splitlines()[-1]  # below the bar
    assert last.startswith("arimage: a single image does not fit into memory (CUDA out of memory)")
