"""CLIP maximum mean discrepancy: MMD^2 under a Gaussian kernel over CLIP embeddings, times 1000.

1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), k(x, y) = exp(-|x - y|^2 / 200), x and y of
length 1 (they are divided by it here), diagonals included: the biased estimate.

Source: Jayasumana et al. 2024, "Rethinking FID: Towards a Better Evaluation Metric for Image
Generation"; sigma = 10, the factor and the biased estimate as in
sayakpaul/cmmd-pytorch@f7673a9 distance.py.

What holds: order does not matter. A set scores 0 against itself; another draw of its distribution
scores above 0, by about c / n. Sigma is large for vectors of length 1, so it is close to 10 times
the squared distance of the two mean embeddings. The standard error covers the draw of the
generated images (``kernels.discrepancy``).
"""

import numpy as np

from arimage.eval.base import Reference, RowMetric
from arimage.eval.kernels import Discrepancy, discrepancy
from arimage.eval.rows import Shared, check_same_width
from arimage.shapes import Float

SIGMA = 10.0
SCALE = 1000.0


def gaussian(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """exp(-|x - y|^2 / (2 sigma^2))."""
    squared = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1) - 2 * x @ y.T
    return np.exp(squared / (-2 * SIGMA**2))


def mean_discrepancy(generated: np.ndarray, real: np.ndarray) -> Discrepancy:
    """1000 times the biased estimate, of features (n, d) and (m, d) as they are."""
    found = discrepancy(generated, real, gaussian, lambda x: np.ones(len(x)), unbiased=False)
    return Discrepancy(SCALE * found.value, SCALE * found.standard_error)


class CLIPDiscrepancy(RowMetric):
    """``cmmd``: brings its own extractor and keeps all embeddings."""

    name = "cmmd"
    higher_is_better = False
    order_matters = False
    against = "reference"
    needs = "images"
    features = "clip"

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The estimate over all images."""
        assert reference is not None
        real, generated = reference.features, self.collected(shared)
        check_same_width(generated, real)
        found = mean_discrepancy(_unit(generated), _unit(real))
        shared["error", id(self)] = found.standard_error
        return found.value, {"reference_count": float(len(real))}

    def standard_error(self, reference: Reference | None, shared: Shared) -> float:
        """As the file says."""
        return shared["error", id(self)]


def _unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError("an embedding is all zeros and has no direction; check the extractor")
    return rows / lengths
