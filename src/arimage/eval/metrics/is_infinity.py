"""Inception score without its bias: that of growing subsets, continued to infinitely many images.

The intercept of the least-squares line through the score (of one split) over 1 / n, at 15 subset
sizes from 5,000 (from a tenth of fewer than 50,000 images) to all; the mean over 5 shuffles of the
images, each subset of a shuffle containing the one before.

Source: Chong and Forsyth 2020, "Effectively Unbiased FID and Inception Score and Where to Find
Them"; their code takes one unseeded shuffle, and a new one for each subset.

What holds: order matters, by the shuffles only: within ``std``, which is over them. There is no
reference, so a set has no score against itself. The standard error is std / sqrt(shuffles): the
choice of subsets, not the draw of the images.
"""

import numpy as np

from arimage.eval.base import FeatureBatch, Reference
from arimage.eval.metrics.fid_infinity import FrechetInfinity
from arimage.eval.metrics.inception_score import class_probabilities, divergence_score
from arimage.shapes import Float


class InceptionInfinity(FrechetInfinity):
    """``is_infinity``: keeps the class probabilities of every image."""

    name = "is_infinity"
    higher_is_better = True
    against = None

    def rows(self, batch: FeatureBatch) -> Float[np.ndarray, "b classes"]:
        """The class probabilities; ValueError when the extractor gives none."""
        return class_probabilities(self.name, batch)

    def scores(
        self, rows: Float[np.ndarray, "n classes"], sizes: np.ndarray, reference: Reference | None
    ) -> Float[np.ndarray, " p"]:
        """The score of one split of the first ``sizes[0]`` rows, of the first ``sizes[1]``, ..."""
        return np.array([divergence_score(rows[:size]) for size in sizes])
