"""What precision, recall, density and coverage share: balls around the images of one set.

A ball reaches from an image to its k-th nearest neighbour in its own set (itself not counted).
All metrics of one evaluation that compare the same two sets are answered by one pass over the
distances (``neighbors.ball_hits``): the first that is asked looks what the others want.
"""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch

from arimage.eval.base import Reference, RowMetric
from arimage.eval.neighbors import Balls, Hits, ball_hits, tensor
from arimage.eval.rows import Shared, check_same_width
from arimage.pretrained import chosen_device


class ManifoldMetric(RowMetric):
    """Keeps all generated features and needs the reference's images; ``device``, by default torch's
    default one, does the distances."""

    higher_is_better = True
    order_matters = False
    against = "reference"
    needs = "images"
    default_k: ClassVar[int]

    def __init__(self, k: int | None = None, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.k = self.default_k if k is None else k
        if self.k < 1:
            raise ValueError(f"got k {k}; expected at least 1 neighbour")
        self.device = str(chosen_device(device))

    @property
    @abstractmethod
    def balls(self) -> Balls:
        """The balls it counts in."""

    @abstractmethod
    def value(self, hits: Hits) -> tuple[float, float]:
        """The value and its standard error."""

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The value, with k and the number of real images."""
        assert reference is not None
        real, generated = reference.features, self.collected(shared)
        check_same_width(generated, real)
        key = ("balls", id(real), id(generated), self.device)
        found = shared.setdefault(key, {})
        if self.balls not in found:
            on_device = (tensor(rows, self.device) for rows in (real, generated))
            found |= ball_hits(*on_device, self._wanted(real, generated, shared))
        details = {"k": float(self.k), "reference_count": float(len(real))}
        return self.value(found[self.balls])[0], details

    def standard_error(self, reference: Reference | None, shared: Shared) -> float:
        """A lower bound: the balls are taken as fixed."""
        assert reference is not None
        key = ("balls", id(reference.features), id(self.collected(shared)), self.device)
        return self.value(shared[key][self.balls])[1]

    def _wanted(self, real: np.ndarray, generated: np.ndarray, shared: Shared) -> list[Balls]:
        """Its own balls, and those of other metrics that the two sets are large enough for."""
        count = {"real": len(real), "generated": len(generated)}
        others = (m for m in shared.get("metrics", ()) if isinstance(m, ManifoldMetric))
        same = (m for m in others if (m.extractor, m.device) == (self.extractor, self.device))
        return [self.balls, *(m.balls for m in same if m.k < count[m.balls.around])]
