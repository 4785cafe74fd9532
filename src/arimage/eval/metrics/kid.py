"""Kernel inception distance: MMD^2 under k(x, y) = (x.y / d + 1)^3, d features.

mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j), over all images: the
unbiased estimate that published values average over 100 subsets of 1,000. It has their expectation
and none of the noise of drawing subsets. ``KID(subsets=100)`` is the published form: each subset
draws min(1,000, images) of the reference, then of the generated images, from RandomState(2020).

Source: Binkowski et al. 2018, "Demystifying MMD GANs"; subsets and seed as in
torch-fidelity 0.4.0 (input 1 the reference).

What holds: order does not matter, unless subsets are drawn (then it does, within ``subset_std``).
The estimate is unbiased: two draws of one distribution score 0 on average and can be below 0; a set
scores -2 (mean k(x, x) - mean k(x, x')) / n against itself. The standard error covers
the draw of the generated images (``kernels.discrepancy``), with subsets that of the subsets only
(std / sqrt(subsets)).
"""

import numpy as np

from arimage.eval.base import Reference, RowMetric
from arimage.eval.kernels import Discrepancy, discrepancy
from arimage.eval.rows import Shared, check_same_width
from arimage.shapes import Float

SEED = 2020  # torch-fidelity's default rng_seed


def cubic(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """(x.y / d + 1)^3."""
    inner = x @ y.T
    inner /= x.shape[1]
    inner += 1
    return inner * inner * inner


def cubic_diagonal(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """The kernel of each row with itself."""
    return (np.square(x.astype(np.float64)).sum(axis=1) / x.shape[1] + 1) ** 3


def kernel_distance(generated: np.ndarray, real: np.ndarray) -> Discrepancy:
    """The unbiased estimate over all images of both sets, features (n, d) and (m, d)."""
    return discrepancy(generated, real, cubic, cubic_diagonal, unbiased=True)


class KernelDistance(RowMetric):
    """``kid``: keeps all generated features."""

    name = "kid"
    higher_is_better = False
    order_matters = False
    against = "reference"
    needs = "images"

    def __init__(self, subsets: int | None = None, subset_size: int = 1000) -> None:
        super().__init__()
        if subsets is not None and (subsets < 1 or subset_size < 2):
            raise ValueError(
                f"got {subsets} subsets of {subset_size}; expected at least 1 of at least 2 images"
            )
        self.subsets = subsets
        self.subset_size = subset_size

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The estimate; with subsets their mean, and ``subset_std`` (ddof 0) over them."""
        assert reference is not None
        real, generated = reference.features, self.collected(shared)
        check_same_width(generated, real)
        if min(len(generated), len(real)) < 2:
            raise ValueError(
                f"got {len(generated)} images and a reference of {len(real)}; {self.name!r} needs "
                "at least 2 of each"
            )
        details = {"reference_count": float(len(real))}
        if self.subsets is None:
            found = kernel_distance(generated, real)
        else:
            values = self._subset_values(generated, real)
            details |= {"subsets": len(values), "subset_std": values.std()}
            found = Discrepancy(values.mean(), values.std() / len(values) ** 0.5)
        shared["error", id(self)] = found.standard_error
        return found.value, details

    def standard_error(self, reference: Reference | None, shared: Shared) -> float:
        """As the file says."""
        return shared["error", id(self)]

    def _subset_values(self, generated: np.ndarray, real: np.ndarray) -> Float[np.ndarray, " s"]:
        stream = np.random.RandomState(SEED)
        size = min(self.subset_size, len(generated), len(real))
        values = []
        for _ in range(self.subsets):
            first = real[stream.choice(len(real), size, replace=False)]
            second = generated[stream.choice(len(generated), size, replace=False)]
            values.append(kernel_distance(second, first).value)
        return np.array(values)
