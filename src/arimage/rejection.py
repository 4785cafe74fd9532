"""Rejection sampling: of several images of one seed and class, the one a classifier likes best.

How published next-token and next-scale figures were made (RQ-Transformer, arXiv 2203.01941; VAR's
best, 2404.02905), there by the share of a class's samples that is kept. Here each image is chosen
among 1 / keep of its own, so that it follows from its seed alone: a run can stop, go on and be
shared as without. Classes keep their counts. It buys fidelity with variety, and what a classifier
of the same kind scores afterwards is no longer independent: records and deviations say so.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from arimage.eval.base import feature_extractor
from arimage.eval.protocols import EvaluationProtocol
from arimage.eval.sources import digest
from arimage.generated import GeneratedImages
from arimage.sampling.noise import MAX_SEED
from arimage.shapes import Float, Int, UInt8

if TYPE_CHECKING:
    from arimage.generator import ImageGenerator

STRIDE = 2**48  # between the seeds of one image's candidates: seeds of other images are below
NEAR = 0.05  # how far 1 / keep may be from a whole number: 0.33 is a third


class BestOf(GeneratedImages):
    """A generator's images under a protocol, each the best of several.

    Args:
        keep: share of the images that is kept: 1/2, 1/3, ...
        classifier: a name of ``FEATURES`` ("digits", "digits=FILE") or an extractor, with
            probabilities of the protocol's classes.
        generator, protocol, batch_size, settings: as in ``GeneratedImages``.

    Raises:
        ValueError: a share that is not one over a whole number; a classifier without
            probabilities, or of another number of classes, when the first image is read.
        KeyError, TypeError: as ``ImageGenerator.stream_dataset`` says.
    """

    def __init__(
        self,
        generator: "ImageGenerator",
        protocol: EvaluationProtocol | str | None = None,
        *,
        keep: float | int,
        classifier: Any,
        batch_size: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(generator, protocol, batch_size=batch_size, settings=settings)
        self.candidates = candidates_for(keep)
        self.classifier = feature_extractor(classifier)

    @property
    def identity(self) -> str:
        """Also of the choice."""
        return digest(self._identity, self.candidates, self.chosen_by)

    @property
    def chosen_by(self) -> str:
        """The classifier's name, which holds the hash of its weights."""
        return self.classifier.name

    def _make(self, start: int, stop: int) -> UInt8[np.ndarray, "b h w 3"]:
        labels = self.labels[start:stop]
        seeds = [self.protocol.first_seed + i for i in range(start, stop)]
        best = self._pixels(labels, seeds)
        liked = self._liked(best, labels)
        for number in range(1, self.candidates):
            pixels = self._pixels(labels, [candidate_seed(seed, number) for seed in seeds])
            score = self._liked(pixels, labels)
            better = score > liked
            best[better], liked[better] = pixels[better], score[better]
        return best

    def _liked(
        self, pixels: UInt8[np.ndarray, "b h w 3"], labels: Int[np.ndarray, " b"]
    ) -> Float[np.ndarray, " b"]:
        """The probability of each image's class."""
        probabilities = self.classifier(pixels, None).probabilities
        classes = self.protocol.num_classes
        if probabilities is None or probabilities.shape[1] != classes:
            has = "none" if probabilities is None else f"those of {probabilities.shape[1]} classes"
            raise ValueError(
                f"rejection sampling needs the probabilities of {classes} classes and "
                f"{self.chosen_by!r} gives {has}; use another classifier"
            )
        return probabilities[np.arange(len(labels)), labels]

    @property
    def record(self) -> dict[str, Any]:
        """Also how images were chosen."""
        chosen = {
            "keep": 1 / self.candidates,
            "candidates": self.candidates,
            "classifier": self.chosen_by,
            "rule": "highest probability of the class among candidates of one image",
        }
        return super().record | {"rejection": chosen}

    @property
    def deviations(self) -> list[str]:
        """Also that images were chosen."""
        chosen = f"rejection sampling: each image is the best of {self.candidates} by"
        return [f"{chosen} {self.chosen_by}", *super().deviations]


def candidates_for(keep: float | int) -> int:
    """How many images are made for each that is kept.

    Raises:
        ValueError: a share that is not one over a whole number.
    """
    if isinstance(keep, int | float) and 0 < keep <= 1:
        count = round(1 / keep)
        if abs(1 / keep - count) < NEAR:
            return count
    raise ValueError(
        f"got keep {keep}; each image is the best of a whole number of its own: give 1/2, 1/3 "
        "and so on, for example 0.25"
    )


def candidate_seed(seed: int, number: int) -> int:
    """The seed of candidate ``number`` of the image with ``seed``; candidate 0 is that image."""
    return (seed + number * STRIDE) % MAX_SEED
