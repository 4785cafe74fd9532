"""Improved precision and recall: the share of one set inside the manifold of the other.

A set's manifold is the union of balls around its images, each reaching to the image's k-th nearest
neighbour in the set (k = 3, itself not counted), borders included (``<=``). Precision: generated
images inside the real manifold. Recall: real images inside the generated manifold.

Source: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative
Models", eq. 1-2; the paper's features are VGG16's, the guided-diffusion evaluator's Inception's.
That evaluator rounds distances to float16, so its values differ in the third digit; here they are
those of float64.

What holds: order does not matter. A set against itself has precision = recall = 1, also with
duplicated images, whose balls have radius 0. Recall grows with the number of generated images. The
standard error is binomial over the images that are counted (generated for precision, real for
recall) and takes the balls as fixed: a lower bound.
"""

from arimage.eval.metrics.manifold import ManifoldMetric
from arimage.eval.neighbors import Balls, Hits
from arimage.eval.rows import binomial_error


class _Share(ManifoldMetric):
    """The share of the images of the other set that are inside at least one ball."""

    default_k = 3

    def value(self, hits: Hits) -> tuple[float, float]:
        """The share in [0, 1], and its binomial error."""
        inside = (hits.depth > 0).double().mean().item()
        return inside, binomial_error(inside, len(hits.depth))


class Precision(_Share):
    """``precision``: the share of generated images inside the real manifold (fidelity)."""

    name = "precision"

    @property
    def balls(self) -> Balls:
        """Closed, around real images."""
        return Balls("real", self.k, open=False)


class Recall(_Share):
    """``recall``: the share of real images inside the generated manifold (diversity)."""

    name = "recall"

    @property
    def balls(self) -> Balls:
        """Closed, around generated images."""
        return Balls("generated", self.k, open=False)
