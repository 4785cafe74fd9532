"""Inception score: exp of the mean divergence of p(class | image) from its mean over the split.

IS = mean over splits of exp( mean_x sum_c p(c|x) (log p(c|x) - log p(c)) ), p(c) the split's mean.

Source: Salimans et al. 2016, "Improved Techniques for Training GANs", section 4. Ten splits of
consecutive images, bounds i * n // 10, as torch-fidelity without its shuffle and as the
guided-diffusion evaluator for 50,000 images (it cuts blocks of 5,000). ``std`` has ddof 0.

What holds: order matters. A split of one class scores 1, so a set sorted by class scores far
less than the same set shuffled: generate or read images in mixed order. Between 1 and the number
of classes. There is no reference, so a set has no score against itself.
"""

from itertools import pairwise

import numpy as np

from arimage.eval.base import FeatureBatch, Reference, RowMetric
from arimage.shapes import Float


def divergence_score(probabilities: Float[np.ndarray, "n classes"]) -> float:
    """The score of one split, in float64; a probability of 0 contributes 0, as its limit."""
    p = probabilities.astype(np.float64)
    log_p = np.log(np.where(p > 0, p, 1.0))
    mean = p.mean(axis=0)
    log_mean = np.log(np.where(mean > 0, mean, 1.0))
    return float(np.exp((p * (log_p - log_mean)).sum(axis=1).mean()))


class InceptionScore(RowMetric):
    """``inception_score``: keeps the class probabilities of every image."""

    name = "inception_score"
    higher_is_better = True
    order_matters = True

    def __init__(self, splits: int = 10) -> None:
        super().__init__()
        if splits < 1:
            raise ValueError(f"got {splits} splits; expected at least 1")
        self.splits = splits

    def rows(self, batch: FeatureBatch) -> Float[np.ndarray, "b classes"]:
        """The class probabilities; ValueError when the extractor gives none."""
        if batch.probabilities is None:
            raise ValueError(
                f"{self.name!r} needs class probabilities and {batch.extractor!r} gives none; "
                "use features='digits' or another classifier"
            )
        return batch.probabilities

    def result(self, reference: Reference | None) -> tuple[float, dict[str, float]]:
        """The mean over splits, ``std`` over them."""
        rows = self.collected
        if len(rows) < self.splits:
            raise ValueError(
                f"got {len(rows)} images for {self.splits} splits of the inception score; "
                f"evaluate at least {self.splits} images"
            )
        bounds = [i * len(rows) // self.splits for i in range(self.splits + 1)]
        scores = [divergence_score(rows[a:b]) for a, b in pairwise(bounds)]
        return float(np.mean(scores)), {"std": float(np.std(scores)), "splits": float(self.splits)}
