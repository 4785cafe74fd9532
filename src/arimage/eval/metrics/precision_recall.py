"""Improved precision and recall: the share of one set inside the manifold of the other.

A set's manifold is the union of balls around its images, each reaching to the image's k-th nearest
neighbour in the set (k = 3, itself not counted), borders included (``<=``). Precision: generated
images inside the real manifold. Recall: real images inside the generated manifold.

Source: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative
Models", eq. 1-2; the paper's features are VGG16's, the guided-diffusion evaluator's Inception's.

What holds: order does not matter. A set against itself has precision = recall = 1, also with
duplicated images, whose balls have radius 0. Recall grows with the number of generated images.
"""

import numpy as np
import torch
from torch import Tensor

from arimage.eval.base import FeatureBatch, Reference, RowMetric
from arimage.eval.neighbors import inside_any, kth_nearest
from arimage.shapes import Float


def coverage(
    queries: Float[np.ndarray, "n d"], manifold: Float[np.ndarray, "m d"], k: int = 3
) -> float:
    """The share of ``queries`` inside the k-nearest-neighbour manifold of ``manifold``.

    Raises:
        ValueError: not more than k images span the manifold.
    """
    centre = manifold.astype(np.float64).mean(axis=0)  # shifting both sharpens the distances
    points, centres = _tensor(queries, centre), _tensor(manifold, centre)
    return inside_any(points, centres, kth_nearest(centres, k)).double().mean().item()


def _tensor(rows: np.ndarray, centre: np.ndarray) -> Tensor:
    return torch.from_numpy(rows.astype(np.float64) - centre)


class _ManifoldMetric(RowMetric):
    """What precision and recall share: all generated features, and the reference's images."""

    higher_is_better = True
    order_matters = False
    against = "reference"
    needs = "images"

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"got k {k}; expected at least 1 neighbour")
        self.k = k

    def _real(self, reference: Reference | None) -> FeatureBatch:
        assert reference is not None and reference.images is not None
        if reference.images.features.shape[1] != self._pieces[0].shape[1]:
            raise ValueError(
                f"got {self._pieces[0].shape[1]} features per image and a reference of "
                f"{reference.images.features.shape[1]}; use one feature extractor for both"
            )
        return reference.images

    def _details(self, real: FeatureBatch) -> dict[str, float]:
        return {"k": self.k, "reference_count": len(real)}


class Precision(_ManifoldMetric):
    """``precision``: the share of generated images inside the real manifold (fidelity)."""

    name = "precision"

    def result(self, reference: Reference | None) -> tuple[float, dict[str, float]]:
        """The share in [0, 1], with k and the number of real images."""
        real = self._real(reference)
        return coverage(self.collected, real.features, self.k), self._details(real)


class Recall(_ManifoldMetric):
    """``recall``: the share of real images inside the generated manifold (diversity)."""

    name = "recall"

    def result(self, reference: Reference | None) -> tuple[float, dict[str, float]]:
        """The share in [0, 1], with k and the number of real images."""
        real = self._real(reference)
        return coverage(real.features, self.collected, self.k), self._details(real)
