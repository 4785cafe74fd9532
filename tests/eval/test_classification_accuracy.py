"""Classification accuracy: the classifier against scikit-learn's, the score against its meaning."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from arimage.eval.base import Reference
from arimage.eval.metrics import classification_accuracy as module
from arimage.eval.metrics.classification_accuracy import (
    RIDGE,
    ClassificationAccuracy,
    SoftmaxRegression,
)
from arimage.eval.runner import evaluate


def blobs(count, classes, seed, spread=1.0, width=5):
    """Labelled points around one centre per class."""
    rng = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(77).standard_normal((classes, width))
    labels = np.arange(count) % classes
    return centres[labels] + spread * rng.standard_normal((count, width)), labels


def standardised(features):
    return (features - features.mean(axis=0)) / features.std(axis=0)


@pytest.mark.parametrize("rows", [4096, 7])
def test_the_classifier_is_the_minimum(rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", rows)
    features, labels = blobs(60, 4, seed=1)
    features = features * [1, 10, 0.01, 3, 1] + 100  # other units change nothing
    model = SoftmaxRegression.fit(features, labels * 3)
    assert model.classes.tolist() == [0, 3, 6, 9]
    expected = LogisticRegression(C=1 / (RIDGE * 60), tol=1e-12, max_iter=10_000)
    expected.fit(standardised(features), labels)
    np.testing.assert_allclose(model.weights, expected.coef_.T, atol=1e-4)
    np.testing.assert_allclose(
        model.bias - model.bias.mean(),
        expected.intercept_ - expected.intercept_.mean(),
        atol=1e-4,
    )
    other = LogisticRegression(
        C=1 / RIDGE, tol=1e-12, max_iter=10_000
    )  # a ridge per set, not image
    other.fit(standardised(features), labels)
    assert np.abs(model.weights - other.coef_.T).max() > 0.01
    order = np.argsort(-expected.decision_function(standardised(features)), axis=1)
    np.testing.assert_array_equal(model.best(features, 3), 3 * order[:, :3])


def score(batch_of, reference, features, labels, size=1000):
    metric = ClassificationAccuracy()
    metric.uncertain = True
    for start in range(0, len(features), size):
        part = slice(start, start + size)
        metric.update(batch_of(features[part], labels=labels[part]))
    return metric.compute(reference)


@pytest.fixture(scope="module")
def real():
    features, labels = blobs(160, 8, seed=2, spread=2.0)
    return Reference.from_pixels(
        "real",
        np.zeros((160, 8, 8, 3), np.uint8),
        Named(features),
        labels,
    )


class Named:
    """The extractor "toy", which has the features already."""

    name = "toy"

    def __init__(self, features):
        self.features = features

    def __call__(self, pixels, labels=None):
        from arimage.eval.base import FeatureBatch

        assert len(pixels) == len(self.features)
        return FeatureBatch(extractor="toy", features=self.features, labels=labels)


def test_what_the_score_says(batch_of, real):
    features, labels = blobs(240, 8, seed=3, spread=2.0)
    good = score(batch_of, real, features, labels)
    assert good.value > 0.6
    assert good.value == pytest.approx(good.details["real"], abs=0.1)
    assert good.details["top_5"] > good.value
    assert good.details["reference_count"] == 160
    each = [good.details[f"class_{c}"] for c in range(8)]
    assert np.mean(each) == pytest.approx(good.value)
    assert good.standard_error == pytest.approx((good.value * (1 - good.value) / 160) ** 0.5)
    wrong = score(batch_of, real, features, (labels + 1) % 8)
    assert wrong.value < 0.2 < good.value
    assert wrong.details["real"] == good.details["real"]
    known = labels < 5  # three classes were never generated
    partly = score(batch_of, real, features[known], labels[known])
    assert [partly.details[f"class_{c}"] for c in range(5, 8)] == [0, 0, 0]
    assert "top_5" not in partly.details
    collapsed = features[labels]  # the same picture for every image of a class
    assert score(batch_of, real, collapsed, labels).value < good.value


def test_order_and_batches_change_no_digit(batch_of, real):
    features, labels = blobs(100, 8, seed=4, spread=2.0)
    whole = score(batch_of, real, features, labels)
    mixed = np.random.default_rng(0).permutation(100)
    assert score(batch_of, real, features[mixed], labels[mixed], size=7) == whole
    one, two = (SoftmaxRegression.fit(features[i], labels[i]) for i in (np.arange(100), mixed))
    np.testing.assert_array_equal(one.weights, two.weights)


def test_constant_features_and_single_images(batch_of, real):
    rows = np.ones((40, 5))
    nothing = score(batch_of, real, rows, np.arange(40) % 8)
    assert nothing.value == pytest.approx(1 / 8)  # all rows look alike: one class is always said
    few = Reference.from_pixels(
        "few", np.zeros((3, 8, 8, 3), np.uint8), Named(np.eye(3, 5)), np.array([0, 1, 1])
    )
    assert "real" not in score(batch_of, few, *blobs(16, 8, seed=5)).details


def test_labels_are_asked_for_on_both_sides(batch_of, real):
    metric = ClassificationAccuracy()
    with pytest.raises(ValueError, match=r"needs the label each image was asked for; pass labels="):
        metric.update(batch_of(np.zeros((2, 5))))
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"'reference' has no labels; build it with Reference"):
        evaluate(
            pixels,
            metrics=["classification_accuracy"],
            features="pixels",
            reference=pixels,
            labels=[0, 1, 0, 1],
        )
