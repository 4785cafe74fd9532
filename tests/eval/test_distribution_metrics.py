"""Metrics of whole sets, one by one: goldens from other implementations, answers by hand, errors.

The golden numbers are of the draws in conftest; which implementation gave them stands beside them.
"""

from dataclasses import replace

import numpy as np
import pytest

from arimage.eval import kernels
from arimage.eval.extrapolation import at_infinity, subset_sizes
from arimage.eval.frechet import frechet
from arimage.eval.metrics.cafd import weighted_moments
from arimage.eval.metrics.kid import cubic, cubic_diagonal, kernel_distance
from arimage.eval.metrics.mifid import memorization_distance
from arimage.eval.moments import Moments
from arimage.eval.registry import METRICS


@pytest.fixture
def score(batch_of, reference_of):
    """The score of generated features against real ones; ``labels`` are (generated, real)."""

    def build(
        name, generated, real, *, labels=(None, None), probabilities=(None, None), **settings
    ):
        metric = METRICS[name](**settings)
        kind = metric.features or "toy"
        parts = {"labels": labels, "probabilities": probabilities}
        first, second = ({key: part[i] for key, part in parts.items()} for i in (0, 1))
        metric.update(batch_of(generated, extractor=kind, **first))
        reference = reference_of(real, extractor=kind)
        images = replace(reference.images, **second)
        return metric.compute(replace(reference, images=images))

    return build


def test_kid_goldens(golden, score):
    """Subsets: torch-fidelity 0.4.0; all images: dense sums in float64."""
    assert score("kid", golden.b, golden.a).value == pytest.approx(0.04524023898818896, rel=1e-10)
    subsets = score("kid", golden.b, golden.a, subsets=20, subset_size=100)
    assert subsets.value == pytest.approx(0.04519561599242121, rel=1e-9)
    assert subsets.details["subset_std"] == pytest.approx(0.04502153902230309, rel=1e-9)
    other = score("kid", golden.a, golden.b, subsets=20, subset_size=100)
    assert abs(other.value / subsets.value - 1) > 1e-3  # the two sets are drawn in turn


def test_kid_is_zero_on_average(score):
    rng = np.random.default_rng(0)
    values = [
        score("kid", rng.standard_normal((40, 5)), rng.standard_normal((40, 5))).value
        for _ in range(200)
    ]
    assert min(values) < 0
    assert abs(np.mean(values)) < 3 * np.std(values) / 200**0.5


def test_kernel_blocks_do_not_show(golden, monkeypatch):
    whole = kernel_distance(golden.b, golden.c)
    monkeypatch.setattr(kernels, "BLOCK", 37)
    blocks = kernel_distance(golden.b, golden.c)
    assert blocks.value == pytest.approx(whole.value, rel=1e-11)
    assert blocks.standard_error == pytest.approx(whole.standard_error, rel=1e-11)
    np.testing.assert_allclose(cubic_diagonal(golden.a), np.diag(cubic(golden.a, golden.a)))


def test_cmmd_golden(golden, score):
    """Dense float64 of the rows divided by their length."""
    assert score("cmmd", golden.b, golden.a).value == pytest.approx(0.21686074975968417, rel=1e-9)
    assert score("cmmd", 7 * golden.b, golden.a).value == pytest.approx(0.21686074975968417)


def test_density_and_coverage_goldens(golden, score):
    """prdc 0.2, fake B against real A."""
    expected = {3: (0.8644444444444443, 0.8433333333333334), 5: (0.8740000000000001, 0.94)}
    for k, (density, coverage) in expected.items():
        assert score("density", golden.b, golden.a, k=k).value == pytest.approx(density, rel=1e-12)
        found = score("coverage", golden.b, golden.a, k=k).value
        assert found == pytest.approx(coverage, rel=1e-12)
    assert score("density", golden.a, golden.b).value != pytest.approx(expected[5][0])


def test_a_tight_cluster_is_dense_and_covers_little(golden, score):
    cluster = 0.05 * golden.b
    assert score("density", cluster, golden.a).value > 1.5
    assert score("coverage", cluster, golden.a).value < 0.5


def test_equal_images_make_empty_balls(golden, score):
    """Six copies of each image: the 5th neighbour is at distance 0, and 0 < 0 is false."""
    rows = np.repeat(golden.a[:30], 6, axis=0)
    assert score("density", rows, rows).value == 0
    assert score("coverage", rows, rows).value == 0
    assert score("coverage", rows, rows, k=6).value == 1


def test_mifid_golden(golden, score):
    """The competition's m (mean over generated images), and torchmetrics' (over real ones)."""
    assert memorization_distance(golden.b, golden.a) == pytest.approx(0.3116098114551732, rel=1e-9)
    assert memorization_distance(golden.a, golden.b) == pytest.approx(0.3074269496962629, rel=1e-9)
    found = score("mifid", golden.b, golden.a)
    assert found.value == pytest.approx(found.details["fid"], rel=1e-12)


def test_mifid_of_copies_is_large(golden, score):
    copies = golden.a[:150] * 1.001
    found = score("mifid", copies, golden.a)
    assert found.details["memorization_distance"] < 1e-12
    assert found.value > 1e6 * found.details["fid"]
    rows = np.concatenate([golden.b, np.zeros((5, 16))])
    assert memorization_distance(rows, golden.a) == memorization_distance(golden.b, golden.a)
    with pytest.raises(ValueError, match="all features of a set are zero"):
        memorization_distance(np.zeros((5, 16)), golden.a)


