"""Scores of ever more images, continued to infinitely many.

A score that is biased by c / n is fitted as a + b / n over growing subsets; a is its value without
bias. Source: Chong and Forsyth 2020, "Effectively Unbiased FID and Inception Score and Where to
Find Them".
"""

import numpy as np

from arimage.shapes import Float, Int

POINTS = 15  # mchong6/FID_IS_infinity@2cbf52e score_infinity.py
SMALLEST = 5000  # the same, for 50,000 images; a tenth of fewer, as in dgm-eval@74c79f7


def subset_sizes(count: int, smallest: int | None = None) -> Int[np.ndarray, " points"]:
    """Sizes of the subsets of ``count`` images, evenly spaced.

    Raises:
        ValueError: too few images for subsets of different sizes.
    """
    if smallest is None:
        smallest = min(SMALLEST, max(count // 10, 2))
    if not 2 <= smallest < count:
        raise ValueError(
            f"got {count} images for subsets from {smallest} images on; evaluate more images"
        )
    return np.linspace(smallest, count, POINTS).astype(np.int64)


def at_infinity(sizes: Int[np.ndarray, " p"], scores: Float[np.ndarray, " p"]) -> float:
    """The intercept of the least-squares line through the scores over 1 / size."""
    inverse = 1 / sizes
    away = inverse - inverse.mean()
    slope = away @ scores / (away @ away)
    return float(np.mean(scores) - slope * inverse.mean())
