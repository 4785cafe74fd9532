"""Metrics of pairs, rFID and pFID: one pass, the same numbers however it is cut."""

import json
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch

from arimage.eval.base import Reference
from arimage.eval.codebook import CodeCounter, codebook_use
from arimage.eval.features.pixels import PixelFeatures
from arimage.eval.metrics.fid import FrechetDistance
from arimage.eval.metrics.reconstruction import PSNR, SSIM, psnr
from arimage.eval.pairs import PairMetric, evaluate_reconstructions
from arimage.eval.perturbed import evaluate_perturbed
from arimage.eval.registry import PAIR_METRICS
from arimage.eval.runner import evaluate

COUNT = 23


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(5).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)


def coarse(pixels):
    """A tokenizer of a kind: 4 bits of each value."""
    return pixels // 16 * 16 + 8


def darker(pixels):
    return pixels // 2


@pytest.fixture(scope="module")
def make():
    """A fresh metric of pairs by name; LPIPS with random weights."""
    from arimage.eval.features.vgg import PerceptualDistance

    torch.manual_seed(0)
    network = PerceptualDistance().requires_grad_(False)
    for layer in network.lin:
        layer.weight.abs_()

    def build(name, uncertain=False):
        metric = PAIR_METRICS[name](*[network] * (name == "lpips"))
        metric.uncertain = uncertain
        return metric

    return build


every_pair_metric = pytest.mark.parametrize("name", PAIR_METRICS)


@every_pair_metric
def test_streamed_merged_and_mixed_equal_whole(name, images, make):
    assert issubclass(PAIR_METRICS[name], PairMetric)
    assert PAIR_METRICS[name].name == name
    decoded = coarse(images)
    whole, first, second, mixed = (make(name, uncertain=True) for _ in range(4))
    whole.update(images, decoded)
    score = whole.compute()
    assert (score.count, score.name, score.reference) == (COUNT, name, "originals")
    assert score.value == pytest.approx(whole.values(images, decoded).mean())
    spread = whole.values(images, decoded).std(ddof=1) / COUNT**0.5
    assert score.standard_error == pytest.approx(spread)
    for metric, cuts in ((first, (0, 1, 9)), (second, (9, 10, COUNT))):
        for a, b in pairwise(cuts):
            metric.update(images[a:b], decoded[a:b])
    sent = pickle.dumps(second)  # as another process would send it: numbers, no network
    assert len(sent) < 10_000
    first.merge(pickle.loads(sent))
    assert first.compute() == score
    order = np.random.default_rng(0).permutation(COUNT)
    mixed.update(images[order], decoded[order])
    assert mixed.compute() == score
    worse = make(name)
    worse.update(images, darker(images))
    assert worse.compute().standard_error is None
    assert (worse.compute().value > score.value) == (not score.higher_is_better)


@every_pair_metric
def test_pair_metrics_say_what_is_wrong(name, images, make):
    metric = make(name)
    with pytest.raises(ValueError, match=f"'{name}' has seen no pair"):
        metric.compute()
    with pytest.raises(ValueError, match="expected equal shapes"):
        metric.update(images, images[:2])
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        metric.update(images / 255, images)
    assert metric.count == 0
    other = PSNR if name != "psnr" else SSIM
    with pytest.raises(TypeError, match=f"cannot merge {other.__name__} into '{name}'"):
        metric.merge(other())


def test_values_of_two_networks_are_not_mixed(make):
    from arimage.eval.features.vgg import PerceptualDistance

    with pytest.raises(ValueError, match=r"compares by 'vgg16@\w+' and got values of 'vgg16@"):
        make("lpips").merge(PAIR_METRICS["lpips"](PerceptualDistance()))


