"""The Frechet distance between two normal distributions, and how single images move it.

|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2): Dowson and Landau 1982, "The Frechet distance
between multivariate normal distributions". The trace of the root is the nuclear norm of
L1^T L2 for any factors S = L L^T. With factors of fewer images than features it never meets a
d x d matrix, and it is exact also where S1 S2 is singular, where a matrix square root is off by
1e-5 or refuses.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from arimage.eval.moments import Moments, one_thread
from arimage.shapes import Float

# Relative to both traces: a set against itself leaves 1e-15 of them, on either side of 0.
ROUNDING = 1e-13
CHUNK = 4096  # images at once, where each needs a product with a (d, d) matrix


@dataclass(frozen=True)
class Frechet:
    """The terms of a Frechet distance: |m1 - m2|^2, both traces, the trace of the root."""

    mean_term: float
    trace_generated: float
    trace_reference: float
    trace_root: float

    @property
    def raw(self) -> float:
        """The distance as computed; rounding can leave it slightly below 0."""
        return self.mean_term + self.trace_generated + self.trace_reference - 2 * self.trace_root

    @property
    def distance(self) -> float:
        """The distance, 0 where it is below rounding."""
        rounding = ROUNDING * (self.trace_generated + self.trace_reference)
        return self.raw if self.raw > rounding else 0.0


def frechet(
    generated: Moments, reference: Moments, *, method: Literal["svd", "sqrtm"] = "svd"
) -> Frechet:
    """The terms of the distance between two sets, from their moments alone.

    Method "sqrtm" is how most published code has it: slow, and off where "svd" is not.

    Raises:
        ValueError: different numbers of features, fewer than two images on a side.
    """
    if len(generated.mean) != len(reference.mean):
        raise ValueError(
            f"got {len(generated.mean)} features per image and a reference of "
            f"{len(reference.mean)}; use one feature extractor for both"
        )
    root = {"svd": _trace_by_factors, "sqrtm": _trace_by_square_root}[method]
    return Frechet(
        mean_term=float(np.square(generated.mean - reference.mean).sum()),
        trace_generated=generated.trace,
        trace_reference=reference.trace,
        trace_root=root(generated, reference),
    )


def _trace_by_factors(generated: Moments, reference: Moments) -> float:
    from scipy.linalg import svdvals  # LAPACK of OpenBLAS: a sixth faster than torch's
    from scipy.linalg.blas import dtrmm

    left, right = generated.factor, reference.factor
    if not left.size or not right.size:
        return 0.0
    with one_thread():
        square = left.shape[0] == left.shape[1]
        if square and not np.triu(left, 1).any():  # Cholesky's: half the work
            product = dtrmm(1.0, left, right, lower=1, trans_a=1)
        else:
            product = (torch.from_numpy(left.T) @ torch.from_numpy(right)).numpy()
        return float(svdvals(product).sum())


def _trace_by_square_root(generated: Moments, reference: Moments) -> float:
    from scipy.linalg import sqrtm

    with one_thread():
        return float(np.trace(sqrtm(generated.covariance @ reference.covariance)).real)


def influences(
    rows: Float[np.ndarray, "n d"], generated: Moments, reference: Moments
) -> Float[np.ndarray, " n"]:
    """How far each generated image moves the distance: n * (distance with it - without), to first
    order; the mean over the images is 0, and std / sqrt(n) the distance's standard error.

    With A the optimal transport map from the generated normal distribution to the reference's,
    image x has 2 (m_g - m_r).(x - m_g) + (x - m_g)^T (I - A) (x - m_g) less its mean (the
    derivative of the distance, as in Rippl, Munk and Sturm 2016, "Limit laws of the empirical
    Wasserstein distance: Gaussian distributions"). With factors, L_g^T L_r = U s V^T, the map is
    L_r V s^-1 V^T L_r^T.
    """
    with one_thread():
        product = torch.from_numpy(generated.factor.T) @ torch.from_numpy(reference.factor)
        _, values, turned = torch.linalg.svd(product, full_matrices=False)
        kept = values > values.max() * max(product.shape) * torch.finfo(torch.float64).eps
        scaled = turned[kept].T / values[kept].sqrt()
        root = (torch.from_numpy(reference.factor) @ scaled).numpy()  # A = root root^T
    step = generated.mean - reference.mean
    found = []
    for start in range(0, len(rows), CHUNK):
        away = rows[start : start + CHUNK].astype(np.float64) - generated.mean
        own = np.square(away).sum(axis=1) - np.square(away @ root).sum(axis=1)
        found.append(2 * away @ step + own)
    moved = np.concatenate(found)
    return moved - moved.mean()
