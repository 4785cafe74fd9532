"""``evaluate`` and its report: every way in, one pass, one sentence per mistake."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from arimage.eval.base import Reference, Score
from arimage.eval.metrics.inception_score import InceptionScore
from arimage.eval.metrics.precision_recall import Precision
from arimage.eval.registry import METRICS
from arimage.eval.report import Protocol, Report
from arimage.eval.runner import evaluate
from arimage.eval.stream import pixel_batches
from arimage.images import to_pil, write_png

EVERYTHING = [
    *("fid", "fid_infinity", "mifid", "cafd", "kid", "inception_score", "is_infinity"),
    *("precision", "recall", "density", "coverage", "accuracy", "copies"),
]
NEED_MORE = {"sfid", "fd_dinov2", "cmmd"}  # spatial features, or extractors with weights


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, (50, 12, 10, 3), dtype=np.uint8)


def values(report):
    return {score.name: score.value for score in report.scores}


def test_every_way_in_gives_the_same_scores(images, noise_pixels, untrained, tmp_path):
    for i, pixels in enumerate(images):
        write_png(tmp_path / f"{i:03d}.png", pixels)

    def run(given, batch_size=256):
        report = evaluate(
            given,
            metrics=EVERYTHING,
            reference=noise_pixels,
            features=untrained,
            labels=np.arange(50) % 10,
            training=noise_pixels[:40],
            batch_size=batch_size,
        )
        assert list(report) == EVERYTHING
        assert report.protocol.count == 50
        return pytest.approx(values(report), rel=1e-4)

    whole = run(images)
    np.savez(tmp_path / "stored.npz", images)
    np.savez_compressed(tmp_path / "packed.npz", images)
    np.save(tmp_path / "plain.npy", images)
    with zipfile.ZipFile(tmp_path / "files.zip", "w") as archive:
        for path in sorted(tmp_path.glob("*.png")):
            archive.write(path, f"samples/{path.name}")
    forms = {
        "stored npz": tmp_path / "stored.npz",
        "compressed npz": tmp_path / "packed.npz",
        "npy": tmp_path / "plain.npy",
        "zip": str(tmp_path / "files.zip"),
        "generator": (images[a : a + 7] for a in range(0, 50, 7)),
        "pil": to_pil(images),
        "mixed": [images[:3], *to_pil(images[3:5]), images[5:]],
        "path": tmp_path,
        "text": str(tmp_path),
    }
    for given in forms.values():
        assert run(given, batch_size=16).expected == whole


def test_batches_do_not_depend_on_how_the_stream_was_cut(images):
    cut = list(pixel_batches((images[a : a + 7] for a in range(0, 50, 7)), 16))
    assert [len(batch) for batch in cut] == [16, 16, 16, 2]
    np.testing.assert_array_equal(np.concatenate(cut), images)
    assert [len(batch) for batch in pixel_batches(images, 25)] == [25, 25]


def test_images_are_read_once_and_not_all_at_once(images, noise_pixels):
    given = []

    def source():
        for i in range(50):
            given.append(i)
            yield images[i : i + 1]

    seen = []

    def spy(pixels):
        seen.append(len(given))
        return pixels.reshape(len(pixels), -1)[:, :3]

    evaluate(source(), metrics=["fid"], features=spy, reference=noise_pixels, batch_size=10)
    assert given == list(range(50))
    assert seen == [0] * 6 + [10, 20, 30, 40, 50]  # the reference comes first


def test_sets_are_extracted_once_per_extractor(images, noise_pixels):
    calls = []

    def spy(pixels):
        calls.append(len(pixels))
        return pixels.reshape(len(pixels), -1)[:, :3]

    metrics = ["fid", "precision", "recall", "copies"]
    generators = {"reference": iter([noise_pixels]), "training": iter([noise_pixels])}
    report = evaluate(images, metrics=metrics, features=spy, **generators)
    assert calls == [60, 50]
    assert report["copies"].features == "pixels"
    assert report["fid"].features == "spy"


def test_metric_objects_carry_settings(images, untrained, noise_pixels):
    report = evaluate(
        images,
        metrics=[InceptionScore(splits=2), Precision(k=5)],
        features=untrained,
        reference=noise_pixels,
    )
    assert report["inception_score"].details["splits"] == 2
    assert report["precision"].details["k"] == 5
    used = InceptionScore()
    used.update(untrained(images))
    with pytest.raises(ValueError, match="has already seen 50 images"):
        evaluate(images, metrics=[used], features=untrained)


def test_a_ready_reference_serves_again(images, noise_pixels):
    reference = Reference.from_pixels("real", noise_pixels, "pixels")
    ready = evaluate(images, metrics="fid", features="pixels", reference=reference)
    built = evaluate(images, metrics=["fid"], features="pixels", reference=noise_pixels)
    assert values(ready) == values(built)
    assert ready["fid"].reference == "real"
    assert built["fid"].reference == "reference"
    assert ready.protocol.references["reference"]["sha256"] == reference.sha256


IMAGE_MISTAKES = [
    (np.zeros((2, 4, 4, 3)), ValueError, r"image input 0 is float64 of shape \(2, 4, 4, 3\)"),
    (np.zeros((2, 4, 4), np.uint8), ValueError, r"shape \(2, 4, 4\); expected uint8 pixels"),
    (np.zeros((2, 3, 4, 4), np.uint8), ValueError, r"shape \(2, 3, 4, 4\); expected"),
    (torch.zeros(2, 3, 4, 4), ValueError, "arimage.images.to_pixels"),
    ([torch.zeros(2, 3, 4, 4)], ValueError, "arimage.images.to_pixels"),
    (["a.png"], TypeError, "image input 0 is str"),
    (7, TypeError, "image input 0 is int"),
    ([], ValueError, "got no image to evaluate"),
    (np.zeros((0, 4, 4, 3), np.uint8), ValueError, "got no image to evaluate"),
    ("no/such/folder", NotADirectoryError, "is not a folder"),
    (
        [np.zeros((2, 4, 4, 3), np.uint8), np.zeros((1, 5, 4, 3), np.uint8)],
        ValueError,
        "image input 1 is 5 x 4 pixels, the first is 4 x 4",
    ),
]


@pytest.mark.parametrize(("given", "error", "message"), IMAGE_MISTAKES)
def test_image_mistakes(given, error, message):
    with pytest.raises(error, match=message):
        evaluate(given, metrics=["fid"], features="pixels", reference=np.zeros((3, 4, 4, 3), "u1"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metrics": ["fdi"]}, KeyError, "unknown metric 'fdi'. Did you mean 'fid'"),
        ({"metrics": []}, ValueError, "got no metric; choose from"),
        ({"metrics": ["fid", "fid"]}, ValueError, "'fid' more than once"),
        ({"reference": None}, ValueError, "'fid' compares with a reference set and got none"),
        ({"metrics": ["copies"]}, ValueError, "'copies' compares with a training set and got none"),
        ({"features": "incept"}, KeyError, "unknown feature extractor 'incept'"),
        ({"metrics": ["inception_score"]}, ValueError, "needs class probabilities and 'pixels'"),
        ({"metrics": ["accuracy"]}, ValueError, "pass labels="),
        ({"labels": [1] * 49}, ValueError, "got 49 labels for 50 images"),
        ({"labels": [1] * 51}, ValueError, "got 51 labels for 50 images"),
        ({"labels": [0.5] * 50}, ValueError, "expected one integer class label per image"),
        ({"labels": [[1]] * 50}, ValueError, "expected one integer class label per image"),
        ({"batch_size": 0}, ValueError, "got batch_size 0"),
        ({"reference": np.zeros((3, 4, 4), "u1")}, ValueError, "in the reference set: image input"),
        ({"settings": {"model": object()}}, ValueError, "cannot be written as JSON"),
        ({"settings": {"loss": float("nan")}}, ValueError, "cannot be written as JSON"),
    ],
)
def test_call_mistakes(images, noise_pixels, changes, error, message):
    call = {"metrics": ["fid"], "features": "pixels", "reference": noise_pixels, **changes}
    with pytest.raises(error, match=message):
        evaluate(images, **call)


def test_mistakes_show_before_the_first_image_is_made():
    def source():
        raise AssertionError("generated before the call was checked")
        yield

    moments = Reference.from_moments("stats", "pixels", np.zeros(64), np.eye(64), 100)
    with pytest.raises(ValueError, match="'precision' compares single images, but 'stats'"):
        evaluate(source(), metrics=["precision"], features="pixels", reference=moments)
    other = Reference.from_pixels("set", np.zeros((2, 8, 8, 3), "u1"), lambda p: p[:, 0, 0])
    with pytest.raises(ValueError, match="needs the training set 'set' seen by 'pixels', but"):
        evaluate(source(), metrics=["copies"], training=other, features="pixels")


def test_an_extractor_that_loses_images_is_caught(images):
    class Lossy:
        name = "lossy"

        def __call__(self, pixels, labels=None):
            return self.inner(pixels[1:])

    from arimage.eval.features.pixels import PixelFeatures

    Lossy.inner = PixelFeatures()
    with pytest.raises(ValueError, match="'lossy' gave FeatureBatch for 50 images"):
        evaluate(images, metrics=[InceptionScore()], features=Lossy())


@pytest.fixture(scope="module")
def report(images, noise_pixels):
    return evaluate(
        images,
        metrics=["fid", "precision"],
        features="pixels",
        reference=noise_pixels,
        settings={"seeds": "0-49", "guidance_scale": 1.5},
    )


def test_a_report_tells_its_protocol(report):
    protocol = report.to_json()["protocol"]
    assert protocol["count"] == 50
    assert protocol["features"] == "pixels"
    assert protocol["settings"] == {"seeds": "0-49", "guidance_scale": 1.5}
    assert set(protocol["versions"]) == {"python", "torch", "numpy", "arimage"}
    assert protocol["references"]["reference"]["count"] == 60
    with pytest.raises(KeyError, match="unknown score 'fidd'"):
        report["fidd"]


def test_a_saved_report_is_whole_json_and_markdown(report, tmp_path):
    folder = report.save(tmp_path / "new" / "scores")
    assert sorted(p.name for p in folder.iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]
    saved = json.loads((folder / "report.json").read_text())
    assert saved == report.to_json()
    assert [score["name"] for score in saved["scores"]] == ["fid", "precision"]
    text = (folder / "report.md").read_text()
    assert "| fid | " in text
    assert "- setting guidance_scale: 1.5" in text
    assert "- reference: reference, 60 images, sha256 " in text


def test_the_table_shows_every_score(report):
    console = Console(file=io.StringIO(), width=120)
    console.print(report.table())
    shown = console.file.getvalue()
    assert "50 images" in shown
    for score in report.scores:
        assert score.name in shown
        assert f"{score.value:.6g}" in shown


def test_numbers_that_json_lacks_are_words():
    score = Score(name="psnr", value=float("inf"), higher_is_better=True, count=1)
    text = json.dumps(Report(scores=(score,), protocol=Protocol(count=1, features="-")).to_json())
    assert json.loads(text)["scores"][0]["value"] == "inf"


def test_pil_modes_become_rgb():
    grey = Image.new("L", (5, 4), 7)
    assert next(pixel_batches([grey])).shape == (1, 4, 5, 3)


def test_the_list_of_everything_is_complete():
    labelled = {"classification_accuracy"}  # needs a reference with labels
    assert set(EVERYTHING) | NEED_MORE | labelled == set(METRICS)
