"""Reconstructions against their originals: metrics of pairs and rFID, in one pass.

A ``PairMetric`` sees an image and what a tokenizer made of it; a new one is a subclass and a line
in ``registry.py``. rFID is the Frechet distance between the reconstructions and the same images
that were reconstructed (not the training set's statistics, which give another number: 2.7 instead
of 0.9 for VAR's tokenizer); any other metric of ``METRICS`` is named likewise, ``r`` and its name.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from arimage.eval.base import (
    FeatureBatch,
    FeatureExtractor,
    Metric,
    Reference,
    Score,
    Shared,
    feature_extractor,
)
from arimage.eval.codebook import CodeCounter
from arimage.eval.extraction import Images, read_batches
from arimage.eval.moments import Moments, extend
from arimage.eval.registry import METRICS, PAIR_METRICS
from arimage.eval.report import Protocol, Report
from arimage.eval.warnings import few_images, unread
from arimage.registry import unknown_name
from arimage.shapes import Float, Int, UInt8

Reconstruct = Callable[[np.ndarray], np.ndarray]  # uint8 pixels (b, h, w, 3) to the same
ORIGINALS = "originals"


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
    chosen = _metric_objects(metrics, uncertainty)
    if codes is not None and codes.counts.any():
        raise ValueError("the given code counter has already seen ids; pass a new one")
    views = _views([metric for metric in chosen if isinstance(metric, Metric)], features)
    pairs = [metric for metric in chosen if isinstance(metric, PairMetric)]
    digest, count, skipped, size = hashlib.sha256(), 0, [], None
    for pixels, known in read_batches(images, labels, batch_size, skipped):
        size = pixels.shape[1:3]
        decoded = decoded_batch(reconstruct, pixels)
        for pair in pairs:
            pair.update(pixels, decoded)
        for view in views:
            view.update(pixels, decoded, known)
        digest.update(np.ascontiguousarray(pixels).data)
        count += len(pixels)
    scores = {metric: metric.compute() for metric in pairs}
    for view in views:
        scores |= view.scores(digest.hexdigest())
    used = [] if codes is None else codes.scores(count)
    return Report(
        scores=(*(scores[metric] for metric in chosen), *used),
        protocol=replace(
            protocol_of(", ".join(v.extractor.name for v in views) or "-", count, digest, settings),
            source=getattr(images, "name", None),
            size=size,
            skipped=skipped,
            warnings=warnings_of_pairs(chosen, count, skipped),
        ),
    )


class Originals:
    """The originals as an extractor sees them, gathered batch by batch."""

    def __init__(self, extractor: FeatureExtractor, *, keeps_images: bool = False) -> None:
        self.extractor, self.keeps_images = extractor, keeps_images
        self._batches: list[FeatureBatch] = []
        self._moments: Moments | None = None
        self._spatial: Moments | None = None

    def update(self, pixels: np.ndarray, labels: Int[np.ndarray, " b"] | None) -> None:
        """Extracts a batch."""
        batch = seen_by(self.extractor, pixels, labels)
        self._moments = extend(self._moments, batch.features)
        self._spatial = extend(self._spatial, batch.spatial)
        if self.keeps_images:
            self._batches.append(replace(batch, spatial=None))

    def reference(self, sha256: str) -> Reference:
        """What reconstructions are compared with."""
        assert self._moments is not None  # read_batches raises on an empty stream
        return Reference(
            name=ORIGINALS,
            extractor=self.extractor.name,
            moments=self._moments,
            images=FeatureBatch.concatenate(self._batches) if self._batches else None,
            sha256=sha256,
            spatial=self._spatial,
            count=self._moments.count,
        )


@dataclass(frozen=True)
class _View:
    """An extractor, and the metrics it serves."""

    metrics: list[Metric]
    originals: Originals

    @property
    def extractor(self) -> FeatureExtractor:
        """Who extracts."""
        return self.originals.extractor

    def update(self, pixels: np.ndarray, decoded: np.ndarray, labels: np.ndarray | None) -> None:
        """Extracts a batch of both sides."""
        self.originals.update(pixels, labels)
        batch = seen_by(self.extractor, decoded, labels)
        for metric in self.metrics:
            metric.update(batch)

    def scores(self, sha256: str) -> dict[Metric, Score]:
        """The score of each metric, its name with an r before it."""
        reference = self.originals.reference(sha256)
        shared: Shared = {"metrics": tuple(self.metrics)}
        found = {metric: metric.compute(reference, shared) for metric in self.metrics}
        return {metric: replace(score, name=f"r{score.name}") for metric, score in found.items()}


def _views(metrics: list[Metric], features: Any) -> list[_View]:
    """The metrics by their extractor; the caller's is made only where a metric uses it."""
    views: list[_View] = []
    training = next((metric for metric in metrics if metric.against == "training"), None)
    if training is not None:
        raise ValueError(
            f"{training.name!r} compares with a training set, and reconstructions are compared "
            "with their originals; use evaluate"
        )
    for source in dict.fromkeys(metric.features for metric in metrics):
        served = [metric for metric in metrics if metric.features == source]
        keeps = any(metric.against and metric.needs == "images" for metric in served)
        extractor = feature_extractor(source or features)
        views.append(_View(served, Originals(extractor, keeps_images=keeps)))
    return views


def _metric_objects(metrics: Sequence[Any], uncertainty: bool) -> list[PairMetric | Metric]:
    """At least one fresh metric, each score once."""
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


def decoded_batch(
    reconstruct: Reconstruct, pixels: UInt8[np.ndarray, "b h w 3"]
) -> UInt8[np.ndarray, "b h w 3"]:
    """The reconstructions of a batch; ValueError when they do not fit."""
    decoded = reconstruct(pixels)
    fits = isinstance(decoded, np.ndarray) and decoded.dtype == np.uint8
    if not fits or decoded.shape != pixels.shape:
        kind, shape = getattr(decoded, "dtype", type(decoded)), getattr(decoded, "shape", "")
        raise ValueError(
            f"the reconstruction of pixels of shape {pixels.shape} is {kind} {shape}; expected "
            "uint8 pixels of the same shape (arimage.images.to_pixels makes them)"
        )
    return decoded


def seen_by(
    extractor: FeatureExtractor,
    pixels: UInt8[np.ndarray, "b h w 3"],
    labels: Int[np.ndarray, " b"] | None,
) -> FeatureBatch:
    """The features of a batch; ValueError when there is not one row per image."""
    batch = extractor(pixels, labels)
    if len(batch) != len(pixels):
        raise ValueError(
            f"the extractor {extractor.name!r} gave {len(batch)} rows for {len(pixels)} images; "
            "expected one per image"
        )
    return batch


def warnings_of_pairs(
    metrics: Sequence[PairMetric | Metric], count: int, skipped: list[str]
) -> list[str]:
    """What a reader has to know of scores of so few reconstructions, or of fewer than came."""
    names = [f"r{metric.name}" for metric in metrics if isinstance(metric, Metric)]
    return few_images(names, count) + unread(skipped)


def protocol_of(
    features: str, count: int, digest: Any, settings: dict[str, Any] | None
) -> Protocol:
    """What the scores of reconstructions share; ``digest`` is a hash of the originals' pixels."""
    record = {"name": ORIGINALS, "count": count, "sha256": digest.hexdigest()}
    return Protocol(
        count=count, features=features, references={"reference": record}, settings=settings or {}
    )
