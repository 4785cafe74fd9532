"""``evaluate``: images in, a report out, in one pass."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arimage.eval.base import (
    FeatureExtractor,
    Metric,
    Reference,
    RowMetric,
    feature_extractor,
)
from arimage.eval.cache import Seen
from arimage.eval.extraction import Images, Pass, as_source, extract
from arimage.eval.gallery import Gallery, make_gallery
from arimage.eval.protocols import EvaluationProtocol, find_protocol
from arimage.eval.references import load_reference
from arimage.eval.registry import GROUPS, METRICS
from arimage.eval.report import Protocol, Report
from arimage.eval.rows import Shared
from arimage.eval.sources import ImageSource
from arimage.eval.warnings import deviations, warnings_of

DEFAULT_FEATURES = "inception"


def evaluate(
    images: Images,
    *,
    metrics: Sequence[str | Metric] | None = None,
    reference: Reference | Images = None,
    features: Any = None,
    labels: Any = None,
    batch_size: int = 256,
    training: Reference | Images = None,
    settings: dict[str, Any] | None = None,
    protocol: EvaluationProtocol | str | None = None,
    uncertainty: bool = False,
    cache: str | Path | None = None,
    gallery: int = 0,
) -> Report:
    """Scores images, read once and in order; memory is what the metrics keep, not the images.

    Args:
        images: ``generator.stream_dataset(protocol)``; a folder, zip, npz, npy or parquet file, or
            the name of a data set; one uint8 (n, h, w, 3) array; or an iterable of such arrays or
            of PIL images (a generator of a model's batches, say).
        metrics: names of ``METRICS`` or ``GROUPS``, or fresh ``Metric`` objects where a setting is
            not the default; those of the protocol if left out.
        reference: the real set: a ``Reference``, a name of ``references.KNOWN``, a file of
            statistics, or any form of ``images``; that of the protocol if left out.
        features: a name of ``FEATURES``, an extractor, or any function from pixels to (b, d); that
            of the protocol if left out, or the FID Inception.
        labels: the integer class each image was asked for, one per image; by default those that
            the images come with.
        batch_size: images per call of the extractor.
        training: the set a model was trained on, for metrics that look for copies.
        settings: remembered in the report (seeds, sampling, the model's name); JSON values.
        protocol: a named protocol; by default that of ``stream_dataset``.
        uncertainty: also standard errors, where a metric has one (it may keep all features).
        cache: a folder for features: a killed run goes on there, a second one is quick.
        gallery: so many images on the report's page, read (or made) a second time.

    Raises:
        KeyError: an unknown metric, extractor or protocol, with the nearest known names.
        TypeError, ValueError, FileNotFoundError: images, labels, sets or weights that do not fit or
            are not there, in one sentence.
    """
    start, settings = time.perf_counter(), _checked_settings(settings)
    source = as_source(images)
    plan = _plan(protocol, images)
    how = Pass(batch_size, cache)
    metrics = plan.metrics if metrics is None and plan else metrics
    chosen = feature_extractor(features or (plan.features if plan else DEFAULT_FEATURES))
    reference = plan.reference if reference is None and plan else reference
    sets = _Sets({"reference": reference, "training": training}, how)
    tasks = [_task(metric, chosen, sets, uncertainty) for metric in _metric_objects(metrics)]
    extractors = {task.extractor.name: task.extractor for task in tasks}
    facts = _Facts()
    for batch in extract(images if source is None else source, [*extractors.values()], labels, how):
        facts.add(next(iter(batch.values())))
        for task in tasks:
            if len(batch[task.extractor.name].batch):
                task.metric.update(batch[task.extractor.name].batch)
    shared: Shared = {"metrics": tuple(task.metric for task in tasks)}
    scores = tuple(task.metric.compute(task.reference, shared) for task in tasks)
    references = _records(tasks)
    record = getattr(source, "record", {}) | settings
    differs = record.pop("deviations", [])
    made_by = Protocol(
        name=plan.name if plan else None,
        count=facts.count,
        features=chosen.name,
        size=facts.size,
        source=getattr(source, "name", None),
        references=references,
        settings=record,
        skipped=facts.skipped,
        seconds=round(time.perf_counter() - start, 1),
        warnings=facts.warnings([task.metric for task in tasks], references),
        deviations=deviations(plan, facts.count, facts.size, chosen.name, references) + differs,
    )
    pictures = _gallery(source, gallery, tasks) if source is not None and gallery > 0 else None
    return Report(scores=scores, protocol=made_by, gallery=pictures)


def fill_cache(images: Images, extractors: Sequence[Any], how: Pass) -> int:
    """Extracts the share of ``how`` into its cache, for an ``evaluate`` that finds it there.

    Each of n processes calls it with its own share (i, n); returns the number of images seen.

    Raises:
        ValueError: no cache.
    """
    if how.cache is None:
        raise ValueError("got no cache to fill; give a folder")
    found = [feature_extractor(extractor) for extractor in extractors]
    return sum(len(next(iter(b.values())).kept) for b in extract(images, found, None, how))


def extractors_of(metrics: Sequence[str | Metric], features: Any) -> list[FeatureExtractor]:
    """What ``evaluate`` would run on each image."""
    own = [metric.features or features for metric in _metric_objects(metrics)]
    found = [feature_extractor(each) for each in own]
    return list({extractor.name: extractor for extractor in found}.values())


class _Facts:
    """What is remembered of the images themselves."""

    def __init__(self) -> None:
        self.count, self.size, self.dimension = 0, None, 0
        self.skipped: list[str] = []
        self._labels: list[np.ndarray] = []

    def add(self, seen: Seen) -> None:
        """Counts a batch."""
        self.count += len(seen.kept)
        self.size = self.size or seen.size
        self.skipped += seen.skipped
        self.dimension = max(self.dimension, seen.batch.features.shape[1])
        if seen.batch.labels is not None:
            self._labels.append(seen.batch.labels)

    def warnings(
        self, metrics: Sequence[Metric], references: dict[str, dict[str, Any]]
    ) -> list[str]:
        """What a reader has to know of scores of these images."""
        labels = np.concatenate(self._labels) if self._labels else None
        found = warnings_of(metrics, labels, self.dimension, references)
        if self.skipped:
            found.append(f"{len(self.skipped)} images could not be read and are not counted")
        return found


@dataclass(frozen=True)
class _Task:
    """A metric, who extracts for it, and the set it compares with."""

    metric: Metric
    extractor: FeatureExtractor
    reference: Reference | None


def _gallery(source: ImageSource, count: int, tasks: list[_Task]) -> Gallery:
    """Pictures by the first metric that knows single real images, else samples alone."""
    suited = [t for t in tasks if t.reference is not None and t.reference.images is not None]
    task = next((t for t in suited if isinstance(t.metric, RowMetric)), (suited or tasks)[0])
    rows = task.metric.collected({}) if isinstance(task.metric, RowMetric) and suited else None
    return make_gallery(source, count, task.extractor, task.reference, rows)


class _Sets:
    """The reference and training sets, extracted when a metric first asks, once per extractor."""

    def __init__(self, given: dict[str, Any], how: Pass) -> None:
        self._given, self._how = given, how
        self._built: dict[tuple[str, str, bool], Reference] = {}

    def get(self, role: str, extractor: FeatureExtractor, images: bool) -> Reference | None:
        """The set called ``role`` as ``extractor`` sees it; None when the caller gave none."""
        given = self._given[role]
        if given is None:
            return None
        key = (role, extractor.name, images)
        full = (role, extractor.name, True)
        if full in self._built:
            return self._built[full]
        if key not in self._built:
            try:
                self._built[key] = load_reference(
                    given, extractor, self._how, images=images, role=role
                )
            except (TypeError, ValueError) as error:
                raise ValueError(f"in the {role} set: {error}") from error
            if self._built[key].images is not None:
                self._built[full] = self._built[key]
        return self._built[key]


def _plan(protocol: Any, images: Any) -> EvaluationProtocol | None:
    found = getattr(images, "protocol", None) if protocol is None else protocol
    return find_protocol(found) if isinstance(found, str) else found


def _metric_objects(metrics: Sequence[str | Metric] | None) -> list[Metric]:
    """Fresh metric objects, each name once; groups are spelt out."""
    given = [metrics] if isinstance(metrics, str) else list(metrics or ())
    spelt = [m for name in given for m in (GROUPS.get(name, [name]) if _text(name) else [name])]
    found = [metric if isinstance(metric, Metric) else METRICS[metric]() for metric in spelt]
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


def _text(name: Any) -> bool:
    return isinstance(name, str)


def _task(metric: Metric, chosen: FeatureExtractor, sets: _Sets, uncertainty: bool) -> _Task:
    """Fails on a missing or unfit set now, before hours of generation."""
    metric.uncertain = uncertainty
    extractor = feature_extractor(metric.features) if metric.features else chosen
    images = metric.needs == "images"
    reference = sets.get(metric.against, extractor, images) if metric.against else None
    metric.check_reference(reference, extractor.name)
    return _Task(metric, extractor, reference)


def _records(tasks: list[_Task]) -> dict[str, dict[str, Any]]:
    """Name, count and hash of each set that was used."""
    found: dict[str, dict[str, Any]] = {}
    for task in tasks:
        if task.metric.against is not None and task.reference is not None:
            record = {
                "name": task.reference.name,
                "count": task.reference.count,
                "sha256": task.reference.sha256,
            }
            if task.reference.remark:
                record["remark"] = task.reference.remark
            found.setdefault(task.metric.against, record)
    return found


def _checked_settings(settings: dict[str, Any] | None) -> dict[str, Any]:
    """The settings as JSON will hold them."""
    try:
        return json.loads(json.dumps(settings or {}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the settings cannot be written as JSON ({error}); use numbers, strings, lists, dicts"
        ) from error
