"""Memorization-informed FID: FID, divided by how far generated images are from real ones if near.

FID / (m + 1e-14). m: the mean over generated images of min over real images of 1 - |cos(x, y)|,
rows of zeros left out; where m is 0.1 or more nothing looks memorized, and it counts as 1.

Source: Bai et al. 2021, "On Training Sample Memorization: Lessons from Benchmarking Generative
Modeling with a Large-scale Competition"; threshold and constant as in the competition's
code (Kaggle, Generative Dog Images, 2019). torchmetrics 1.9.0 takes the mean over real images of
the nearest generated one: another number (exchange the arguments of ``memorization_distance``).

What holds: order does not matter. A set scores 0 against itself (its FID is 0, and so is m); copies
of some real images score far above their FID. No standard error is known.
"""

from typing import Any

import numpy as np

from arimage.eval.base import FeatureBatch, Reference, RowMetric
from arimage.eval.frechet import frechet
from arimage.eval.moments import Moments, extend
from arimage.eval.neighbors import nearest_direction, tensor
from arimage.eval.rows import Shared
from arimage.shapes import Float

THRESHOLD = 0.1
TINY = 1e-14


def memorization_distance(
    queries: Float[np.ndarray, "n d"], rows: Float[np.ndarray, "m d"]
) -> float:
    """The mean over queries of 1 - |cos| to the row nearest in direction; in [0, 1].

    Raises:
        ValueError: a set whose rows are all zeros.
    """
    kept = [part[part.any(axis=1)] for part in (queries, rows)]
    if not all(len(part) for part in kept):
        raise ValueError(
            "all features of a set are zero, so there is no cosine; check the extractor"
        )
    return nearest_direction(*map(tensor, kept)).mean().item()


class MemorizationFrechetDistance(RowMetric):
    """``mifid``: streams moments and keeps all generated features."""

    name = "mifid"
    higher_is_better = False
    order_matters = False
    against = "reference"
    needs = "images"

    def __init__(self) -> None:
        super().__init__()
        self.moments: Moments | None = None

    def add(self, batch: FeatureBatch) -> None:
        """Keeps the features and merges their moments."""
        super().add(batch)
        self.moments = extend(self.moments, batch.features)

    def absorb(self, other: Any) -> None:
        """Takes over the rows and merges the moments of ``other``."""
        super().absorb(other)
        self.moments = other.moments if self.moments is None else self.moments.merge(other.moments)

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The quotient, FID and m before the threshold."""
        assert self.moments is not None
        assert reference is not None
        distance = frechet(self.moments, reference.moments).distance
        memorized = memorization_distance(self.collected(shared), reference.features)
        details = {
            "fid": distance,
            "memorization_distance": memorized,
            "reference_count": float(len(reference.features)),
        }
        return distance / ((memorized if memorized < THRESHOLD else 1.0) + TINY), details
