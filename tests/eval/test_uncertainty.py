"""Standard errors are the spread of the score over independent draws of the generated images."""

import numpy as np
import pytest

from arimage.eval.base import Metric
from arimage.eval.frechet import frechet, influences
from arimage.eval.moments import Moments
from arimage.eval.registry import METRICS

DRAWS = 120
SIZE = 6


@pytest.fixture(scope="module")
def draws(batch_of, reference_of):
    """Scores, with errors, of many draws of one distribution against one reference."""

    def run(name, count):
        rng = np.random.default_rng(11)
        mixes = [np.eye(SIZE) + rng.standard_normal((SIZE, SIZE)) / 3 for _ in range(2)]
        kind = METRICS[name].features or "toy"
        reference = reference_of(rng.standard_normal((400, SIZE)) @ mixes[0], extractor=kind)
        scores = []
        for _ in range(DRAWS):
            metric: Metric = METRICS[name]()
            metric.uncertain = True
            rows = rng.standard_normal((count, SIZE)) @ mixes[1] + 0.3
            p = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
            labels = rng.integers(0, SIZE, count)
            metric.update(batch_of(rows, extractor=kind, probabilities=p, labels=labels))
            scores.append(metric.compute(reference if metric.against else None))
        spread = np.std([score.value for score in scores], ddof=1)
        return spread, np.mean([score.standard_error for score in scores])

    return run


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("fid", 300), ("fid", 1000), ("fd_dinov2", 300), ("kid", 200), ("cmmd", 200)),
        *(("accuracy", 300), ("inception_score", 1000)),
    ],
)
def test_the_error_is_the_spread_over_draws(draws, name, count):
    """The spread of 120 draws is itself known to 6.5 % (one standard deviation)."""
    spread, claimed = draws(name, count)
    assert claimed == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("name", ["precision", "density"])
def test_the_error_with_fixed_balls_covers_generated_images(draws, name):
    """These are means over generated images, whose draw does not move the real balls."""
    spread, claimed = draws(name, 300)
    assert claimed == pytest.approx(spread, rel=0.2)


def test_influence_is_the_effect_of_one_image_more():
    rng = np.random.default_rng(12)
    rows, real = rng.standard_normal((20_000, 4)), 1.3 * rng.standard_normal((500, 4)) + 0.2
    extra = rng.standard_normal((5, 4)) * 2
    moments, reference = Moments.of(rows), Moments.of(real)
    found = influences(np.concatenate([extra, rows]), moments, reference)
    merged = [frechet(moments.merge(Moments.of(one[None])), reference).raw for one in extra]
    moved = 20_001 * np.array(merged)
    np.testing.assert_allclose(found[:5] - found[4], moved - moved[4], rtol=0.005, atol=0.005)
    assert np.abs(found[:5]).max() > 1
    assert np.abs(found.mean()) < 1e-12


def test_a_class_that_is_off_shows(golden, batch_of, reference_of):
    rows, labels = golden.a.copy(), np.arange(300) % 5
    rows[labels == 3] += 1
    metric = METRICS["fid"]()
    metric.uncertain = True
    for part in (slice(0, 100), slice(100, 300)):
        metric.update(batch_of(rows[part], labels=labels[part]))
    details = metric.compute(reference_of(golden.b)).details
    moved = {c: details[f"class_{c}"] for c in range(5)}
    assert max(moved, key=moved.get) == 3
    assert sum(moved.values()) == pytest.approx(0, abs=1e-12)
    metric.update(batch_of(rows[:5]))  # no labels: no classes
    assert "class_3" not in metric.compute(reference_of(golden.b)).details


def test_rows_are_kept_only_where_asked_for(golden, batch_of, reference_of):
    plain, asked = METRICS["fid"](), METRICS["fid"]()
    asked.uncertain = True
    for metric in (plain, asked):
        metric.update(batch_of(golden.a))
    assert not plain._pieces
    assert plain.compute(reference_of(golden.b)).standard_error is None
    with pytest.raises(ValueError, match="set uncertain on both, before the first update"):
        asked.merge(plain)


def test_fewer_images_than_features_have_an_error_too(golden, batch_of, reference_of):
    metric = METRICS["fid"]()
    metric.uncertain = True
    metric.update(batch_of(golden.a[:9]))
    error = metric.compute(reference_of(golden.b)).standard_error
    assert 0 < error < 10
