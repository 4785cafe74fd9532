"""Moments and the Frechet distance: goldens, analytic answers, small sets."""

import numpy as np
import pytest
import torch

from arimage.eval.base import Reference
from arimage.eval.frechet import frechet
from arimage.eval.metrics.fid import FrechetDistance
from arimage.eval.moments import Moments

GOLDEN = 0.7455148711246444  # pytorch-fid 0.3.0 on scipy 1.17.1; torch-fidelity agrees to 7e-15


def fid(a, b):
    return frechet(Moments.of(a), Moments.of(b)).distance


def test_golden(golden, batch_of, reference_of):
    metric = FrechetDistance()
    metric.update(batch_of(golden.a))
    score = metric.compute(reference_of(golden.b))
    assert score.value == pytest.approx(GOLDEN, abs=1e-9)
    parts = score.details
    assert parts["raw"] == pytest.approx(parts["mean_term"] + parts["covariance_term"])
    assert parts["reference_count"] == 300


def test_golden_tells_the_wrong_ddof(golden):
    biased = [
        Moments(m.count, m.mean, m.scatter * (m.count - 1) / m.count)
        for m in (Moments.of(golden.a), Moments.of(golden.b))
    ]
    assert abs(frechet(*biased).distance - GOLDEN) > 1e-4