def test_a_perfect_pair_among_others(images):
    decoded = coarse(images)
    decoded[3] = images[3]
    metric = PSNR()
    metric.uncertain = True
    metric.update(images, decoded)
    score = metric.compute()
    assert score.value == math.inf
    assert score.standard_error is None
    rest = np.delete(psnr(images, decoded), 3)
    assert score.details == {"identical": 1, "mean_of_others": pytest.approx(rest.mean())}
    perfect = PSNR()
    perfect.update(images, images)
    assert perfect.compute().details == {"identical": COUNT}
    assert json.loads(json.dumps(perfect.compute().to_json()))["value"] == "inf"


def test_the_report_of_a_reconstruction(images):
    report = evaluate_reconstructions(
        iter([images[:5], images[5:]]),
        coarse,
        metrics=["rfid", "psnr", "ssim"],
        features="pixels",
        batch_size=7,
        uncertainty=True,
        settings={"tokenizer": "coarse"},
    )
    assert list(report) == ["rfid", "psnr", "ssim"]
    plain = evaluate(coarse(images), metrics=["fid"], features="pixels", reference=images)
    assert report["rfid"].value == pytest.approx(plain["fid"].value, rel=1e-9)
    assert report["rfid"].value > 1e-5
    assert report["rfid"].features == "pixels"
    assert report["psnr"].value == pytest.approx(psnr(images, coarse(images)).mean())
    assert report["psnr"].standard_error > 0
    assert {score.reference for score in report.scores} == {"originals"}
    sha256 = Reference.from_pixels("x", images, "pixels").sha256
    protocol = report.to_json()["protocol"]
    assert protocol["references"]["reference"] == {
        "name": "originals",
        "count": COUNT,
        "sha256": sha256,
    }
    assert protocol["settings"] == {"tokenizer": "coarse"}
    assert (protocol["count"], protocol["features"]) == (COUNT, "pixels")
    assert "| rfid | " in report.to_markdown()


def test_the_same_images_have_rfid_0(images):
    report = evaluate_reconstructions(
        images, lambda pixels: pixels, metrics=["rfid"], features="pixels"
    )
    assert report["rfid"].value == pytest.approx(0, abs=1e-9)


OF_IMAGES = ["fid", "inception_score", "recall", "accuracy", "classification_accuracy"]


@pytest.mark.parametrize("name", OF_IMAGES)
def test_metrics_of_images_serve_reconstructions(name, images, untrained):
    labels = np.arange(COUNT) % 4
    found = evaluate_reconstructions(
        images, coarse, metrics=[f"r{name}"], features=untrained, labels=labels, batch_size=6
    )[f"r{name}"]
    reference = Reference.from_pixels("originals", images, untrained, labels)
    plain = evaluate(
        coarse(images), metrics=[name], features=untrained, labels=labels, reference=reference
    )
    assert found.value == pytest.approx(plain[name].value, rel=1e-6)


def test_each_batch_is_reconstructed_and_extracted_once(images):
    calls = {"reconstruct": [], "extract": []}

    def counted(pixels):
        calls["reconstruct"].append(len(pixels))
        return coarse(pixels)

    class Counted(PixelFeatures):
        def __call__(self, pixels, labels=None):
            calls["extract"].append(len(pixels))
            return super().__call__(pixels, labels)

    names = ["rfid", "rprecision", "psnr"]
    evaluate_reconstructions(images, counted, metrics=names, features=Counted(), batch_size=10)
    assert calls == {"reconstruct": [10, 10, 3], "extract": [10, 10, 10, 10, 3, 3]}


