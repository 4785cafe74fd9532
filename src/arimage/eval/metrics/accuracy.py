"""Label accuracy: the share of images that a fixed classifier gives the label they were asked for.

mean over images of 1[ argmax_c p(c|x) = label ].

Source: the top-1 test of Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional
Generative Models", turned round: there a classifier is trained on the generated images, here the
classifier is fixed and the images are judged, which costs one forward pass.

What holds: order does not matter. There is no reference; real images score the classifier's own
accuracy, which is the most a score means. Images of one perfect example per class score 1: read
it beside recall. The standard error is binomial: the draw of the images, not the classifier.
"""

from typing import Any

import numpy as np

from arimage.eval.base import FeatureBatch, Metric, Reference
from arimage.eval.rows import Shared, binomial_error


class Accuracy(Metric):
    """``accuracy``: counts hits and images per class."""

    name = "accuracy"
    higher_is_better = True
    order_matters = False

    def __init__(self) -> None:
        super().__init__()
        self.hits = np.zeros(0, dtype=np.int64)
        self.asked = np.zeros(0, dtype=np.int64)

    def add(self, batch: FeatureBatch) -> None:
        """Counts a batch; ValueError without labels or probabilities, or for a foreign label."""
        if batch.labels is None:
            raise ValueError(
                f"{self.name!r} needs the label each image was asked for; pass labels="
            )
        if batch.probabilities is None:
            raise ValueError(
                f"{self.name!r} needs class probabilities and {batch.extractor!r} gives none; "
                "use features='digits' or another classifier"
            )
        classes = batch.probabilities.shape[1]
        if len(batch) and not 0 <= batch.labels.min() <= batch.labels.max() < classes:
            raise ValueError(
                f"got labels from {batch.labels.min()} to {batch.labels.max()}; "
                f"{batch.extractor!r} knows 0 to {classes - 1}"
            )
        right = batch.labels[batch.probabilities.argmax(axis=1) == batch.labels]
        self._include(
            np.bincount(right, minlength=classes), np.bincount(batch.labels, minlength=classes)
        )

    def absorb(self, other: Any) -> None:
        """Adds the counts of ``other``."""
        self._include(other.hits, other.asked)

    def _include(self, hits: np.ndarray, asked: np.ndarray) -> None:
        if not len(self.asked):
            self.hits, self.asked = np.zeros_like(hits), np.zeros_like(asked)
        self.hits, self.asked = self.hits + hits, self.asked + asked

    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The share of all images; ``class_c`` is the share of class c, where it was asked for."""
        shares = {
            f"class_{c}": self.hits[c] / self.asked[c]
            for c in range(len(self.asked))
            if self.asked[c]
        }
        return self.hits.sum() / self.asked.sum(), shares

    def standard_error(self, reference: Reference | None, shared: Shared) -> float:
        """Binomial, as if the labels were drawn too."""
        return binomial_error(self.hits.sum() / self.asked.sum(), self.count)
