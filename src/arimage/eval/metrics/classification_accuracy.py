"""Classification accuracy score: what a classifier learns from generated images about real ones.

A classifier is trained on the generated images and the labels they were asked for, and tested on
the labelled real images of the reference. It sees fidelity and diversity at once: a class that is
missing, blurred or always the same picture is a class that is not learned.

Source: Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional Generative Models".
The paper trains a ResNet-50 on the pixels of as many images as ImageNet has, which takes many GPU
days; here it is softmax regression on the extractor's features. Published scores (42.65 % for
BigGAN-deep, 73.09 % for ImageNet itself) are NOT comparable with this one. Compare it with
``real``: what the same classifier reaches when half the reference teaches it the other half.

What holds: order does not matter, and neither do batches. The classifier is the minimum of a
strictly convex function, found from zeros in float64 on rows in an order of their own. A set scores
against itself what the classifier can repeat of it, at most 1 and more than of another set. The
standard error is binomial over the real images and takes the classifier as fixed.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from arimage.eval.base import FeatureBatch, Reference, RowMetric
from arimage.eval.rows import Shared, binomial_error
from arimage.shapes import Bool, Float, Int

# Half of it times the squared weights, beside the mean loss of standardised features; of 0.1 to
# 0.0001 the best on digits with 64 features of either kind and 1,000 images.
RIDGE = 1e-2
ROWS = 4096  # images at once: 32 MB of features at 1,000 of them, the same of logits
STEPS = 500  # of L-BFGS, at most; a gradient below GRADIENT everywhere ends it earlier
GRADIENT = 1e-6
TOP = 5


@dataclass(frozen=True)
class SoftmaxRegression:
    """Linear in standardised features: logits (x - mean) / scale @ weights + bias."""

    classes: Int[np.ndarray, " c"]
    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    weights: Float[np.ndarray, "d c"]
    bias: Float[np.ndarray, " c"]

    @classmethod
    def fit(
        cls, features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]
    ) -> "SoftmaxRegression":
        """The minimum of mean cross-entropy plus RIDGE / 2 times the squared weights (not bias)."""
        order = np.lexsort((_ranks(features), labels))
        features, labels = features[order], labels[order]
        classes, targets = np.unique(labels, return_inverse=True)
        mean = features.mean(axis=0, dtype=np.float64)
        scale = features.std(axis=0, dtype=np.float64)
        scale[scale == 0] = 1  # a constant feature says nothing: its weight stays 0
        shape = (features.shape[1] + 1, len(classes))

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            parameters = flat.reshape(shape)
            weights = parameters[:-1]
            loss, gradient = 0.0, np.zeros(shape)
            for start in range(0, len(features), ROWS):
                rows = (features[start : start + ROWS] - mean) / scale
                wanted = targets[start : start + ROWS]
                loss += _cross_entropy(rows, wanted, parameters, gradient)
            gradient /= len(features)
            gradient[:-1] += RIDGE * weights
            loss = loss / len(features) + RIDGE / 2 * np.square(weights).sum()
            return loss, gradient.ravel()

        found = minimize(
            objective,
            np.zeros(math.prod(shape)),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": STEPS, "gtol": GRADIENT, "ftol": 0},
        ).x.reshape(shape)
        return cls(classes, mean, scale, found[:-1], found[-1])

    def best(self, features: Float[np.ndarray, "n d"], count: int) -> Int[np.ndarray, "n k"]:
        """The most probable classes of each row, at most ``count``, best first."""
        found = []
        for start in range(0, len(features), ROWS):
            rows = (features[start : start + ROWS] - self.mean) / self.scale
            logits = rows @ self.weights + self.bias
            found.append(self.classes[np.argsort(-logits, axis=1, kind="stable")[:, :count]])
        return np.concatenate(found)


def _cross_entropy(
    rows: Float[np.ndarray, "n d"],
    targets: Int[np.ndarray, " n"],
    parameters: Float[np.ndarray, "e c"],
    gradient: Float[np.ndarray, "e c"],
) -> float:
    """The sum over rows; adds its gradient to ``gradient``."""
    logits = rows @ parameters[:-1] + parameters[-1]
    logits -= logits.max(axis=1, keepdims=True)
    each = np.arange(len(rows))
    right = logits[each, targets]
    error = np.exp(logits, out=logits)
    total = error.sum(axis=1)
    error /= total[:, None]
    error[each, targets] -= 1
    gradient[:-1] += rows.T @ error
    gradient[-1] += error.sum(axis=0)
    return float((np.log(total) - right).sum())


def _ranks(rows: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
    """The place of each row when rows are sorted by their bytes: the same in any order."""
    keys = np.ascontiguousarray(rows).view(f"V{rows.shape[1] * rows.itemsize}").ravel()
    return np.unique(keys, return_inverse=True)[1].ravel()


class ClassificationAccuracy(RowMetric):
    """``classification_accuracy``: keeps features and labels; trains when it is computed.

    The standard error is binomial over the test images: what another real set of this size would
    change. It does not cover another draw of the generated images.
    """

    name = "classification_accuracy"
    higher_is_better = True
    order_matters = False
    against = "reference"
    needs = "images"

    def __init__(self) -> None:
        super().__init__()
        self._labels: list[np.ndarray] = []

    def add(self, batch: FeatureBatch) -> None:
        """Keeps features and labels; ValueError without labels."""
        if batch.labels is None:
            raise ValueError(
                f"{self.name!r} needs the label each image was asked for; pass labels="
            )
        super().add(batch)
        self._labels.append(batch.labels)

    def absorb(self, other: Any) -> None:
        """Appends the features and labels of ``other``."""
        super().absorb(other)
        self._labels.extend(other._labels)

    def check_reference(self, reference: Reference | None, extractor: str | None) -> None:
        """As every metric's; ValueError also for a reference without labels."""
        super().check_reference(reference, extractor)
        assert reference is not None
        assert reference.images is not None
        if reference.images.labels is None:
            raise ValueError(
                f"{self.name!r} tests on labelled real images and {reference.name!r} has no "
                "labels; build it with Reference.from_pixels(..., labels=...)"
            )

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """Top-1 in [0, 1]; ``class_c`` of each real class, ``top_5`` where there are 6 or more
        trained classes, ``real`` where each real class has two images."""
        assert reference is not None
        assert reference.images is not None
        features, labels = self.collected(shared), np.concatenate(self._labels)
        real, truth = reference.features, reference.images.labels
        if real.shape[1] != features.shape[1]:
            raise ValueError(
                f"got {features.shape[1]} features per image and a reference of "
                f"{real.shape[1]}; use one feature extractor for both"
            )
        model = SoftmaxRegression.fit(features, labels)
        hits = model.best(real, TOP) == truth[:, None]
        first = hits[:, 0]
        details = {f"class_{c}": first[truth == c].mean() for c in np.unique(truth)}
        if len(model.classes) > TOP:
            details["top_5"] = hits.any(axis=1).mean()
        halves = _halves(real, truth)
        if halves is not None:
            details["real"] = _taught_by_itself(real, truth, halves)
        shared["accuracy", id(self)] = first.mean()
        return first.mean(), {**details, "reference_count": len(real)}

    def standard_error(self, reference: Reference | None, shared: Shared) -> float:
        """Binomial over the test images."""
        assert reference is not None
        return binomial_error(shared["accuracy", id(self)], len(reference.features))


def _halves(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"] | None:
    """One half of each class, whatever the order; None where a class has a single image."""
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        return None
    half, ranks = np.zeros(len(labels), dtype=bool), _ranks(features)
    for c in classes:
        members = np.flatnonzero(labels == c)
        half[members[np.argsort(ranks[members], kind="stable")][::2]] = True
    return half


def _taught_by_itself(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    half: Bool[np.ndarray, " n"],
) -> float:
    """The accuracy on each half of a classifier trained on the other."""
    hits = 0
    for test in (half, ~half):
        model = SoftmaxRegression.fit(features[~test], labels[~test])
        hits += (model.best(features[test], 1)[:, 0] == labels[test]).sum()
    return hits / len(labels)
