"""What a record must not leave out, and what must not be compared."""

import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from arimage.eval.base import feature_extractor
from arimage.eval.compare import compare
from arimage.eval.extraction import Pass, extract
from arimage.eval.features.pixels import PixelFeatures
from arimage.eval.metrics.inception_score import InceptionScore
from arimage.eval.metrics.precision_recall import Precision
from arimage.eval.pairs import evaluate_reconstructions
from arimage.eval.protocols import EvaluationProtocol
from arimage.eval.registry import FEATURES
from arimage.eval.runner import evaluate
from arimage.eval.sources import ReadOptions, labels_of, open_path
from arimage.images import write_png


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, (50, 12, 10, 3), dtype=np.uint8)


@pytest.fixture
def folder(images, tmp_path):
    for i, pixels in enumerate(images):
        write_png(tmp_path / "png" / f"{i:02d}.png", pixels)
    (tmp_path / "png" / "05b.png").write_bytes((tmp_path / "png" / "05.png").read_bytes()[:120])
    return tmp_path / "png"


def said(report):
    return " | ".join(report.protocol.warnings)


def test_folders_named_by_numbers_are_those_classes():
    assert labels_of(["10/a.png", "2/b.png", "0/c.png"]).tolist() == [10, 2, 0]
    assert labels_of(["val/n02/a.png", "val/n01/b.png"]).tolist() == [1, 0]
    assert labels_of(["train/a.png", "val/a.png"]).tolist() == [0, 1]


