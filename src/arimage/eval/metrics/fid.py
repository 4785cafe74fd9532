"""Frechet distance between two sets of features: FID when the features are Inception's.

|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), means m, covariances S with ddof 1.

Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule...", eq. 6. The trace of
the root is the nuclear norm of L1^T L2 for any factors S = L L^T: exact also where S1 S2 is
singular, where a matrix square root is off by 1e-5 or refuses.

What holds: order does not matter. A set scores 0 against itself, and more than 0 against another
draw of its own distribution, by about c / n: compare equal counts only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from arimage.eval.base import FeatureBatch, Metric, Reference
from arimage.eval.moments import Moments, one_thread


@dataclass(frozen=True)
class Frechet:
    """The terms of a Frechet distance: |m1 - m2|^2, both traces, the trace of the root."""

    mean_term: float
    trace_generated: float
    trace_reference: float
    trace_root: float

    @property
    def distance(self) -> float:
        """The distance as computed; rounding can leave it slightly below 0."""
        return self.mean_term + self.trace_generated + self.trace_reference - 2 * self.trace_root


def frechet(generated: Moments, reference: Moments) -> Frechet:
    """The terms of the distance between two sets, from their moments alone.

    Raises:
        ValueError: different numbers of features, fewer than two images on a side.
    """
    if len(generated.mean) != len(reference.mean):
        raise ValueError(
            f"got {len(generated.mean)} features per image and a reference of "
            f"{len(reference.mean)}; use one feature extractor for both"
        )
    product = torch.from_numpy(generated.factor.T @ reference.factor)
    with one_thread():
        trace_root = torch.linalg.svdvals(product).sum().item()
    return Frechet(
        mean_term=float(np.square(generated.mean - reference.mean).sum()),
        trace_generated=float(np.trace(generated.covariance)),
        trace_reference=float(np.trace(reference.covariance)),
        trace_root=trace_root,
    )


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

    def add(self, batch: FeatureBatch) -> None:
        """Merges the moments of the batch."""
        self._include(Moments.of(batch.features))

    def absorb(self, other: Any) -> None:
        """Merges the moments of ``other``."""
        if other.moments is not None:
            self._include(other.moments)

    def _include(self, new: Moments) -> None:
        self.moments = new if self.moments is None else self.moments.merge(new)

    def result(self, reference: Reference | None) -> tuple[float, dict[str, float]]:
        """The distance, 0 where rounding leaves it below; ``raw`` and the terms as details."""
        assert self.moments is not None
        assert reference is not None
        terms = frechet(self.moments, reference.moments)
        details = {
            "raw": terms.distance,
            "mean_term": terms.mean_term,
            "covariance_term": terms.distance - terms.mean_term,
            "trace_generated": terms.trace_generated,
            "trace_reference": terms.trace_reference,
            "reference_count": float(reference.moments.count),
        }
        return max(terms.distance, 0.0), details
