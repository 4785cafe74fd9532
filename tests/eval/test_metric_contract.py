"""What holds for every registered metric, checked over the registry."""

import importlib
import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from arimage.eval.base import Metric, Reference
from arimage.eval.registry import FEATURES, METRICS
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
            return batch_of(
                features[index],
                extractor=extractor,
                probabilities=probabilities[index],
                labels=labels[index],
            )

        real = rng.standard_normal((80, 6)).astype(np.float32) + 100.2
        return metric, rows, reference_of(real, extractor=extractor) if metric.against else None

    return build


def score_of(metric, batches, reference):
    for batch in batches:
        metric.update(batch)
    return metric.compute(reference)


def same(a, b):
    assert a.value == pytest.approx(b.value, rel=1e-9)
    assert a.details == pytest.approx(b.details, rel=1e-9, abs=1e-9)
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


@every_metric
def test_streamed_and_merged_equal_batch(name, stream):
    metric, rows, reference = stream(name)
    whole = score_of(metric(), [rows(np.arange(COUNT))], reference)
    pieces = [rows(np.arange(a, b)) for a, b in pairwise(CUTS)]
    same(score_of(metric(), pieces, reference), whole)
    first, second = metric(), metric()
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
        assert mixed_score.value > 1.5 * sorted_score.value
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
    if metric.features is None:
        with pytest.raises(ValueError, match=r"got 6 features per image and a reference of 7"):
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
    if metric.needs == "images":
        with pytest.raises(ValueError, match="holds only a mean and a covariance"):
            used.compute(bare)
    else:
        assert used.compute(bare).value == pytest.approx(used.compute(reference).value, rel=1e-9)


def test_merging_another_metric_is_an_error():
    with pytest.raises(TypeError, match="cannot merge Recall into 'precision'"):
        METRICS["precision"]().merge(METRICS["recall"]())


@every_metric
def test_every_metric_runs_from_pixels(name, noise_pixels, untrained):
    labels = np.arange(60) % 10
    real = Reference.from_pixels("real", noise_pixels[::-1].copy(), untrained, labels)
    report = evaluate(
        noise_pixels,
        metrics=[name],
        features=untrained,
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
