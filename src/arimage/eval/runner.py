"""``evaluate``: images in, a report out, in one pass."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arimage.eval.base import (
    FeatureBatch,
    FeatureExtractor,
    Metric,
    Reference,
    feature_extractor,
)
from arimage.eval.registry import METRICS
from arimage.eval.report import Protocol, Report
from arimage.eval.stream import Images, labelled_batches, pixel_batches


def evaluate(
    images: Images,
    *,
    metrics: Sequence[str | Metric],
    reference: Reference | Images = None,
    features: Any = "digits",
    labels: Any = None,
    batch_size: int = 256,
    training: Reference | Images = None,
    settings: dict[str, Any] | None = None,
) -> Report:
    """Scores images, read once and in order; memory is what the metrics keep, not the images.

    Args:
        images: a folder, one uint8 (n, h, w, 3) array, or an iterable of such arrays or of PIL
            images (a generator of a model's batches, say).
        metrics: names of ``METRICS``, or fresh ``Metric`` objects where a setting is not the
            default.
        reference: the real set, as a ``Reference`` or in any form of ``images``.
        features: a name of ``FEATURES``, an extractor, or any function from pixels to (b, d).
        labels: the integer class each image was asked for, one per image.
        batch_size: images per call of the extractor.
        training: the set a model was trained on, for metrics that look for copies.
        settings: remembered in the report (seeds, sampling, the model's name); JSON values.

    Raises:
        KeyError: an unknown metric or extractor, with the nearest known names.
        TypeError, ValueError: images, labels or sets that do not fit, in one sentence.
    """
    settings = _checked_settings(settings)
    chosen = feature_extractor(features)
    sets = _Sets(reference=reference, training=training, batch_size=batch_size)
    tasks = [_task(metric, chosen, sets) for metric in _metric_objects(metrics)]
    for pixels, known in labelled_batches(images, labels, batch_size):
        _update(tasks, pixels, known)
    shared = {"metrics": tuple(task.metric for task in tasks)}
    return Report(
        scores=tuple(task.metric.compute(task.reference, shared) for task in tasks),
        protocol=Protocol(
            count=tasks[0].metric.count,
            features=chosen.name,
            references=_records(tasks),
            settings=settings,
        ),
    )


@dataclass(frozen=True)
class _Task:
    """A metric, who extracts for it, and the set it compares with."""

    metric: Metric
    extractor: FeatureExtractor
    reference: Reference | None


class _Sets:
    """The reference and training sets, extracted when a metric first asks, once per extractor."""

    def __init__(self, *, reference: Any, training: Any, batch_size: int) -> None:
        self._given = {"reference": reference, "training": training}
        self._built: dict[tuple[str, str], Reference] = {}
        self._batch_size = batch_size

    def get(self, role: str, extractor: FeatureExtractor) -> Reference | None:
        """The set called ``role`` as ``extractor`` sees it; None when the caller gave none."""
        given = self._given[role]
        if given is None or isinstance(given, Reference):
            return given
        key = (role, extractor.name)
        if key not in self._built:
            try:
                self._built[key] = self._build(role, extractor)
            except (TypeError, ValueError) as error:
                raise ValueError(f"in the {role} set: {error}") from error
        return self._built[key]

    def _build(self, role: str, extractor: FeatureExtractor) -> Reference:
        given = self._given[role]
        if not isinstance(given, str | Path | np.ndarray):
            # A generator can be read once, but two extractors may ask for it.
            given = self._given[role] = np.concatenate(list(pixel_batches(given)))
        name = Path(given).resolve().name if isinstance(given, str | Path) else role
        return Reference.from_pixels(name, given, extractor, batch_size=self._batch_size)


def _metric_objects(metrics: Sequence[str | Metric]) -> list[Metric]:
    """Fresh metric objects, each name once."""
    given = [metrics] if isinstance(metrics, str) else list(metrics)
    found = [metric if isinstance(metric, Metric) else METRICS[metric]() for metric in given]
    names = [metric.name for metric in found]
    if not names:
        raise ValueError(f"got no metric; choose from {', '.join(METRICS)}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"got the metric {twice!r} more than once; name it once")
    used = next((metric for metric in found if metric.count), None)
    if used is not None:
        raise ValueError(
            f"the given {used.name!r} has already seen {used.count} images; pass a new one"
        )
    return found


def _task(metric: Metric, chosen: FeatureExtractor, sets: _Sets) -> _Task:
    """Fails on a missing or unfit set now, before hours of generation."""
    extractor = feature_extractor(metric.features) if metric.features else chosen
    reference = sets.get(metric.against, extractor) if metric.against else None
    metric.check_reference(reference, extractor.name)
    return _Task(metric, extractor, reference)


def _update(tasks: list[_Task], pixels: np.ndarray, labels: np.ndarray | None) -> None:
    """Shows one batch to every metric; each extractor runs once."""
    seen: dict[str, FeatureBatch] = {}
    for task in tasks:
        name = task.extractor.name
        if name not in seen:
            seen[name] = _extract(task.extractor, pixels, labels)
        task.metric.update(seen[name])


def _extract(
    extractor: FeatureExtractor, pixels: np.ndarray, labels: np.ndarray | None
) -> FeatureBatch:
    batch = extractor(pixels, labels)
    if not isinstance(batch, FeatureBatch) or len(batch) != len(pixels):
        raise ValueError(
            f"the extractor {extractor.name!r} gave {type(batch).__name__} for {len(pixels)} "
            "images; expected a FeatureBatch with one row per image"
        )
    return batch


def _records(tasks: list[_Task]) -> dict[str, dict[str, Any]]:
    """Name, count and hash of each set that was used."""
    return {
        task.metric.against: {
            "name": task.reference.name,
            "count": task.reference.moments.count,
            "sha256": task.reference.sha256,
        }
        for task in tasks
        if task.metric.against is not None and task.reference is not None
    }


def _checked_settings(settings: dict[str, Any] | None) -> dict[str, Any]:
    """The settings as JSON will hold them."""
    try:
        return json.loads(json.dumps(settings or {}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the settings cannot be written as JSON ({error}); use numbers, strings, lists, dicts"
        ) from error
