"""The page of a report, comparing two reports, and sweeps."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from arimage.eval.compare import compare
from arimage.eval.gallery import nearest_rows, precision_recall_curve
from arimage.eval.metrics.precision_recall import Precision, Recall
from arimage.eval.report import Report
from arimage.eval.runner import evaluate
from arimage.eval.sweep import front, parse_grid, points, sweep
from arimage.images import write_png

METRICS = ["fid", "precision", "recall", "accuracy", "inception_score"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, (50, 12, 10, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def report(images, noise_pixels, untrained):
    reference = np.concatenate([noise_pixels, images[3:4]])
    return evaluate(
        images,
        metrics=METRICS,
        features=untrained,
        reference=reference,
        labels=np.arange(50) // 5,
        settings={"note": "<script>alert(1)</script>"},
        gallery=20,
    )


def test_a_page_shows_scores_warnings_classes_and_pictures(report, tmp_path):
    report.save(tmp_path)
    text = (tmp_path / "report.html").read_text()
    for part in ("fid", f"{report['fid'].value:.6g}", "50 images are few", "sorted by class"):
        assert part in text
    assert "<script>" not in text
    assert "http" not in text.replace("http-equiv", "")
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert len(pictures) == 2
    sizes = [Image.open(io.BytesIO(base64.b64decode(p))).size for p in pictures]
    assert all(side > 40 for size in sizes for side in size)
    assert text.count("k = ") == len(report.gallery.curve) == 7
    assert "<th>class</th><th>accuracy</th>" in text


def test_the_nearest_image_is_found(report, images):
    np.testing.assert_array_equal(report.gallery.nearest[3], images[3])
    assert report.gallery.distances[3] == pytest.approx(0, abs=1e-5)
    assert (report.gallery.distances[:3] > 0).all()
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 3)), rng.standard_normal((30, 3))
    index, distances = nearest_rows(a, b)
    plain = np.sqrt(((a[:, None] - b) ** 2).sum(-1))
    assert index.tolist() == plain.argmin(1).tolist()
    np.testing.assert_allclose(distances, plain.min(1))


def test_the_curve_is_precision_and_recall(reference_of, batch_of):
    rng = np.random.default_rng(1)
    made, real = rng.standard_normal((40, 5)), 1.3 * rng.standard_normal((45, 5))
    for k, p, r in precision_recall_curve(made, real):
        for metric, value in ((Precision(k), p), (Recall(k), r)):
            metric.update(batch_of(made))
            assert metric.compute(reference_of(real)).value == value


def test_a_report_comes_back_from_its_file(report, tmp_path):
    report.save(tmp_path)
    again = Report.load(tmp_path)
    assert again.to_json() == report.to_json()
    assert [row.value for row in compare(report, again)] == [0] * len(METRICS)
    with pytest.raises(FileNotFoundError, match="no report at"):
        Report.load(tmp_path / "other")
    (tmp_path / "report.json").write_text('{"scores": [{}]}')
    with pytest.raises(ValueError, match="is not a report of this package"):
        Report.load(tmp_path)


def test_reports_of_other_protocols_are_not_compared(report, images, noise_pixels, untrained):
    call = {"metrics": ["fid"], "features": untrained, "reference": noise_pixels}
    one = evaluate(images, **call)
    (same,) = compare(one, evaluate(images[::-1].copy(), **call))
    assert same.value == pytest.approx(0, abs=1e-9)
    changes = {
        "number of images 50 and 40": (images[:40], call),
        "features": (images, {**call, "features": "pixels"}),
        "reference set": (images, {**call, "reference": noise_pixels[1:]}),
        "image size": (images[:, :11], call),
    }
    for message, (given, changed) in changes.items():
        other = evaluate(given, **changed)
        with pytest.raises(ValueError, match=f"cannot be compared: .*{message}"):
            compare(one, other)
        (row,) = compare(one, other, force=True)
        assert row.b == other["fid"].value
    with pytest.raises(ValueError, match="no metric in common"):
        compare(
            one,
            evaluate(
                images, metrics=["recall"], **{k: v for k, v in call.items() if k != "metrics"}
            ),
        )


def test_a_sweep_visits_every_point_and_draws(images, noise_pixels, untrained, tmp_path):
    seen = []

    def score(settings):
        seen.append(settings)
        return evaluate(
            images[: 40 + settings["top_k"]],
            metrics=METRICS[:3] + METRICS[4:],
            features=untrained,
            reference=noise_pixels,
        )

    done = sweep(parse_grid(["guidance_scale=1:2:0.5", "top_k=2,9"]), score, tmp_path)
    assert len(done) == len(seen) == 6
    assert seen[:3] == [
        {"guidance_scale": 1.0, "top_k": 2},
        {"guidance_scale": 1.0, "top_k": 9},
        {"guidance_scale": 1.5, "top_k": 2},
    ]
    record = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert [point["settings"] for point in record] == seen
    assert record[1]["scores"]["fid"] == done[1][1]["fid"].value
    with Image.open(tmp_path / "sweep.png") as plot:
        assert plot.width > 1000  # two panels
    assert Report.load(tmp_path / "003").protocol.count == 49


LISTS = ["per_step shares=[0,1]", "per_step shares=[1]"]


def test_the_front_is_what_no_other_point_beats_in_both_scores():
    """FID is better below, inception score above; one point twice, one as good in FID alone."""
    values = [(3.0, 9.0), (2.0, 8.0), (2.5, 8.5), (2.0, 7.0), (4.0, 9.0), (1.0, 5.0), (1.0, 5.0)]
    done = [
        ({"i": i}, {"fid": Value(fid, False), "inception_score": Value(score, True)})
        for i, (fid, score) in enumerate(values)
    ]
    assert front(done, "inception_score", "fid") == [5, 6, 1, 2, 0]
    assert front(done[3:5], "inception_score", "fid") == [0, 1]


@dataclasses.dataclass
class Value:
    """As much of a score as a front needs."""

    value: float
    higher_is_better: bool


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval first=1 last=2,linear", ["interval first=1 last=2", "linear"]),
        ("a=per_step shares=[0,1],per_step shares=[1]", LISTS),
        ("a=1:4:0.5", [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]),
        ("a=0:0.3:0.1", [0.0, 0.1, 0.2, 0.3]),
        ("a=100:300:100", [100, 200, 300]),
        ("a=1,2.5,none,linear", [1, 2.5, None, "linear"]),
    ],
)
def test_grids_are_read(text, expected):
    assert parse_grid([text]) == {"a": expected}
    assert [type(v) for v in parse_grid([text])["a"]] == [type(v) for v in expected]
    assert len(list(points(parse_grid([text, "b=1,2"])))) == 2 * len(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "write a sweep as name=1:4:0.5"),
        ("a=1:4", "a range is first:last:step"),
        ("a=4:1:1", "runs upwards"),
        ("a=1:4:0", "runs upwards"),
        ("a=0:1000:1", "sweep of 1001 points"),
    ],
)
def test_grids_that_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=message):
        parse_grid([text])


def test_a_page_without_a_readable_first_image(images, noise_pixels, tmp_path):
    for i, pixels in enumerate(images[:5]):
        write_png(tmp_path / "png" / f"{i}.png", pixels)
    (tmp_path / "png" / "0.png").write_bytes(b"torn")
    call = {"metrics": ["fid"], "features": "pixels", "reference": noise_pixels}
    report = evaluate(tmp_path / "png", gallery=1, **call)
    report.save(tmp_path / "r")
    text = (tmp_path / "r" / "report.html").read_text()
    assert "<h2>Samples</h2>" not in text
    assert "0.png is not a readable image" in text
