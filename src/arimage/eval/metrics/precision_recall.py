"""Improved precision and recall: the share of one set inside the manifold of the other.

A set's manifold is the union of balls around its images, each reaching to the image's k-th nearest
neighbour in the set (k = 3, itself not counted), borders included (``<=``). Precision: generated
images inside the real manifold. Recall: real images inside the generated manifold.

Source: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative
Models", eq. 1-2; the paper's features are VGG16's, the guided-diffusion evaluator's Inception's.

What holds: order does not matter. A set against itself has precision = recall = 1, also with
duplicated images, whose balls have radius 0. Recall grows with the number of generated images.
"""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from arimage.eval.base import Reference, RowMetric
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

    def result(self, reference: Reference | None) -> tuple[float, dict[str, float]]:
        """The share in [0, 1], with k and the number of real images."""
        assert reference is not None
        real, generated = reference.features, self.collected
        if real.shape[1] != generated.shape[1]:
            raise ValueError(
                f"got {generated.shape[1]} features per image and a reference of "
                f"{real.shape[1]}; use one feature extractor for both"
            )
        details = {"k": float(self.k), "reference_count": float(len(real))}
        return self.share(generated, real), details

    @abstractmethod
    def share(self, generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
        """The share of one set inside the manifold of the other."""


class Precision(_ManifoldMetric):
    """``precision``: the share of generated images inside the real manifold (fidelity)."""

    name = "precision"

    def share(self, generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
        """Generated images inside the real manifold."""
        return coverage(generated, real, self.k)


class Recall(_ManifoldMetric):
    """``recall``: the share of real images inside the generated manifold (diversity)."""

    name = "recall"

    def share(self, generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
        """Real images inside the generated manifold."""
        return coverage(real, generated, self.k)
