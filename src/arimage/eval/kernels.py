"""Kernel means between sets of features, block by block: memory is one block, not n x n.

MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y): Gretton et al. 2012, "A Kernel Two-Sample
Test", eq. 3 (unbiased, without k(x, x)) and 5 (biased, with it). All in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from arimage.shapes import Float

BLOCK = 2048  # rows and columns; one block of float64 values is 34 MB
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (n, d), (m, d) -> (n, m)


@dataclass(frozen=True)
class Discrepancy:
    """MMD^2 of two sets, and the standard error that the draw of the first set gives it."""

    value: float
    standard_error: float


def row_sums(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], kernel: Kernel
) -> np.ndarray:
    """sum_j k(x_i, y_j) for each i, shape (n,). Of a set with itself half the blocks are made."""
    sums = np.zeros(len(x))
    for i in range(0, len(x), BLOCK):
        left = x[i : i + BLOCK].astype(np.float64)
        for j in range(i if x is y else 0, len(y), BLOCK):
            block = kernel(left, y[j : j + BLOCK].astype(np.float64))
            sums[i : i + BLOCK] += block.sum(axis=1)
            if x is y and j > i:
                sums[j : j + BLOCK] += block.sum(axis=0)
    return sums


def discrepancy(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    kernel: Kernel,
    diagonal: Callable[[np.ndarray], np.ndarray],
    *,
    unbiased: bool,
) -> Discrepancy:
    """MMD^2; ``diagonal`` gives k(x_i, x_i) of rows, which the unbiased estimate leaves out.

    The error is the first-order one (a jackknife over x, y fixed): 2 std(h) / sqrt(n) with
    h(x) = mean_x' k(x, x') - mean_y k(x, y). Where both sets have one distribution, the
    second-order term rules, and it is up to sqrt(2) too large.
    """
    own = [row_sums(rows, rows, kernel) for rows in (x, y)]
    drop = int(unbiased)
    if unbiased:
        own = [sums - diagonal(rows) for sums, rows in zip(own, (x, y), strict=True)]
    means_x, means_y = own[0] / (len(x) - drop), own[1] / (len(y) - drop)
    cross = row_sums(x, y, kernel) / len(y)
    value = means_x.mean() + means_y.mean() - 2 * cross.mean()
    spread = (means_x - cross).std(ddof=1) if len(x) > 1 else np.nan
    return Discrepancy(float(value), float(2 * spread / len(x) ** 0.5))