def test_codes_are_counted_on_the_way(images):
    counter = CodeCounter(16)

    def reconstruct(pixels):
        counter.add(torch.from_numpy(pixels // 32))
        return coarse(pixels)

    report = evaluate_reconstructions(
        images, reconstruct, metrics=["psnr"], codes=counter, batch_size=4
    )
    assert list(report) == ["psnr", "codebook_share", "codebook_perplexity"]
    assert report["codebook_share"].value == 0.5
    use = codebook_use(images // 32, 16)
    assert report["codebook_perplexity"].value == pytest.approx(use.perplexity)
    with pytest.raises(ValueError, match="the given code counter has already seen ids"):
        evaluate_reconstructions(images, reconstruct, metrics=["psnr"], codes=counter)
    other = CodeCounter(16)
    other.add([15])
    counter.merge(other)
    assert counter.use.share == 9 / 16
    with pytest.raises(ValueError, match="cannot merge counts of 8 codes into 16"):
        counter.merge(CodeCounter(8))
    with pytest.raises(ValueError, match="has seen no id"):
        _ = CodeCounter(3).use


def noisy(alpha, delta):
    """As if ``perturbed_reconstruct``: stronger with both, the same for equal pixels."""

    def reconstruct(pixels):
        noise = np.random.default_rng(0).integers(-delta, delta + 1, pixels.shape[1:])
        return np.clip(pixels + alpha * noise, 0, 255).astype(np.uint8)

    return reconstruct


def test_pfid_is_the_mean_over_the_grid(images):
    grid = [(0.5, 40), (1.0, 40), (0.5, 100)]
    score = evaluate_perturbed(images, noisy, grid=grid, features="pixels", batch_size=7)["pfid"]
    assert list(score.details) == ["alpha_0.5_delta_40", "alpha_1_delta_40", "alpha_0.5_delta_100"]
    for (alpha, delta), value in zip(grid, score.details.values(), strict=True):
        alone = evaluate_reconstructions(
            images, noisy(alpha, delta), metrics=["rfid"], features="pixels"
        )
        assert value == pytest.approx(alone["rfid"].value, rel=1e-9)
    assert score.value == pytest.approx(np.mean(list(score.details.values())))
    assert score.details["alpha_1_delta_40"] > score.details["alpha_0.5_delta_40"] > 0
    for bad in ([], [(0.5, 4), (0.5, 4)]):
        with pytest.raises(ValueError, match="give different pairs of alpha and delta"):
            evaluate_perturbed(images, noisy, grid=bad, features="pixels")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metrics": []}, ValueError, "got no metric; choose from psnr, ssim, lpips, rfid"),
        ({"metrics": ["psnr", "psnr"]}, ValueError, "got the metric 'psnr' more than once"),
        (
            {"metrics": [FrechetDistance(), "rfid"], "features": "pixels"},
            ValueError,
            "got the metric 'rfid' more than once",
        ),
        ({"metrics": ["fid"]}, KeyError, "unknown metric of reconstructions 'fid'.*'rfid'"),
        (
            {"metrics": ["rcopies"], "features": "pixels"},
            ValueError,
            "'copies' compares with a training set",
        ),
        ({"metrics": ["rfid"], "features": "pixel"}, KeyError, "Did you mean 'pixels'"),
        ({"metrics": ["raccuracy"], "features": "digits"}, ValueError, "pass labels="),
        ({"reconstruct": lambda p: p[:, :8]}, ValueError, "expected uint8 pixels of the same shap"),
        ({"reconstruct": lambda p: p / 255}, ValueError, "is float64"),
        ({"reconstruct": lambda p: None}, ValueError, "NoneType"),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8)}, ValueError, "got no image"),
    ],
)
def test_mistakes_are_sentences(images, changes, error, message):
    call = {"images": images, "reconstruct": coarse, "metrics": ["psnr"], **changes}
    with pytest.raises(error, match=message):
        evaluate_reconstructions(call.pop("images"), call.pop("reconstruct"), **call)


def test_metric_objects_are_fresh(images, make):
    used = PSNR()
    used.update(images, images)
    with pytest.raises(ValueError, match="the given 'psnr' has already seen 23 images"):
        evaluate_reconstructions(images, coarse, metrics=[used])
    report = evaluate_reconstructions(
        images, coarse, metrics=[make("lpips"), FrechetDistance()], features="pixels"
    )
    assert list(report) == ["lpips", "rfid"]
    assert report.protocol.features == "pixels"