def test_moments_equal_numpy(golden):
    moments = Moments.of(golden.a[:7]).merge(Moments.of(golden.a[7:]))
    np.testing.assert_allclose(moments.mean, golden.a.mean(0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov(golden.a, rowvar=False), atol=1e-13)


def test_merge_is_symmetric_and_exact_far_from_zero(golden):
    far = 3 * golden.c + 1e4
    expected = np.cov(3 * golden.c, rowvar=False)
    pieces = [Moments.of(rows) for rows in np.array_split(far, 4)]
    left = pieces[0].merge(pieces[1]).merge(pieces[2]).merge(pieces[3])
    right = pieces[3].merge(pieces[2].merge(pieces[1].merge(pieces[0])))
    np.testing.assert_allclose(left.covariance, expected, atol=1e-9)
    np.testing.assert_allclose(right.covariance, left.covariance, atol=1e-11)
    raw = (far.T @ far - 900 * np.outer(far.mean(0), far.mean(0))) / 899  # the negative twin
    assert np.abs(raw - expected).max() > 1e-8


@pytest.mark.parametrize("rows", [300, 12, 2])
def test_a_set_scores_zero_against_itself(golden, rows):
    assert abs(fid(golden.a[:rows], golden.a[:rows])) < 1e-9


def test_fid_is_never_negative(golden, batch_of, reference_of):
    metric = FrechetDistance()
    metric.update(batch_of(golden.a * 1e3))
    score = metric.compute(reference_of(golden.a * 1e3))
    assert 0 <= score.value < 1e-6


def gaussian(mean, covariance):
    return Moments.from_covariance(mean, covariance, 50_000)


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("kind", ["full", "ill", "rank"])
def test_analytic_answer_by_the_transport_map(size, kind):
    """S2 = M S1 M with M positive definite: FID = |dm|^2 + tr (I - M) S1 (I - M), exactly."""
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    spectrum = {
        "full": np.geomspace(1, 1e-3, size),
        "ill": np.geomspace(1, 1e-12, size),
        "rank": np.where(np.arange(size) < size // 2, 1.0, 0.0),
    }[kind]
    first = (basis * spectrum) @ basis.T
    root = rng.standard_normal((size, size)) / size**0.5
    transport = np.eye(size) + 0.3 * root @ root.T
    second = transport @ first @ transport
    step = rng.standard_normal(size) * 0.1
    away = np.eye(size) - transport
    expected = step @ step + np.trace(away @ first @ away)
    distance = frechet(gaussian(np.zeros(size), first), gaussian(step, second)).distance
    assert distance == pytest.approx(expected, abs=1e-9 * size)


def test_diagonal_covariances():
    a, b = np.array([4.0, 1.0, 0.0]), np.array([1.0, 9.0, 2.0])
    distance = frechet(gaussian(np.zeros(3), np.diag(a)), gaussian(np.ones(3), np.diag(b))).distance
    assert distance == pytest.approx(3 + np.square(np.sqrt(a) - np.sqrt(b)).sum(), abs=1e-9)


def test_invariances(golden):
    turn = np.linalg.qr(np.random.default_rng(6).standard_normal((16, 16)))[0]
    a, b = golden.a, golden.b
    assert fid(a @ turn, b @ turn) == pytest.approx(GOLDEN, abs=1e-9)
    assert fid(a + 5, b + 5) == pytest.approx(GOLDEN, abs=1e-9)
    assert fid(3 * a, 3 * b) == pytest.approx(9 * GOLDEN, abs=1e-9)
    assert fid(b, a) == pytest.approx(GOLDEN, abs=1e-9)


def test_fewer_images_than_features_equals_the_data_form():
    """tr (S1 S2)^(1/2) is also the nuclear norm of X1 X2^T: no covariance is ever formed."""
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((20, 100)), rng.standard_normal((70, 100)) + 0.2
    x, y = (rows - rows.mean(0) for rows in (a, b))
    x, y = x / 19**0.5, y / 69**0.5
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    step = a.mean(0) - b.mean(0)
    expected = step @ step + np.square(x).sum() + np.square(y).sum() - 2 * root
    assert fid(a, b) == pytest.approx(expected, rel=1e-9)


def test_constant_features_are_no_obstacle(golden):
    def padded(rows):
        return np.concatenate([rows, np.ones((len(rows), 3))], axis=1)

    assert fid(padded(golden.a), padded(golden.b)) == pytest.approx(GOLDEN, abs=1e-9)
    assert fid(np.ones((5, 4)), np.zeros((5, 4))) == pytest.approx(4)


def test_decompositions_leave_the_threads_as_they_were(golden):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fid(golden.a, golden.b)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_errors(golden, batch_of, reference_of):
    metric = FrechetDistance()
    metric.update(batch_of(golden.a[:1]))
    with pytest.raises(ValueError, match="got 1 image; a covariance needs at least 2"):
        metric.compute(reference_of(golden.b))
    with pytest.raises(ValueError, match=r"expected \(d,\) and \(d, d\)"):
        Reference.from_moments("real", "toy", np.zeros(3), np.eye(4), 10)
    with pytest.raises(ValueError, match="got count 1"):
        Reference.from_moments("real", "toy", np.zeros(3), np.eye(3), 1)
    with pytest.raises(ValueError, match="NaN"):
        Reference.from_moments("real", "toy", np.full(3, np.nan), np.eye(3), 10)
    with pytest.raises(ValueError, match="not symmetric"):
        Reference.from_moments("real", "toy", np.zeros(3), np.triu(np.ones((3, 3))), 10)
    bad = Reference.from_moments("real", "toy", np.zeros(3), np.diag([1.0, 1, -1]), 10)
    with pytest.raises(ValueError, match="negative eigenvalue"):
        frechet(Moments.of(golden.a[:, :3]), bad.moments)
    with pytest.raises(ValueError, match="cannot merge moments of 16 and 3 features"):
        Moments.of(golden.a).merge(Moments.of(golden.a[:, :3]))


def test_published_moments_as_reference(golden, batch_of):
    metric = FrechetDistance()
    metric.update(batch_of(golden.a))
    covariance = np.cov(golden.b, rowvar=False)
    reference = Reference.from_moments("stats", "toy", golden.b.mean(0), covariance, 300)
    score = metric.compute(reference)
    assert score.value == pytest.approx(GOLDEN, abs=1e-9)
    assert score.reference == "stats"
    assert len(reference.sha256) == 64


@pytest.mark.parametrize("sizes", [(5, 5), (1, 9), (12, 300), (16, 17), (40, 3), (1, 1)])
def test_moments_of_few_rows_are_the_same_in_either_form(golden, sizes):
    """Up to 16 rows of 16 features stay rows; what is merged crosses that line or does not."""
    a, b = golden.a[: sizes[0]], golden.c[: sizes[1]] + 100
    merged = Moments.of(a).merge(Moments.of(b))
    rows = np.concatenate([a, b])
    assert (merged.scatter is None) == (len(rows) <= 16)
    assert merged.deviations is None or len(merged.deviations) == len(rows) - 1
    np.testing.assert_allclose(merged.mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(rows, rowvar=False), atol=1e-10)
    assert merged.trace == pytest.approx(np.trace(merged.covariance), rel=1e-12)
    back = merged.factor @ merged.factor.T
    np.testing.assert_allclose(back, merged.covariance, atol=1e-12 * merged.trace)


def test_one_image_at_a_time(golden):
    one = Moments.of(golden.a[:1])
    for row in golden.a[1:40]:
        one = one.merge(Moments.of(row[None]))
    np.testing.assert_allclose(one.covariance, np.cov(golden.a[:40], rowvar=False), atol=1e-14)


@pytest.mark.parametrize("rank", [3, 16])
def test_singular_covariances_have_thin_factors(golden, rank):
    """Dependent features, from rows and from a file; rounding of a file's float32 is bearable."""
    wide = golden.c[:, :rank] @ np.random.default_rng(1).standard_normal((rank, 40))
    exact = Moments.of(wide)
    assert exact.factor.shape == (40, rank)
    np.testing.assert_allclose(exact.factor @ exact.factor.T, exact.covariance, atol=1e-11)
    stored = gaussian(exact.mean, exact.covariance.astype(np.float32))
    np.testing.assert_allclose(stored.factor @ stored.factor.T, exact.covariance, atol=1e-4)


def test_the_square_root_gives_the_same_where_it_can(golden):
    a, b = Moments.of(golden.a), Moments.of(golden.b)
    assert frechet(a, b, method="sqrtm").distance == pytest.approx(GOLDEN, abs=1e-9)
    few = Moments.of(golden.a[:9])
    slow, fast = (frechet(few, b, method=method).distance for method in ("sqrtm", "svd"))
    assert slow == pytest.approx(fast, abs=1e-4)
    assert slow != fast


def test_twice_the_same_images_differ_by_ddof_only(golden):
    twice = Moments.of(np.concatenate([golden.a, golden.a]))
    once = Moments.of(golden.a)
    ratio = (600 / 599) / (300 / 299)
    expected = once.trace * (1 - ratio**0.5) ** 2
    assert frechet(twice, once).raw == pytest.approx(expected, abs=1e-12)
