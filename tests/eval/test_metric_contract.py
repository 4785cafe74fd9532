"""What holds for every registered metric, checked over the registry."""

import importlib
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from arimage.eval.base import FeatureBatch, Metric, Reference
from arimage.eval.metrics.kid import cubic, cubic_diagonal
from arimage.eval.moments import Moments
from arimage.eval.registry import FEATURES, GROUPS, METRICS
from arimage.eval.runner import evaluate

COUNT = 97
CUTS = (0, 1, 8, 40, 41, COUNT)

every_metric = pytest.mark.parametrize("name", METRICS)


@pytest.fixture(scope="module")
def stream(batch_of, reference_of):
    """For a metric: its class, a function from row indices to a batch, and its reference."""

    def build(name):
        metric = METRICS[name]
        rng = np.random.default_rng(3)
        extractor = metric.features or "toy"
        features = rng.standard_normal((COUNT, 6)).astype(np.float32) + 100
        labels = np.arange(COUNT) // 10  # sorted by class, the worst order there is
        scores = np.exp(2 * rng.standard_normal((COUNT, 10)) + 4 * np.eye(10)[labels])
        probabilities = scores / scores.sum(axis=1, keepdims=True)

        def rows(index):
            batch = batch_of(
                features[index],
                extractor=extractor,
                probabilities=probabilities[index],
                labels=labels[index],
            )
            return replace(batch, spatial=features[index, ::2] ** 2)

        real = rng.standard_normal((80, 6)).astype(np.float32) + 100.2
        return metric, rows, complete(reference_of(real, extractor=extractor), np.arange(80) // 8)

    return build


def complete(reference, labels=None):
    """A reference with the spatial moments, and the labels, that some metrics need."""
    rows = reference.moments.mean[None, ::2] if reference.images is None else reference.features
    spatial = Moments.of(rows.astype(np.float64) ** 2)
    if reference.images is None or labels is None:
        return replace(reference, spatial=spatial)
    spatial = Moments.of(rows[:, ::2].astype(np.float64) ** 2)
    return replace(reference, spatial=spatial, images=replace(reference.images, labels=labels))


def score_of(metric, batches, reference):
    for batch in batches:
        metric.update(batch)
    return metric.compute(reference)


def uncertain(metric):
    """A new one that is asked for its standard error."""
    made = metric()
    made.uncertain = True
    return made


def same(a, b):
    assert a.value == pytest.approx(b.value, rel=1e-9)
    assert a.details == pytest.approx(b.details, rel=1e-9, abs=1e-9)
    assert (a.standard_error is None) == (b.standard_error is None)
    assert a.standard_error is None or a.standard_error == pytest.approx(b.standard_error, rel=1e-6)
    assert (a.count, a.reference, a.features) == (b.count, b.reference, b.features)


@every_metric
def test_declares_itself(name):
    metric = METRICS[name]
    assert issubclass(metric, Metric)
    assert metric.name == name
    assert metric.against in (None, "reference", "training")
    assert metric.needs in ("moments", "images")
    assert metric.features is None or metric.features in FEATURES
    text = " ".join((sys.modules[metric.__module__].__doc__ or "").split())
    assert "Source:" in text
    assert "What holds: order " + ("matters" if metric.order_matters else "does not") in text
    assert re.search("[Ss]tandard error", text)
    assert metric.against is None or re.search(r"([Aa]|training) set\b.* against itself", text)


@every_metric
def test_streamed_and_merged_equal_batch(name, stream):
    metric, rows, reference = stream(name)
    whole = score_of(uncertain(metric), [rows(np.arange(COUNT))], reference)
    pieces = [rows(np.arange(a, b)) for a, b in pairwise(CUTS)]
    same(score_of(uncertain(metric), pieces, reference), whole)
    first, second = uncertain(metric), uncertain(metric)
    for piece in pieces[:2]:
        first.update(piece)
    for piece in pieces[2:]:
        second.update(piece)
    second = pickle.loads(pickle.dumps(second))  # as another process would send it
    first.merge(second)
    same(first.compute(reference), whole)
    assert whole.count == COUNT
    assert np.isfinite(whole.value)


@every_metric
def test_empty_merge_is_identity(name, stream):
    metric, rows, reference = stream(name)
    full = metric()
    whole = score_of(full, [rows(np.arange(COUNT))], reference)
    full.merge(metric())
    same(full.compute(reference), whole)
    fresh = metric()
    fresh.merge(full)
    same(fresh.compute(reference), whole)


@every_metric
def test_order_matters_exactly_as_stated(name, stream):
    metric, rows, reference = stream(name)
    sorted_score = score_of(metric(), [rows(np.arange(COUNT))], reference)
    mixed = np.random.default_rng(4).permutation(COUNT)
    mixed_score = score_of(metric(), [rows(mixed)], reference)
    if metric.order_matters:
        assert abs(mixed_score.value - sorted_score.value) > 1e-3 * abs(sorted_score.value)
    else:
        same(mixed_score, sorted_score)


@every_metric
def test_compute_leaves_the_state(name, stream):
    metric, rows, reference = stream(name)
    one = metric()
    first = score_of(one, [rows(np.arange(50))], reference)
    assert one.compute(reference) == first
    one.update(rows(np.arange(50, COUNT)))
    same(one.compute(reference), score_of(metric(), [rows(np.arange(COUNT))], reference))


@every_metric
def test_errors_are_sentences(name, stream, batch_of, reference_of):
    metric, rows, reference = stream(name)
    with pytest.raises(ValueError, match="has seen no image"):
        metric().compute(reference)
    used = metric()
    used.update(rows(np.arange(COUNT)))
    with pytest.raises(ValueError, match=r"holds features of .* and got some of 'other'"):
        used.update(batch_of(np.zeros((1, 6), np.float32), extractor="other"))
    if metric.against is None:
        return
    with pytest.raises(ValueError, match=f"compares with a {metric.against} set and got none"):
        used.compute(None)
    with pytest.raises(ValueError, match="but 'other' saw it"):
        used.compute(reference_of(np.zeros((9, 6), np.float32), extractor="other"))
    wide = reference_of(np.ones((9, 7)), extractor=used.extractor)
    wide = replace(wide, spatial=Moments.of(np.ones((9, 7))))
    if metric.features is None:
        with pytest.raises(ValueError, match=r"got [36] features per image and a reference of 7"):
            used.compute(wide)


@every_metric
def test_reference_of_moments_serves_or_says_why_not(name, stream, reference_of):
    metric, rows, reference = stream(name)
    if metric.against is None:
        pytest.skip("compares with nothing")
    used = metric()
    used.update(rows(np.arange(COUNT)))
    bare = reference_of(
        reference.features.astype(np.float64), extractor=reference.extractor, images=False
    )
    bare = replace(bare, spatial=reference.spatial)
    if metric.needs == "images":
        with pytest.raises(ValueError, match="holds only a mean and a covariance"):
            used.compute(bare)
    else:
        assert used.compute(bare).value == pytest.approx(used.compute(reference).value, rel=1e-9)


def test_merging_another_metric_is_an_error():
    with pytest.raises(TypeError, match="cannot merge Recall into 'precision'"):
        METRICS["precision"]().merge(METRICS["recall"]())


@every_metric
def test_a_standard_error_is_given_where_the_file_says_what_it_covers(name, stream):
    metric, rows, reference = stream(name)
    text = " ".join(sys.modules[metric.__module__].__doc__.split())
    assert score_of(metric(), [rows(np.arange(COUNT))], reference).standard_error is None
    error = score_of(uncertain(metric), [rows(np.arange(COUNT))], reference).standard_error
    assert (error is None) == ("No standard error is known" in text)
    assert error is None or (error >= 0 and np.isfinite(error))


def kid_of_itself(rows):
    rows = rows.astype(np.float64)
    own, every = cubic_diagonal(rows).mean(), cubic(rows, rows).mean()
    return -2 * (own - every) / (len(rows) - 1)


OF_ITSELF = {
    **dict.fromkeys(("fid", "sfid", "fd_dinov2", "mifid", "cafd", "cmmd"), 0.0),
    **dict.fromkeys(("precision", "recall", "density", "coverage", "copies"), 1.0),
    "kid": kid_of_itself,
}
ROUGHLY = {  # where no number is known; the score against itself and against the other set
    "fid_infinity": lambda own, other: own.value < -2 * own.details["std"],  # its shuffles decide
    "classification_accuracy": lambda own, other: other.value + 0.1 < own.value <= 1,
}


@every_metric
def test_what_a_set_scores_against_itself(name, stream, reference_of):
    metric, rows, reference = stream(name)
    if metric.against is None:
        assert name not in OF_ITSELF
        assert name not in ROUGHLY
        return
    batch = rows(np.arange(COUNT))
    same_set = complete(reference_of(batch.features, extractor=batch.extractor), batch.labels)
    score = score_of(metric(), [rows(np.arange(50)), rows(np.arange(50, COUNT))], same_set)
    other = score_of(metric(), [batch], reference)
    assert other.value != score.value
    if name in ROUGHLY:
        assert ROUGHLY[name](score, other)
        return
    expected = OF_ITSELF[name]
    expected = expected(batch.features) if callable(expected) else expected
    assert score.value == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_groups_name_metrics():
    for names in GROUPS.values():
        assert set(names) <= set(METRICS)
    assert not set(GROUPS) & set(METRICS)


class StandIn:
    """Gives everything that any metric may need, without weights."""

    name = "stand-in"

    def __call__(self, pixels, labels=None):
        rows = pixels.reshape(len(pixels), -1)[:, :60].astype(np.float32)
        features = rows.reshape(len(rows), 10, 6).mean(axis=2) / 255
        return FeatureBatch(
            extractor=self.name,
            features=features,
            spatial=rows[:, :5],
            probabilities=features / features.sum(axis=1, keepdims=True),
            labels=labels,
        )


@every_metric
def test_every_metric_runs_from_pixels(name, noise_pixels, monkeypatch):
    if METRICS[name].features not in (None, "pixels"):
        monkeypatch.setitem(FEATURES._table, METRICS[name].features, f"{__name__}:StandIn")
    labels = np.arange(60) % 10
    real = Reference.from_pixels("real", noise_pixels[::-1].copy(), StandIn(), labels)
    report = evaluate(
        noise_pixels,
        metrics=[name],
        features=StandIn(),
        reference=real if name == "classification_accuracy" else noise_pixels[::-1].copy(),
        training=noise_pixels[:30],
        labels=labels,
        batch_size=17,
    )
    assert report[name].count == 60


def test_tables_are_lazy_and_light():
    code = (
        "import sys, arimage.eval.registry; print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert importlib.import_module("arimage.eval").__file__ is None  # a namespace package
