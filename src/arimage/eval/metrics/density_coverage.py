"""Density and coverage: how deep generated images lie in the real manifold, how much they reach.

Around each real image a ball reaches to its k-th nearest real neighbour (k = 5, itself not
counted), its border outside (``<``). Density: the mean number of balls a generated image is in,
over k. Coverage: the share of balls with a generated image inside.

Source: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models";
``<`` and k as in clovaai/generative-evaluation-prdc@e320c1d prdc/prdc.py.

What holds: order does not matter. A set against itself has coverage 1 and density 1
(each ball holds its image and k - 1 neighbours), except where k + 1 images are equal: their balls
are empty. Density can exceed 1. Standard errors take the balls as fixed, so they are lower bounds:
density's is of the mean over generated images, coverage's binomial over balls.
"""

from arimage.eval.metrics.manifold import ManifoldMetric
from arimage.eval.neighbors import Balls, Hits
from arimage.eval.rows import binomial_error


class _RealBalls(ManifoldMetric):
    default_k = 5

    @property
    def balls(self) -> Balls:
        """Open, around real images."""
        return Balls("real", self.k, open=True)


class Density(_RealBalls):
    """``density``: fidelity that one outlier among the real images does not inflate."""

    name = "density"

    def value(self, hits: Hits) -> tuple[float, float]:
        """The mean of depth / k over generated images, and its standard error."""
        depth = hits.depth.double() / self.k
        return depth.mean().item(), depth.std(correction=0).item() / len(depth) ** 0.5


class Coverage(_RealBalls):
    """``coverage``: diversity that generated outliers do not inflate."""

    name = "coverage"

    def value(self, hits: Hits) -> tuple[float, float]:
        """The share of balls that were hit, and its binomial error."""
        share = hits.hit.double().mean().item()
        return share, binomial_error(share, len(hits.hit))
