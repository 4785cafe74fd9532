"""Copy rate: the share of images that lie as close to a training image as near-duplicates do.

Distances are Euclidean between 8 x 8 grey thumbnails (``features/pixels.py``). The threshold is
the 1st percentile of the training images' own nearest-neighbour distances, each image left out of
its own search; an image nearer than that to its nearest training image counts as a copy.

Source: our own definition, in the spirit of the nearest-neighbour tests of Meehan et al. 2020,
"A Non-Parametric Test to Detect Data-Copying in Generative Models". It sees copies of whole images
and nothing finer.

What holds: order does not matter. The training set scores 1 against itself (every distance is 0),
new images of its distribution about 0.01: that is the level to compare with. Where so many training
images are duplicates that the threshold is 0, nothing could count as a copy, and it says so. The
standard error is binomial over the generated images.
"""

import numpy as np

from arimage.eval.base import Reference, RowMetric
from arimage.eval.neighbors import kth_nearest, nearest, tensor
from arimage.eval.rows import Shared, binomial_error, check_same_width

PERCENTILE = 1.0


class Copies(RowMetric):
    """``copies``: keeps one thumbnail per image and searches the training set at the end."""

    name = "copies"
    higher_is_better = False
    order_matters = False
    against = "training"
    needs = "images"
    features = "pixels"

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The share of copies, the threshold and the median distances (generated, training)."""
        assert reference is not None
        if len(reference.features) < 2:
            raise ValueError(
                f"got a training set of {len(reference.features)} image; the copy threshold needs "
                "at least 2"
            )
        generated = self.collected(shared)
        check_same_width(generated, reference.features)
        training = tensor(reference.features)
        own = kth_nearest(training, 1).sqrt().numpy()
        threshold = np.percentile(own, PERCENTILE)
        if threshold == 0:
            raise ValueError(
                "more than 1 % of the training images are duplicates of each other, so the copy "
                "threshold is 0; pass training= without duplicates"
            )
        found = nearest(tensor(generated), training).sqrt().numpy()
        details = {
            "threshold": threshold,
            "median_distance": np.median(found),
            "training_median_distance": np.median(own),
            "reference_count": len(training),
        }
        shared["copies", id(self)] = (found < threshold).mean()
        return shared["copies", id(self)], details

    def standard_error(self, reference: Reference | None, shared: Shared) -> float:
        """Binomial."""
        return binomial_error(shared["copies", id(self)], self.count)
