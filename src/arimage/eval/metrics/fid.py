"""Frechet distance between two sets of features: FID when the features are Inception's.

|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), means m, covariances S with ddof 1.

Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule...", eq. 6. Published
values are of 50,000 images against statistics of the whole training set.

What holds: order does not matter. A set scores 0 against itself, and more than 0 against another
draw of its own distribution, by about c / n: compare equal counts only. The standard error (delta
method, ``frechet.influences``) covers the draw of the generated images around the value of this
count, neither that bias nor the reference. With it and labels come details ``class_c``: how far an
image of class c moves the distance, on average, above (worse) or below the average image. Images
that are drawn in equal numbers per class vary less than it says.
"""

from typing import Any

import numpy as np

from arimage.eval.base import FeatureBatch, Metric, Reference
from arimage.eval.frechet import frechet, influences
from arimage.eval.moments import Moments, extend
from arimage.eval.rows import Shared, joined
from arimage.shapes import Float


class FrechetDistance(Metric):
    """``fid``: streams float64 moments, so it needs no images of the reference either."""

    name = "fid"
    higher_is_better = False
    order_matters = False
    against = "reference"
    needs = "moments"

    def __init__(self) -> None:
        super().__init__()
        self.moments: Moments | None = None
        self._pieces: list[np.ndarray] = []
        self._labels: list[np.ndarray | None] = []

    def rows(self, batch: FeatureBatch) -> Float[np.ndarray, "b d"]:
        """What is compared: the features, unless a subclass says otherwise."""
        return batch.features

    def target(self, reference: Reference) -> Moments:
        """What it is compared with."""
        return reference.moments

    def add(self, batch: FeatureBatch) -> None:
        """Merges the moments of the batch; keeps its rows where a standard error is wanted."""
        rows = self.rows(batch)
        self.moments = extend(self.moments, rows)
        if self.uncertain:
            self._pieces.append(rows)
            self._labels.append(batch.labels)

    def absorb(self, other: Any) -> None:
        """Merges the moments of ``other``; ValueError if only one of the two has kept rows."""
        if self.uncertain != other.uncertain:
            raise ValueError(
                f"only one of two {self.name!r} has kept single images for a standard error; "
                "set uncertain on both, before the first update"
            )
        self.moments = other.moments if self.moments is None else self.moments.merge(other.moments)
        self._pieces.extend(other._pieces)
        self._labels.extend(other._labels)

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The distance; ``raw`` (rounding not removed) and the terms as details."""
        assert self.moments is not None
        assert reference is not None
        terms = frechet(self.moments, self.target(reference))
        details = {
            "raw": terms.raw,
            "mean_term": terms.mean_term,
            "covariance_term": terms.raw - terms.mean_term,
            "trace_generated": terms.trace_generated,
            "trace_reference": terms.trace_reference,
        }
        if reference.count is not None:  # a file of statistics may not say
            details["reference_count"] = float(reference.count)
        labels = self._labels if self.uncertain else [None]
        if not any(known is None for known in labels):
            details |= _per_class(self._influences(reference, shared), np.concatenate(labels))
        return terms.distance, details

    def standard_error(self, reference: Reference | None, shared: Shared) -> float:
        """By the delta method, from the spread of the images' influences."""
        assert reference is not None
        return self._influences(reference, shared).std(ddof=1) / self.count**0.5

    def _influences(self, reference: Reference, shared: Shared) -> Float[np.ndarray, " n"]:
        key = ("influences", id(self))
        if key not in shared:
            rows = joined(self._pieces, shared)
            shared[key] = influences(rows, self.moments, self.target(reference))
        return shared[key]


def _per_class(values: Float[np.ndarray, " n"], labels: np.ndarray) -> dict[str, float]:
    return {f"class_{c}": values[labels == c].mean() for c in np.unique(labels)}
