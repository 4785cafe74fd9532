"""Inception score: exp of the mean divergence of p(class | image) from its mean over the split.

IS = mean over splits of exp( mean_x sum_c p(c|x) (log p(c|x) - log p(c)) ), p(c) the split's mean.

Source: Salimans et al. 2016, "Improved Techniques for Training GANs", section 4. Ten splits of
consecutive images, bounds i * n // 10. Published numbers: ``InceptionScore(split_size=5000)`` cuts
blocks as openai/guided-diffusion@22e0df8 evaluations/evaluator.py does (for 50,000 images that is
the default; the last block may be short), ``InceptionScore(seed=2020)`` shuffles first as
torch-fidelity 0.4.0 does. ``std`` has ddof 0; ``shuffled`` is the score after that shuffle.

What holds: order matters. A split of one class scores 1, so a set sorted by class scores far
less than the same set shuffled: generate or read images in mixed order. Between 1 and the number
of classes. There is no reference, so a set has no score against itself. The standard error is the
spread of the splits over sqrt(splits): the draw of the images, around the value of this split size
(a split of n images scores less than one of more).
"""

from itertools import pairwise

import numpy as np

from arimage.eval.base import FeatureBatch, Reference, RowMetric
from arimage.eval.rows import Shared
from arimage.shapes import Float

SHUFFLE_SEED = 2020  # torch-fidelity 0.4.0


def divergence_score(probabilities: Float[np.ndarray, "n classes"]) -> float:
    """The score of one split, in float64; a probability of 0 contributes 0, as its limit."""
    p = probabilities.astype(np.float64)
    log_p = np.log(np.where(p > 0, p, 1.0))
    mean = p.mean(axis=0)
    log_mean = np.log(np.where(mean > 0, mean, 1.0))
    return float(np.exp((p * (log_p - log_mean)).sum(axis=1).mean()))


def class_probabilities(name: str, batch: FeatureBatch) -> Float[np.ndarray, "b classes"]:
    """Those of a batch, for metric ``name``; ValueError when the extractor gives none."""
    if batch.probabilities is None:
        raise ValueError(
            f"{name!r} needs class probabilities and {batch.extractor!r} gives none; "
            "use features='inception', 'digits' or another classifier"
        )
    return batch.probabilities


class InceptionScore(RowMetric):
    """``inception_score``: keeps the class probabilities of every image."""

    name = "inception_score"
    higher_is_better = True
    order_matters = True

    def __init__(
        self, splits: int = 10, *, split_size: int | None = None, seed: int | None = None
    ) -> None:
        super().__init__()
        if splits < 1:
            raise ValueError(f"got {splits} splits; expected at least 1")
        if split_size is not None and split_size < 1:
            raise ValueError(f"got splits of {split_size} images; expected at least 1")
        self.splits = splits
        self.split_size = split_size
        self.seed = seed

    def rows(self, batch: FeatureBatch) -> Float[np.ndarray, "b classes"]:
        """The class probabilities; ValueError when the extractor gives none."""
        return class_probabilities(self.name, batch)

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The mean over splits, ``std`` over them."""
        scores = self._split_scores(shared, self.seed)
        details = {"std": scores.std(), "splits": float(len(scores))}
        if self.seed is None:  # far above the value where images are sorted by class
            details["shuffled"] = self._split_scores(shared, SHUFFLE_SEED).mean()
        return scores.mean(), details

    def standard_error(self, reference: Reference | None, shared: Shared) -> float | None:
        """Of the mean over splits; None where there is only one."""
        scores = self._split_scores(shared, self.seed)
        return scores.std(ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else None

    def _split_scores(self, shared: Shared, seed: int | None) -> Float[np.ndarray, " splits"]:
        rows = self.collected(shared)
        if seed is not None:
            rows = rows[np.random.RandomState(seed).permutation(len(rows))]
        bounds = self._bounds(len(rows))
        return np.array([divergence_score(rows[a:b]) for a, b in pairwise(bounds)])

    def _bounds(self, count: int) -> list[int]:
        if self.split_size is not None:
            return [*range(0, count, self.split_size), count]
        if count < self.splits:
            raise ValueError(
                f"got {count} images for {self.splits} splits of the inception score; "
                f"evaluate at least {self.splits} images"
            )
        return [i * count // self.splits for i in range(self.splits + 1)]