def test_cafd_by_hand(golden, score):
    labels = np.arange(300) % 3, np.arange(300) // 100
    found = score("cafd", golden.b, golden.a, labels=labels)
    by_class = [
        frechet(*(Moments.of(rows[known == c]) for rows, known in pairs)).distance
        for c in range(3)
        for pairs in [((golden.b, labels[0]), (golden.a, labels[1]))]
    ]
    assert found.value == pytest.approx(np.mean(by_class), rel=1e-12)
    assert [found.details[f"class_{c}"] for c in range(3)] == pytest.approx(by_class, rel=1e-12)
    assert found.details["kl"] == pytest.approx(0, abs=1e-12)


def test_cafd_probabilities_of_0_and_1_are_labels(golden, score):
    labels = np.arange(300) % 4, np.arange(300) // 100
    p = tuple(np.eye(4)[known] for known in labels)
    hard = score("cafd", golden.b, golden.a, labels=labels)
    soft = score("cafd", golden.b, golden.a, probabilities=p)
    assert soft.value == pytest.approx(hard.value, rel=1e-9)
    assert soft.details == pytest.approx(hard.details, rel=1e-9)
    mixed = score("cafd", golden.b, golden.a, labels=(labels[0], None), probabilities=p)
    assert mixed.details == pytest.approx(soft.details)
    blurred = tuple(0.8 * part + 0.05 for part in p)
    assert score("cafd", golden.b, golden.a, probabilities=blurred).value < 0.9 * hard.value


def test_cafd_sees_classes_that_are_missing(golden, score):
    labels = np.arange(300) % 2, np.arange(300) % 4
    found = score("cafd", golden.b, golden.a, labels=labels)
    assert found.details["kl"] == np.inf
    assert (found.details["classes"], found.details["skipped"]) == (2, 2)
    swapped = score("cafd", golden.a, golden.b, labels=labels[::-1])
    assert swapped.details["kl"] == pytest.approx(np.log(2))


def test_cafd_errors(golden, score):
    with pytest.raises(ValueError, match="needs labels= of the images, or features with class"):
        score("cafd", golden.b, golden.a)
    with pytest.raises(ValueError, match="'real' has no labels and 'toy' gives no probabilities"):
        score("cafd", golden.b, golden.a, labels=(np.zeros(300, int), None))
    with pytest.raises(ValueError, match="no class has 2 images in both sets"):
        score("cafd", golden.b, golden.a, labels=(np.zeros(300, int), np.ones(300, int)))


@pytest.mark.parametrize("count", [10, 300])
def test_weighted_moments_with_equal_weights_are_moments(golden, count):
    plain, weighted = (
        Moments.of(golden.a[:count]),
        weighted_moments(golden.a[:count], np.ones(count)),
    )
    np.testing.assert_allclose(weighted.mean, plain.mean, atol=1e-14)
    np.testing.assert_allclose(weighted.covariance, plain.covariance, atol=1e-13)
    half = weighted_moments(golden.a[:count], np.full(count, 0.5))
    np.testing.assert_allclose(half.covariance, plain.covariance, atol=1e-13)
    twice = weighted_moments(golden.a[:count], np.arange(count) % 2 + 1.0)
    assert np.abs(twice.covariance - plain.covariance).max() > 1e-3


def test_at_infinity_is_the_intercept():
    sizes = subset_sizes(50_000)
    assert (sizes[0], sizes[-1], len(sizes)) == (5000, 50_000, 15)
    assert at_infinity(sizes, 3 + 500 / sizes) == pytest.approx(3, rel=1e-12)
    line = np.polyfit(1 / sizes, np.sqrt(sizes), 1)
    assert at_infinity(sizes, np.sqrt(sizes)) == pytest.approx(line[1], rel=1e-9)
    with pytest.raises(ValueError, match="got 2 images for subsets from 2 images on"):
        subset_sizes(2)


def test_fid_at_infinity_has_less_bias(score):
    """Both sets of one distribution: the distance without bias is 0."""
    rng = np.random.default_rng(1)
    real, generated = rng.standard_normal((20_000, 16)), rng.standard_normal((1000, 16))
    found = score("fid_infinity", generated, real)
    biased = score("fid", generated, real).value
    assert biased > 0.03
    assert abs(found.value) < 0.4 * biased
    with pytest.raises(ValueError, match="got 0 shuffles"):
        METRICS["fid_infinity"](0)


def test_spatial_features_must_be_there(golden, batch_of, reference_of):
    metric = METRICS["sfid"]()
    with pytest.raises(ValueError, match="needs spatial features and 'toy' gives none"):
        metric.update(batch_of(golden.a))
    metric.update(replace(batch_of(golden.a), spatial=golden.b))
    with pytest.raises(ValueError, match=r"spatial features of 'real', which holds none"):
        metric.compute(reference_of(golden.a))
    reference = replace(reference_of(golden.b), spatial=Moments.of(golden.a))
    assert metric.compute(reference).value == pytest.approx(0.7455148711246444, abs=1e-9)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="got 0 subsets"):
        METRICS["kid"](subsets=0)
    with pytest.raises(ValueError, match="got k 0"):
        METRICS["density"](0)
    with pytest.raises(ValueError, match="got splits of 0 images"):
        METRICS["inception_score"](split_size=0)
