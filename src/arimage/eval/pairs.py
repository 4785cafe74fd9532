"""Reconstructions against their originals: metrics of pairs and rFID, in one pass.

A ``PairMetric`` sees an image and what a tokenizer made of it; a new one is a subclass and a line
in ``registry.py``. rFID is the Frechet distance between the reconstructions and the same images
that were reconstructed (not the training set's statistics, which give another number: 2.7 instead
of 0.9 for VAR's tokenizer); any other metric of ``METRICS`` is named likewise, ``r`` and its name.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from arimage.eval.base import Metric, Score
from arimage.eval.codebook import CodeCounter
from arimage.eval.extraction import Images
from arimage.eval.registry import METRICS, PAIR_METRICS
from arimage.eval.report import Report
from arimage.eval.several import ORIGINALS, Reconstruct, score_each
from arimage.registry import unknown_name
from arimage.shapes import Float, UInt8


class PairMetric(ABC):
    """The mean over images of a value per pair, original and reconstruction.

    It keeps the values, eight bytes a pair, and adds them exactly: the score depends neither on
    batches nor on the order of pairs, nor on what was merged with what.

    Attributes:
        name: as in the registry and in the report.
        higher_is_better: the direction of the value.
        uncertain: set it when the score shall carry the standard error of the mean: what another
            draw of the images would change.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]

    def __init__(self) -> None:
        self.uncertain = False
        self._pieces: list[np.ndarray] = []

    @abstractmethod
    def values(
        self,
        originals: UInt8[np.ndarray, "b h w 3"],
        reconstructions: UInt8[np.ndarray, "b h w 3"],
    ) -> Float[np.ndarray, " b"]:
        """The value of each pair, whatever the batch."""

    @property
    def features(self) -> str | None:
        """Names the network that compares, None where there is none."""
        return None

    @property
    def count(self) -> int:
        """Pairs so far."""
        return sum(map(len, self._pieces))

    def update(self, originals: np.ndarray, reconstructions: np.ndarray) -> None:
        """Counts in uint8 pixels (b, h, w, 3); row i of both is one pair.

        Raises:
            ValueError: arrays that are not uint8 pixels of one shape.
        """
        check_pair(originals, reconstructions)
        self._pieces.append(self.values(originals, reconstructions))

    def merge(self, other: "PairMetric") -> None:
        """Counts in the pairs that ``other`` saw.

        Raises:
            TypeError: another metric.
            ValueError: the same metric with another network.
        """
        if type(other) is not type(self):
            raise TypeError(
                f"cannot merge {type(other).__name__} into {self.name!r}; merge the same metric"
            )
        if other.features != self.features:
            raise ValueError(
                f"{self.name!r} compares by {self.features!r} and got values of "
                f"{other.features!r}; use one network, or a new metric"
            )
        self._pieces.extend(other._pieces)

    def compute(self) -> Score:
        """The score of all pairs so far; ValueError when there are none."""
        if not self.count:
            raise ValueError(f"{self.name!r} has seen no pair; call update first")
        values = np.concatenate(self._pieces)
        return Score(
            name=self.name,
            value=math.fsum(values) / len(values),
            higher_is_better=self.higher_is_better,
            count=len(values),
            reference=ORIGINALS,
            features=self.features,
            standard_error=_standard_error(values) if self.uncertain else None,
            details=self.details(values),
        )

    def details(self, values: Float[np.ndarray, " n"]) -> dict[str, float]:
        """What it takes to read the mean; nothing unless a subclass says so."""
        return {}


