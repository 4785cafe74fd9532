"""Class-aware Frechet distance: the mean over classes of the Frechet distance within the class.

mean_c FD(N(m_c, S_c) of the reference, N(m_c, S_c) of the generated images). Where both sets have
labels, m_c and S_c are of the images of class c. Elsewhere every image counts for every class by
its probability p(c|x): m_c = sum p x / sum p, S_c likewise, its divisor sum p - sum p^2 / sum p
(count - 1 for labels). Details: ``class_c``, the distance of each class; ``kl``, the divergence
sum_c r_c log(r_c / g_c) of the two sets' shares of the classes, which sees classes that are made
too rarely; ``skipped``, classes with fewer than 2 images (by weight) in a set.

Source: Liu et al. 2018, "An Improved Evaluation Framework for Generative Adversarial Networks"
(arXiv 1803.07474); the divisor and labels instead of probabilities are our own.

What holds: order does not matter. A set scores 0 against itself, with kl 0, and another draw of its
distribution above 0, by about c / (images per class): far more than FID, so compare equal counts
only. No standard error is known.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from arimage.eval.base import FeatureBatch, Metric, Reference
from arimage.eval.frechet import frechet
from arimage.eval.moments import Moments
from arimage.eval.rows import Shared, check_same_width
from arimage.shapes import Float

LEAST = 2  # images of a class in a set, for a covariance


class ClassAwareFrechetDistance(Metric):
    """``cafd``: keeps features, labels and probabilities."""

    name = "cafd"
    higher_is_better = False
    order_matters = False
    against = "reference"
    needs = "images"

    def __init__(self) -> None:
        super().__init__()
        self._batches: list[FeatureBatch] = []

    def add(self, batch: FeatureBatch) -> None:
        """Keeps the batch; ValueError when it has neither labels nor probabilities."""
        if batch.labels is None and batch.probabilities is None:
            raise ValueError(
                f"{self.name!r} needs labels= of the images, or features with class probabilities; "
                f"{batch.extractor!r} gives none"
            )
        self._batches.append(replace(batch, spatial=None))

    def absorb(self, other: Any) -> None:
        """Appends the batches of ``other``."""
        self._batches.extend(other._batches)

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The mean over classes that both sets have; ValueError when there is none."""
        assert reference is not None
        assert reference.images is not None
        real, generated = reference.images, FeatureBatch.concatenate(self._batches)
        check_same_width(generated.features, real.features)
        soft = generated.labels is None or real.labels is None
        if soft and (generated.probabilities is None or real.probabilities is None):
            raise ValueError(
                f"{self.name!r} needs labels of both sets, or features with class probabilities; "
                f"{reference.name!r} has no labels and {real.extractor!r} gives no probabilities"
            )
        shares = _shares(real, generated, soft)
        weight = np.minimum(shares[0] * len(real), shares[1] * len(generated))
        classes = np.flatnonzero(weight >= LEAST)
        if not len(classes):
            raise ValueError(
                f"no class has {LEAST} images in both sets; evaluate more images, or check labels="
            )
        found = {
            f"class_{c}": frechet(_moments(generated, c, soft), _moments(real, c, soft)).distance
            for c in classes.tolist()
        }
        details = {
            "kl": _divergence(*shares),
            "classes": len(classes),
            "skipped": np.count_nonzero(shares.sum(axis=0)) - len(classes),
            "reference_count": len(real),
        }
        return float(np.mean(list(found.values()))), details | found


def _shares(
    real: FeatureBatch, generated: FeatureBatch, soft: bool
) -> Float[np.ndarray, "2 classes"]:
    """The share of each class among the images of either set."""
    sets = (real, generated)
    if soft:
        return np.array([part.probabilities.mean(axis=0, dtype=np.float64) for part in sets])
    classes = max(part.labels.max() for part in sets) + 1
    return np.array([np.bincount(part.labels, minlength=classes) / len(part) for part in sets])


def _moments(images: FeatureBatch, label: int, soft: bool) -> Moments:
    if soft:
        return weighted_moments(images.features, images.probabilities[:, label])
    return Moments.of(images.features[images.labels == label])


def weighted_moments(rows: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"]) -> Moments:
    """Mean and covariance of rows that count by their weights; with weights of 1, ``Moments.of``
    (but for its count)."""
    weights = weights.astype(np.float64)
    total = weights.sum()
    mean = weights @ rows / total
    scale = np.sqrt(weights / (total - weights @ weights / total))
    away = (rows - mean) * scale[:, None]
    if len(rows) <= len(mean):
        return Moments(2, mean, deviations=away)
    return Moments(2, mean, away.T @ away)


def _divergence(
    real: Float[np.ndarray, " classes"], generated: Float[np.ndarray, " classes"]
) -> float:
    """Kullback-Leibler, in nats; infinite where a real class is never generated."""
    seen = real > 0
    with np.errstate(divide="ignore"):
        return float((real[seen] * np.log(real[seen] / generated[seen])).sum())
