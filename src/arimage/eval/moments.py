"""Mean and covariance of a stream of features, in float64, mergeable without loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from arimage.shapes import Float

# A covariance read from a file may be asymmetric or have negative eigenvalues by rounding (its
# writer may have used float32); more than this, relative to the largest, is another matrix.
FILE_ROUNDING = 1e-4


@contextmanager
def one_thread() -> Iterator[None]:
    """Decompositions on one thread: at 2048 features that is 2 s always, while two threads that
    wait for a busy core spin, and were measured at 8 to 44 s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean (d,) and scatter (d, d): the sum of outer products of deviations from the mean.

    Up to d images the scatter is not formed: ``deviations`` (count - 1, d) are rows R with
    R^T R = scatter, smaller than it and its factor at once. Exactly one of the two is there.

    Merging follows Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances" (1979), eq. 2.1; it is associative and symmetric up to rounding,
    and unlike sums of raw squares it loses nothing when the mean is large.
    """

    count: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"] | None = None
    deviations: Float[np.ndarray, "r d"] | None = None

    @classmethod
    def of(cls, rows: Float[np.ndarray, "n d"]) -> "Moments":
        """The moments of at least one row."""
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=0)
        return cls._from_deviations(len(rows), mean, _one_row_less(rows - mean))

    @classmethod
    def _from_deviations(cls, count: int, mean: np.ndarray, rows: np.ndarray) -> "Moments":
        if count <= len(mean):
            return cls(count, mean, deviations=rows)
        return cls(count, mean, rows.T @ rows)

    @classmethod
    def from_covariance(cls, mean: np.ndarray, covariance: np.ndarray, count: int) -> "Moments":
        """Published statistics: mean (d,), covariance (d, d) with ddof 1, over ``count`` images.

        Raises:
            ValueError: shapes that do not fit, numbers that are not finite, an asymmetric
                matrix, fewer than two images.
        """
        mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"got a mean of shape {mean.shape} and a covariance of shape {covariance.shape}; "
                "expected (d,) and (d, d)"
            )
        if count < 2:
            raise ValueError(f"got count {count}; a covariance needs at least 2 images")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("the mean or covariance holds NaN or infinity; compute it again")
        if np.abs(covariance - covariance.T).max() > FILE_ROUNDING * np.abs(covariance).max():
            raise ValueError("the covariance is not symmetric; give a matrix with ddof 1")
        return cls(count, mean, (covariance + covariance.T) * ((count - 1) / 2))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both streams together."""
        if len(self.mean) != len(other.mean):
            raise ValueError(
                f"cannot merge moments of {len(self.mean)} and {len(other.mean)} features; "
                "use one feature extractor"
            )
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = step * (self.count * other.count / count) ** 0.5
        known = (part.deviations for part in (self, other))
        rows = np.concatenate([part for part in known if part is not None] + [between[None]])
        dense = [part.scatter for part in (self, other) if part.scatter is not None]
        if not dense:
            return self._from_deviations(count, mean, rows)
        scatter = rows.T @ rows
        for part in dense:
            scatter += part
        return Moments(count, mean, scatter)

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Unbiased (ddof 1, as every published FID); ValueError below two images."""
        self._check_count()
        if self.deviations is not None:
            return self.deviations.T @ self.deviations / (self.count - 1)
        return self.scatter / (self.count - 1)

    @property
    def trace(self) -> float:
        """The trace of the covariance."""
        self._check_count()
        if self.deviations is not None:
            return float(np.square(self.deviations).sum() / (self.count - 1))
        return float(np.trace(self.scatter) / (self.count - 1))

    @cached_property
    def factor(self) -> Float[np.ndarray, "d r"]:
        """L with L L^T = covariance, r at least its rank and at most d."""
        self._check_count()
        if self.deviations is not None:
            return self.deviations.T / (self.count - 1) ** 0.5
        with one_thread():
            return _factor(self.covariance)

    def _check_count(self) -> None:
        if self.count < 2:
            raise ValueError(
                f"got {self.count} image; a covariance needs at least 2, evaluate more images"
            )


def _one_row_less(centred: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "m d"]:
    """n - 1 rows with the same scatter as n rows that sum to zero.

    A Householder reflection that turns (1, ..., 1) / sqrt(n) into the first axis leaves their
    scatter and makes the first row their sum over sqrt(n), which is zero.
    """
    if len(centred) == 1:
        return centred[1:]
    return centred[1:] + centred[0] / (len(centred) ** 0.5 - 1)


def _factor(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d r"]:
    """Cholesky, pivoted where the matrix is singular, eigenvectors where it is not quite one.

    What is left below rounding is dropped, not clipped: square roots of it would be far above
    rounding (1e-8 for 1e-16) and would show in a Frechet distance.
    """
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(covariance))
    if not failed:  # it fails on constant or dependent features
        return factor.numpy()
    from scipy.linalg.lapack import dpstrf  # here, for it costs every start a tenth of a second

    rounding = len(covariance) * np.finfo(np.float64).eps * np.diagonal(covariance).max()
    packed, pivots, rank, _ = dpstrf(covariance, tol=max(rounding, 0.0), lower=1)
    factor = np.zeros((len(covariance), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    if np.abs(covariance - factor @ factor.T).max() <= 10 * rounding:
        return factor
    values, vectors = (part.numpy() for part in torch.linalg.eigh(torch.from_numpy(covariance)))
    if values[0] < -FILE_ROUNDING * abs(values[-1]):
        raise ValueError(
            f"the covariance has a negative eigenvalue ({values[0]:.3g}); it is not one"
        )
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def extend(moments: Moments | None, rows: np.ndarray | None) -> Moments | None:
    """The moments with more rows; None as long as there are none."""
    if rows is None:
        return moments
    new = Moments.of(rows)
    return new if moments is None else moments.merge(new)
