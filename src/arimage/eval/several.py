"""Several kinds of reconstructions of the same images, scored in one pass.

After each scale, with perturbed tokens, by the tokenizer of before a training: the originals are
read, and seen by a network, once for all of them.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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
from arimage.eval.extraction import Images, read_batches
from arimage.eval.moments import Moments, extend
from arimage.eval.report import Protocol
from arimage.eval.warnings import few_images, sorted_by_class, unread
from arimage.shapes import Int, UInt8

if TYPE_CHECKING:
    from arimage.eval.pairs import PairMetric

Reconstruct = Callable[[np.ndarray], np.ndarray]  # uint8 pixels (b, h, w, 3) to the same
ORIGINALS = "originals"


def score_each(
    images: Images,
    reconstruct_each: Callable[[np.ndarray], Iterable[np.ndarray]],
    metrics_each: "Sequence[Sequence[PairMetric | Metric]]",
    *,
    features: Any = "inception",
    batch_size: int = 64,
    labels: Any = None,
    settings: dict[str, Any] | None = None,
) -> tuple[list[list[Score]], Protocol]:
    """The scores of each kind of reconstructions, and what they share.

    Args:
        images: as ``pairs.evaluate_reconstructions``.
        reconstruct_each: uint8 pixels (b, h, w, 3) to one array like it for each kind; an iterator
            lets them be made, scored and dropped one by one.
        metrics_each: fresh metrics of each kind (``pairs.fresh_metrics``), in the same order.
        features: as ``pairs.evaluate_reconstructions``; also the next three.
        batch_size, labels, settings: the same.

    Raises:
        TypeError, ValueError, FileNotFoundError: as ``pairs.evaluate_reconstructions``.
    """
    views, digest, count, skipped, size = (
        _views(metrics_each, features),
        hashlib.sha256(),
        0,
        [],
        None,
    )
    for pixels, known in read_batches(images, labels, batch_size, skipped):
        size, count = pixels.shape[1:3], count + len(pixels)
        for view in views:
            view.originals.update(pixels, known)
        made = zip(metrics_each, reconstruct_each(pixels), strict=True)
        for kind, (metrics, decoded) in enumerate(made):
            check_decoded(pixels, decoded)
            for metric in metrics:
                if not isinstance(metric, Metric):
                    metric.update(pixels, decoded)
            for view in views:
                view.update(kind, decoded, known)
        digest.update(np.ascontiguousarray(pixels).data)
    found = {key: score for view in views for key, score in view.scores(digest.hexdigest())}
    scores = [[found.get(metric) or metric.compute() for metric in each] for each in metrics_each]
    names = [f"r{m.name}" for each in metrics_each for m in each if isinstance(m, Metric)]
    record = {"name": ORIGINALS, "count": count, "sha256": digest.hexdigest()}
    return scores, Protocol(
        count=count,
        features=", ".join(view.extractor.name for view in views) or "-",
        references={"reference": record},
        settings=settings or {},
        source=getattr(images, "name", None),
        size=size,
        skipped=skipped,
        warnings=[
            *few_images(list(dict.fromkeys(names)), count),
            *sorted_by_class([score for each in scores for score in each], None),
            *unread(skipped),
        ],
    )


def check_decoded(pixels: UInt8[np.ndarray, "b h w 3"], decoded: Any) -> None:
    """ValueError unless ``decoded`` are uint8 pixels of the same shape."""
    fits = isinstance(decoded, np.ndarray) and decoded.dtype == np.uint8
    if not fits or decoded.shape != pixels.shape:
        kind, shape = getattr(decoded, "dtype", type(decoded)), getattr(decoded, "shape", "")
        raise ValueError(
            f"the reconstruction of pixels of shape {pixels.shape} is {kind} {shape}; expected "
            "uint8 pixels of the same shape (arimage.images.to_pixels makes them)"
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
    """An extractor, and the metrics of each kind that it serves."""

    metrics: list[list[Metric]]
    originals: Originals

    @property
    def extractor(self) -> FeatureExtractor:
        """Who extracts."""
        return self.originals.extractor

    def update(self, kind: int, decoded: np.ndarray, labels: np.ndarray | None) -> None:
        """Extracts a batch of a kind, where a metric wants it."""
        if not self.metrics[kind]:
            return
        batch = seen_by(self.extractor, decoded, labels)
        for metric in self.metrics[kind]:
            metric.update(batch)

    def scores(self, sha256: str) -> Iterator[tuple[Metric, Score]]:
        """The score of each metric, its name with an r before it."""
        reference = self.originals.reference(sha256)
        for metrics in self.metrics:
            shared: Shared = {"metrics": tuple(metrics)}
            for metric in metrics:
                score = metric.compute(reference, shared)
                yield metric, replace(score, name=f"r{score.name}")


def _views(metrics_each: "Sequence[Sequence[PairMetric | Metric]]", features: Any) -> list[_View]:
    """The metrics by their extractor; the caller's is made only where a metric uses it."""
    kinds = [[metric for metric in each if isinstance(metric, Metric)] for each in metrics_each]
    everything = [metric for each in kinds for metric in each]
    training = next((metric for metric in everything if metric.against == "training"), None)
    if training is not None:
        raise ValueError(
            f"{training.name!r} compares with a training set, and reconstructions are compared "
            "with their originals; use evaluate"
        )
    views: list[_View] = []
    for source in dict.fromkeys(metric.features for metric in everything):
        served = [[metric for metric in each if metric.features == source] for each in kinds]
        keeps = any(m.against and m.needs == "images" for each in served for m in each)
        extractor = feature_extractor(source or features)
        views.append(_View(served, Originals(extractor, keeps_images=keeps)))
    return views


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