def _standard_error(values: Float[np.ndarray, " n"]) -> float | None:
    """Of the mean; None where one value, or an infinite one, leaves it undefined."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    deviations = values - math.fsum(values) / len(values)
    return math.sqrt(math.fsum(deviations**2) / (len(values) - 1) / len(values))


def error_of_change(before: PairMetric, after: PairMetric) -> float | None:
    """The standard error of the mean change from pair to pair, of two metrics that saw the same
    originals in the same order: below that of either mean where the images differ more than the
    tokenizers do. None where it is undefined."""
    return _standard_error(np.concatenate(after._pieces) - np.concatenate(before._pieces))


def check_pair(a: np.ndarray, b: np.ndarray) -> None:
    """Raises ValueError unless both are uint8 pixels (b, h, w, 3) of one shape."""
    for array in (a, b):
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            raise ValueError(
                f"got {array.dtype} of shape {array.shape}; expected uint8 pixels (b, h, w, 3)"
            )
    if a.shape != b.shape:
        raise ValueError(f"got pairs of shapes {a.shape} and {b.shape}; expected equal shapes")


def evaluate_reconstructions(
    images: Images,
    reconstruct: Reconstruct,
    *,
    metrics: Sequence[str | PairMetric | Metric] = ("rfid", "psnr", "ssim", "lpips"),
    features: Any = "inception",
    batch_size: int = 64,
    labels: Any = None,
    uncertainty: bool = False,
    codes: CodeCounter | None = None,
    settings: dict[str, Any] | None = None,
) -> Report:
    """Scores what ``reconstruct`` makes of images, read once and in order, a batch in memory.

    Args:
        images: the originals, as ``evaluate`` takes them: already cropped to the tokenizer's size.
        reconstruct: uint8 pixels (b, h, w, 3) to uint8 pixels of the same shape.
        metrics: names of ``PAIR_METRICS``; ``r`` and a name of ``METRICS`` (``rfid``), which then
            compares the reconstructions with these originals; or fresh metric objects.
        features: what the ``r`` metrics see, as ``evaluate`` takes it.
        batch_size: images per call of ``reconstruct``.
        labels: the integer class of each image, for metrics that ask for it.
        uncertainty: standard errors of the metrics that are given by name.
        codes: a counter that ``reconstruct`` shows its token ids; adds ``codebook_share`` and
            ``codebook_perplexity`` to the report.
        settings: remembered in the report (the tokenizer's name, say); JSON values.

    Raises:
        KeyError: an unknown metric or extractor, with the nearest known names.
        FileNotFoundError: weights of a network that are nowhere.
        TypeError, ValueError: images, labels or reconstructions that do not fit, in one sentence.
    """
    chosen = fresh_metrics(metrics, uncertainty)
    if codes is not None and codes.counts.any():
        raise ValueError("the given code counter has already seen ids; pass a new one")
    (scores,), protocol = score_each(
        images,
        lambda pixels: [reconstruct(pixels)],
        [chosen],
        features=features,
        batch_size=batch_size,
        labels=labels,
        settings=settings,
    )
    if codes is not None:
        scores += codes.scores(protocol.count)
        protocol = replace(protocol, warnings=protocol.warnings + codes.few())
    return Report(scores=tuple(scores), protocol=protocol)


def fresh_metrics(
    metrics: Sequence[str | PairMetric | Metric], uncertainty: bool = False
) -> list[PairMetric | Metric]:
    """At least one fresh metric, each score once, as ``evaluate_reconstructions`` takes them.

    Raises:
        KeyError, ValueError, FileNotFoundError: as ``evaluate_reconstructions``.
    """
    given = [metrics] if isinstance(metrics, str) else list(metrics)
    if not given:
        raise ValueError(f"got no metric; choose from {', '.join(_known())}")
    found = [_metric(metric, uncertainty) for metric in given]
    names = [f"r{metric.name}" if isinstance(metric, Metric) else metric.name for metric in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"got the metric {twice!r} more than once; name it once")
    return found


def _metric(given: Any, uncertainty: bool) -> PairMetric | Metric:
    """A fresh metric for a name, or the given one when it is fresh."""
    if isinstance(given, PairMetric | Metric):
        if given.count:
            raise ValueError(
                f"the given {given.name!r} has already seen {given.count} images; pass a new one"
            )
        return given
    if given not in _known():
        raise KeyError(unknown_name("metric of reconstructions", given, _known()))
    metric = PAIR_METRICS[given]() if given in PAIR_METRICS else METRICS[given[1:]]()
    metric.uncertain = uncertainty
    return metric


def _known() -> list[str]:
    return [*PAIR_METRICS, *(f"r{name}" for name in METRICS)]
