"""Nearest neighbours and balls: float32 finds them, yet every answer is that of the definition."""

import numpy as np
import pytest
import torch

from arimage.eval import neighbors
from arimage.eval.neighbors import Balls, ball_hits, kth_nearest, nearest, nearest_direction
from arimage.eval.registry import GROUPS, METRICS
from arimage.eval.runner import evaluate

KINDS = [
    Balls(side, k, open_) for side in ("real", "generated") for k in (1, 3, 5) for open_ in (0, 1)
]


def cases():
    rng = np.random.default_rng(0)
    real, generated = rng.standard_normal((50, 6)), 0.9 * rng.standard_normal((70, 6))
    copied = np.repeat(real[:10], 4, axis=0)
    grid = [rng.integers(0, 4, (60, 2)).astype(float) for _ in range(2)]
    outlier = real.copy()
    outlier[0] = 1e12
    close = 1e4 + 1e-5 * real  # closer than float32 products can tell at all
    return {
        "plain": (real, generated),
        "float32 far from zero": (
            real.astype(np.float32) + 1e4,
            generated.astype(np.float32) + 1e4,
        ),
        "duplicates": (copied, np.concatenate([copied[:20], generated])),
        "ties": grid,
        "outlier": (outlier, generated),
        "close": (close, np.concatenate([close[:30], 1e4 + 1e-5 * generated])),
        "mixed types": (real.astype(np.float16), generated.astype(np.float32)),
        "huge": (1e30 * real, 1e30 * generated),
        "tiny": (1e-30 * real, 1e-30 * generated),
    }


def by_definition(real, generated):
    """(own real, own generated, cross) squared distances, coordinate by coordinate."""
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    pairs = ((real, real), (generated, generated), (real, generated))
    return [np.square(a[:, None] - b).sum(axis=-1) for a, b in pairs]


@pytest.mark.parametrize("tile", [7, 2048])
@pytest.mark.parametrize("name", cases())
def test_every_answer_is_that_of_the_definition(name, tile):
    real, generated = cases()[name]
    own, own_generated, cross = by_definition(real, generated)
    real, generated = torch.from_numpy(real), torch.from_numpy(generated)
    found = ball_hits(real, generated, KINDS, tile=tile)
    for balls, hits in found.items():
        distances, radii = (cross, own) if balls.around == "real" else (cross.T, own_generated)
        reach = np.sort(radii, axis=1)[:, balls.k, None]
        inside = distances < reach if balls.open else distances <= reach
        np.testing.assert_array_equal(hits.depth, inside.sum(axis=0))
        np.testing.assert_array_equal(hits.hit, inside.any(axis=1))
    for k in (1, 3):
        expected = np.sort(own, axis=1)[:, k]
        np.testing.assert_allclose(kth_nearest(real, k, tile=tile), expected, rtol=1e-13, atol=0)
    expected = cross.min(axis=0)
    np.testing.assert_allclose(nearest(generated, real, tile=tile), expected, rtol=1e-13, atol=0)


def test_float32_alone_would_be_wrong():
    """The negative twin: distances by float32 products, taken as they come."""
    rows = 1000 + torch.from_numpy(cases()["plain"][0]).float()
    norms = rows.square().sum(1)
    squared = norms[:, None] + norms - 2 * rows @ rows.T
    exact = by_definition(rows.numpy(), rows.numpy())[0]
    assert np.abs(squared.numpy() - exact).max() > 0.1
    np.testing.assert_allclose(kth_nearest(rows, 3), np.sort(exact, axis=1)[:, 3], rtol=1e-13)


def test_bounds_hold_at_full_width():
    """2,048 features whose balls have close calls: a second look is needed, and taken."""
    rng = np.random.default_rng(1)
    real = rng.standard_normal((60, 2048)).astype(np.float32)
    generated = np.repeat(real[:20], 2, axis=0) * np.float32(1 + 1e-6)
    hits = ball_hits(torch.from_numpy(real), torch.from_numpy(generated), KINDS)
    own, _, cross = by_definition(real, generated)
    for balls in (Balls("real", 3, False), Balls("real", 5, True)):
        reach = np.sort(own, axis=1)[:, balls.k, None]
        np.testing.assert_array_equal(hits[balls].depth, (cross <= reach).sum(axis=0))


def test_reduced_precision_products_are_switched_off_and_on_again():
    rows = torch.from_numpy(cases()["plain"][0])
    torch.set_float32_matmul_precision("medium")
    try:
        kth_nearest(rows, 3)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_directions():
    rng = np.random.default_rng(2)
    queries, rows = rng.standard_normal((30, 5)), rng.standard_normal((40, 5))
    rows[0], queries[1] = -3 * queries[0], 2 * rows[7]
    cosines = (queries @ rows.T) / np.outer(*(np.linalg.norm(x, axis=1) for x in (queries, rows)))
    found = nearest_direction(torch.from_numpy(queries), torch.from_numpy(rows), tile=7)
    np.testing.assert_allclose(found, 1 - np.abs(cosines).max(axis=1), atol=1e-15)
    assert found[:2].max() < 1e-15


@pytest.mark.parametrize("group", GROUPS)
def test_one_pass_serves_all_of_a_group(group, monkeypatch, noise_pixels):
    passes = []
    original = neighbors.ball_hits

    def counted(real, generated, wanted, **settings):
        passes.append(list(wanted))
        return original(real, generated, passes[-1], **settings)

    monkeypatch.setattr("arimage.eval.metrics.manifold.ball_hits", counted)
    other = np.random.default_rng(5).integers(0, 256, noise_pixels.shape, dtype=np.uint8)
    together = evaluate(noise_pixels, metrics=GROUPS[group], features="pixels", reference=other)
    assert len(passes) == 1
    for name in GROUPS[group]:
        alone = evaluate(noise_pixels, metrics=[name], features="pixels", reference=other)
        assert alone[name].value == together[name].value
    assert len(passes) == 1 + len(GROUPS[group])


def test_a_metric_works_where_another_of_its_group_cannot(batch_of, reference_of):
    """Four generated images make no balls of five neighbours, but they can be inside real ones."""
    rows = np.random.default_rng(3).standard_normal((20, 4))
    metrics = [METRICS["precision"](), METRICS["recall"](5)]
    for metric in metrics:
        metric.update(batch_of(rows[:4]))
    shared = {"metrics": metrics}
    assert metrics[0].compute(reference_of(rows), shared).value == 1
    with pytest.raises(ValueError, match="got 4 images; the 5-th nearest neighbour needs more"):
        metrics[1].compute(reference_of(rows), shared)