def sixteen_bits(path):
    """A PNG of 16 bits per colour, which Pillow would quietly cut to 8."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 10, 12, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(60)) for _ in range(12))
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_sixteen_bits_per_colour_are_refused(tmp_path):
    sixteen_bits(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as opened:
        assert opened.mode == "RGB"
    with pytest.raises(ValueError, match=r"deep\.png has more than 8 bits per channel"):
        open_path(tmp_path).read(0, 1)


def test_locked_and_damaged_archives_and_giant_images_are_named(images, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        write_png(tmp_path / "x.png", np.zeros((90, 90, 3), np.uint8))
        archive.writestr("a.png", (tmp_path / "x.png").read_bytes() * 9)
        info = archive.getinfo("a.png")
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[info.header_offset + 40 : info.header_offset + 60] = b"\xff" * 20
    (tmp_path / "a.zip").write_bytes(bytes(raw))
    (name,) = open_path(tmp_path / "a.zip").read(0, 1).skipped
    assert "a.png is damaged or locked" in name
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "big").mkdir()
    write_png(tmp_path / "big" / "b.png", images[0].repeat(3, axis=0))
    (name,) = open_path(tmp_path / "big").read(0, 1).skipped
    assert "b.png is not a readable image" in name


def test_strict_also_stops_where_features_are_cached(folder, tmp_path):
    how = Pass(8, tmp_path / "cache")
    assert sum(len(b["pixels"].kept) for b in extract(folder, [PixelFeatures()], None, how)) == 50
    with pytest.raises(ValueError, match=r"05b\.png is not a readable image"):
        list(extract(open_path(folder, ReadOptions(strict=True)), [PixelFeatures()], None, how))


def test_a_damaged_or_differently_sized_reference_is_told(folder, images):
    report = evaluate(images, metrics=["fid"], features="pixels", reference=folder)
    assert "1 images of png could not be read" in said(report)
    small = evaluate(images[:, :10], metrics=["fid"], features="pixels", reference=folder)
    assert "the images have 10 x 10 pixels and the reference 10 x 12" in said(small)


def test_broken_originals_of_a_tokenizer_are_told(folder):
    report = evaluate_reconstructions(
        folder, lambda pixels: pixels, metrics=["psnr", "rfid"], features="pixels"
    )
    assert report.protocol.count == 50
    assert "05b.png" in report.protocol.skipped[0]
    assert report.protocol.size == (12, 10)
    assert "1 images could not be read" in said(report)
    assert "50 images are few: rfid" in said(report)


def test_few_images_and_features_are_told_whatever_the_order(images, noise_pixels):
    for metrics in (["fid", "copies"], ["copies", "fid"]):
        report = evaluate(
            images, metrics=metrics, features="pixels", reference=noise_pixels, training=images
        )
        assert "50 images are few: fid depend" in said(report)
        assert "50 images for 64 features: the covariance of fid is singular" in said(report)
    report = evaluate(images, metrics=["recall"], features="pixels", reference=noise_pixels)
    assert "50 images are few: recall" in said(report)


def test_sorted_images_are_noticed_without_labels():
    class Classes(PixelFeatures):
        name = "classes"

        def __call__(self, pixels, labels=None):
            batch = super().__call__(pixels, labels)
            rows = np.full((len(pixels), 10), 1e-3)
            rows[np.arange(len(pixels)), pixels[:, 0, 0, 0]] = 1
            rows /= rows.sum(axis=1, keepdims=True)
            object.__setattr__(batch, "probabilities", rows)
            return batch

    classes = np.arange(200) // 20
    pixels = np.broadcast_to(classes[:, None, None, None], (200, 9, 9, 3)).astype(np.uint8)
    ordered = evaluate(pixels, metrics=["inception_score"], features=Classes())
    assert "the images come sorted by class" in said(ordered)
    assert ordered["inception_score"].details["shuffled"] > 5 * ordered["inception_score"].value
    mixed = evaluate(
        pixels[np.random.default_rng(0).permutation(200)],
        metrics=["inception_score"],
        features=Classes(),
    )
    assert "sorted" not in said(mixed)


def test_settings_of_metrics_are_recorded_and_compared(images, noise_pixels, untrained):
    call = {"features": untrained, "reference": noise_pixels}
    one = evaluate(images, metrics=[Precision(k=3)], **call)
    assert one["precision"].settings == {"k": 3}
    for other in (Precision(k=5), Precision(k=4)):
        with pytest.raises(ValueError, match="settings of precision"):
            compare(one, evaluate(images, metrics=[other], **call))
    a = evaluate(images, metrics=[InceptionScore()], features=untrained)
    b = evaluate(images, metrics=[InceptionScore(seed=2020)], features=untrained)
    with pytest.raises(ValueError, match="settings of inception_score"):
        compare(a, b)
    compare(one, evaluate(images[::-1].copy(), metrics=["precision"], **call))


def test_a_protocol_carries_the_settings_of_metrics(images, untrained):
    plan = EvaluationProtocol(
        name="p-v1",
        count=50,
        num_classes=10,
        image_size=12,
        features="digits",
        reference="digits",
        metrics=("inception_score",),
        metric_settings={"inception_score": {"split_size": 20}},
    )
    report = evaluate(images, protocol=plan, features=untrained)
    assert report["inception_score"].details["splits"] == 3
    assert report["inception_score"].settings["split_size"] == 20


def test_an_own_wish_for_errors_is_kept(images, noise_pixels):
    metric = Precision()
    metric.uncertain = True
    report = evaluate(images, metrics=[metric], features="pixels", reference=noise_pixels)
    assert report["precision"].standard_error > 0


def test_only_extractors_that_a_metric_wants_are_made(images, noise_pixels, monkeypatch):
    report = evaluate(images, metrics=["copies"], training=noise_pixels)  # not the FID Inception
    assert report.protocol.features == "pixels"
    monkeypatch.setitem(FEATURES._table, "dinov2", f"{__name__}:Other")
    assert feature_extractor("dinov2=some/folder").name == "dinov2@some/folder"
    call = {"metrics": ["fd_dinov2", "fid"], "reference": noise_pixels}
    report = evaluate(images, features="dinov2=mine", **call)
    assert report["fd_dinov2"].features == report["fid"].features == "dinov2@mine"


class Other(PixelFeatures):
    """An extractor with weights of its own."""

    def __init__(self, weights="default"):
        self.name = f"dinov2@{weights}"


def test_metrics_are_chosen_where_none_are_named(images, noise_pixels):
    report = evaluate(images, features="pixels", reference=noise_pixels)
    assert list(report) == ["fid", "precision", "recall"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [-1] * 50}, "got the label -1; classes count from 0"),
        ({"reference": "nowhere.npz"}, r"nowhere\.npz is not a folder and no file"),
        ({"reference": np.zeros((9, 5, 5, 3), np.uint8)[:0]}, "got no image"),
    ],
)
def test_mistakes(images, noise_pixels, changes, message):
    call = {"metrics": ["fid"], "features": "pixels", "reference": noise_pixels, **changes}
    with pytest.raises((ValueError, OSError), match=message):
        evaluate(images, **call)
