"""Spatial FID: the Frechet distance of features that still know where in the image they are.

|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2) as in ``fid``, over what the extractor gives as
``spatial``: for Inception the first 7 channels of an inner layer at its 17 x 17 places.

Source: Nash et al. 2021, "Generating Images with Sparse Representations"; layer and
channels as in openai/guided-diffusion@22e0df8 evaluations/evaluator.py.

What holds: order does not matter. A set scores 0 against itself, and more than 0 against another
draw, by about c / n. The standard error covers what that of ``fid`` covers.
"""

import numpy as np

from arimage.eval.base import FeatureBatch, Reference
from arimage.eval.metrics.fid import FrechetDistance
from arimage.eval.moments import Moments
from arimage.shapes import Float


class SpatialFrechetDistance(FrechetDistance):
    """``sfid``: streams float64 moments of the spatial features."""

    name = "sfid"

    def rows(self, batch: FeatureBatch) -> Float[np.ndarray, "b s"]:
        """The spatial features; ValueError when the extractor gives none."""
        if batch.spatial is None:
            raise ValueError(
                f"{self.name!r} needs spatial features and {batch.extractor!r} gives none; "
                "use features='inception'"
            )
        return batch.spatial

    def target(self, reference: Reference) -> Moments:
        """The reference's spatial moments, which ``check_reference`` has found."""
        assert reference.spatial is not None
        return reference.spatial

    def check_reference(self, reference: Reference | None, extractor: str | None) -> None:
        """ValueError also for a reference that holds no spatial moments."""
        super().check_reference(reference, extractor)
        if reference is not None and reference.spatial is None:
            raise ValueError(
                f"{self.name!r} needs the spatial features of {reference.name!r}, which holds "
                "none; pass its images, or a statistics file with mu_s and sigma_s"
            )
