"""FID without its bias: FID of growing subsets, continued to infinitely many images.

The intercept of the least-squares line through FID over 1 / n, at 15 subset sizes from 5,000 (from
a tenth of fewer than 50,000 images) to all; the mean over 5 shuffles of the images. Within a
shuffle each subset continues the one before, so all moments cost one pass over the images.

Source: Chong and Forsyth 2020, "Effectively Unbiased FID and Inception Score and Where to Find
Them"; their code takes one unseeded shuffle, and a new one for each subset.

What holds: order matters, by the shuffles only: within ``std``, which is over them. A set scores
below 0 against itself (its subsets differ from it, and it does not from itself), another draw of
its distribution near 0. The standard error is std / sqrt(shuffles): the choice of subsets, not the
draw of the images, for which that of ``fid`` is about right.
"""

from itertools import pairwise

import numpy as np

from arimage.eval.base import Reference, RowMetric
from arimage.eval.extrapolation import at_infinity, subset_sizes
from arimage.eval.frechet import frechet
from arimage.eval.moments import Moments, extend
from arimage.eval.rows import Shared
from arimage.shapes import Float

SEED = 2020


class FrechetInfinity(RowMetric):
    """``fid_infinity``: keeps all generated features; ``smallest`` is the first subset's size."""

    name = "fid_infinity"
    higher_is_better = False
    order_matters = True
    against = "reference"

    def __init__(self, shuffles: int = 5, *, smallest: int | None = None) -> None:
        super().__init__()
        if shuffles < 1:
            raise ValueError(f"got {shuffles} shuffles; expected at least 1")
        self.shuffles = shuffles
        self.smallest = smallest

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The mean intercept, and ``std`` (ddof 1) over the shuffles."""
        rows = self.collected(shared)
        sizes = subset_sizes(len(rows), self.smallest)
        stream = np.random.default_rng(SEED)
        found = [
            at_infinity(sizes, self.scores(rows[stream.permutation(len(rows))], sizes, reference))
            for _ in range(self.shuffles)
        ]
        std = float(np.std(found, ddof=1)) if self.shuffles > 1 else np.nan
        shared["std", id(self)] = std
        details = {"std": std, "shuffles": self.shuffles, "smallest": sizes[0]}
        return float(np.mean(found)), details

    def standard_error(self, reference: Reference | None, shared: Shared) -> float | None:
        """As the file says; None for one shuffle."""
        return shared["std", id(self)] / self.shuffles**0.5 if self.shuffles > 1 else None

    def scores(
        self, rows: Float[np.ndarray, "n d"], sizes: np.ndarray, reference: Reference | None
    ) -> Float[np.ndarray, " p"]:
        """The score of the first ``sizes[0]`` rows, of the first ``sizes[1]``, ..."""
        assert reference is not None
        moments: Moments | None = None
        found = []
        for start, stop in pairwise([0, *sizes]):
            moments = extend(moments, rows[start:stop])
            found.append(frechet(moments, reference.moments).raw)
        return np.array(found)
