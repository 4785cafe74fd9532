"""``evaluate``: images in, a report out, in one pass."""

import json
import time
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
    RowMetric,
    Score,
    feature_extractor,
)
from arimage.eval.cache import Seen
from arimage.eval.extraction import Images, Pass, as_source, extract
from arimage.eval.gallery import Gallery, make_gallery
from arimage.eval.protocols import ADM, EvaluationProtocol, find_protocol
from arimage.eval.references import load_reference, rereadable
from arimage.eval.registry import GROUPS, METRICS
from arimage.eval.report import Protocol, Report
from arimage.eval.rows import Shared, check_same_width
from arimage.eval.sources import ImageSource
from arimage.eval.warnings import (
    chosen_by_judge,
    deviations,
    few_images,
    other_labels,
    singular,
    sorted_by_class,
    unread,
)

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
    plan, how = _plan(protocol, images), Pass(batch_size, cache)
    metrics, chosen = _choice(plan, metrics, features)
    reference = plan.reference if reference is None and plan else reference
    single = {metric.against for metric in metrics if metric.needs == "images"}
    sets = _Sets({"reference": reference, "training": training}, how, single)
    tasks = [_task(metric, chosen, sets, uncertainty) for metric in metrics]
    extractors = {task.extractor.name: task.extractor for task in tasks}
    facts = _Facts()
    for batch in extract(images if source is None else source, [*extractors.values()], labels, how):
        facts.add(batch)
        for task in tasks:
            task.update(batch[task.extractor.name].batch)
    shared: Shared = {"metrics": tuple(task.metric for task in tasks)}
    scores = tuple(task.metric.compute(task.reference, shared) for task in tasks)
    references = _records(tasks)
    record = getattr(source, "record", {}) | settings
    differs = record.pop("deviations", [])
    choice = chosen_by_judge(getattr(source, "chosen_by", None), list(extractors))
    name = tasks[0].extractor.name if chosen.made is None else chosen.made.name
    differs += [] if hasattr(source, "protocol") else other_labels(plan, facts.labels)
    made_by = Protocol(
        name=plan.name if plan else None,
        count=facts.count,
        features=name,
        size=facts.size,
        source=getattr(source, "name", None),
        references=references,
        settings=record,
        skipped=facts.skipped,
        seconds=round(time.perf_counter() - start, 1),
        warnings=choice + _warnings(tasks, scores, facts, references),
        deviations=deviations(plan, facts.count, facts.size, name, references) + differs,
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


def extractors_of(
    images: Images,
    metrics: Sequence[str | Metric] | None,
    features: Any,
    protocol: EvaluationProtocol | str | None,
) -> list[FeatureExtractor]:
    """What ``evaluate`` would run on each image."""
    found, chosen = _choice(_plan(protocol, images), metrics, features)
    return list({e.name: e for e in (chosen.serving(metric) for metric in found)}.values())


def _choice(
    plan: EvaluationProtocol | None, metrics: Sequence[str | Metric] | None, features: Any
) -> "tuple[list[Metric], _Lazy]":
    """The metrics and the extractor: the caller's, else the protocol's, else the defaults."""
    asked = _default_metrics(plan, features) if metrics is None else metrics
    chosen = _Lazy(features or (plan.features if plan else DEFAULT_FEATURES))
    return _metric_objects(asked, plan), chosen


class _Facts:
    """What is remembered of the images themselves."""

    def __init__(self) -> None:
        self.count, self.size = 0, None
        self.skipped: list[str] = []
        self.dimensions: dict[str, tuple[int, int]] = {}
        self._labels: list[np.ndarray] = []

    def add(self, batch: dict[str, Seen]) -> None:
        """Counts a batch."""
        seen = next(iter(batch.values()))
        self.count += len(seen.kept)
        self.size = self.size or seen.size
        self.skipped += seen.skipped
        if seen.batch.labels is not None:
            self._labels.append(seen.batch.labels)
        for name, each in batch.items():
            spatial = each.batch.spatial
            if len(each.batch):
                wide = 0 if spatial is None else spatial.shape[1]
                self.dimensions[name] = (each.batch.features.shape[1], wide)

    @property
    def labels(self) -> np.ndarray | None:
        """Of all images; None where there are none."""
        return np.concatenate(self._labels) if self._labels else None


def _warnings(
    tasks: "list[_Task]",
    scores: Sequence[Score],
    facts: _Facts,
    references: dict[str, dict[str, Any]],
) -> list[str]:
    """What a reader has to know of scores of these images."""
    metrics = [task.metric for task in tasks]
    names = [m.name for m in metrics if m.against == "reference" or m.order_matters]
    found = few_images(names, facts.count)
    for task in tasks:
        features, spatial = facts.dimensions[task.extractor.name]
        found += singular(task.metric, spatial if task.metric.name == "sfid" else features)
    found += sorted_by_class(scores, facts.labels) + unread(facts.skipped)
    sizes = {task.reference.size for task in tasks if task.reference is not None}
    found += [
        f"the images have {facts.size[1]} x {facts.size[0]} pixels and the reference {w} x {h}"
        for h, w in sorted(size for size in sizes if size not in (None, facts.size))
        if facts.size is not None
    ]
    return found + [record["remark"] for record in references.values() if "remark" in record]


class _Lazy:
    """The caller's extractor, made when a metric first wants it."""

    def __init__(self, features: Any) -> None:
        self._features, self.made = features, None

    def get(self) -> FeatureExtractor:
        """The extractor."""
        if self.made is None:
            self.made = feature_extractor(self._features)
        return self.made

    def serving(self, metric: Metric) -> FeatureExtractor:
        """The caller's, unless the metric brings one of another kind: then a new one of that."""
        given, name = self._features, metric.features
        kind = given.partition("=")[0] if isinstance(given, str) else getattr(given, "name", "")
        own = name is not None and kind.partition("@")[0] != name
        return feature_extractor(name) if own else self.get()


@dataclass(frozen=True)
class _Task:
    """A metric, who extracts for it, and the set it compares with."""

    metric: Metric
    extractor: FeatureExtractor
    reference: Reference | None

    def update(self, batch: FeatureBatch) -> None:
        """Shows a batch, if there is anything in it; the first one tells whether sets fit."""
        if not len(batch):
            return
        if not self.metric.count and self.reference is not None and self.metric.name != "sfid":
            check_same_width(batch.features, self.reference.moments.mean[None])
        self.metric.update(batch)


def _gallery(source: ImageSource, count: int, tasks: list[_Task]) -> Gallery:
    """Pictures by the first metric that knows single real images, else samples alone."""
    compared = [task for task in tasks if task.metric.against == "reference"]
    suited = [t for t in compared if t.reference is not None and t.reference.images is not None]
    task = next((t for t in suited if isinstance(t.metric, RowMetric)), (suited or tasks)[0])
    rows = task.metric.collected({}) if isinstance(task.metric, RowMetric) and suited else None
    return make_gallery(source, count, task.extractor, task.reference, rows)


class _Sets:
    """The reference and training sets, extracted when a metric first asks, once per extractor.

    ``single``: the roles of which a metric wants single images, not only moments.
    """

    def __init__(self, given: dict[str, Any], how: Pass, single: set[str]) -> None:
        self._given, self._how, self._single = given, how, single
        self._built: dict[tuple[str, str], Reference] = {}

    def get(self, role: str, extractor: FeatureExtractor) -> Reference | None:
        """The set called ``role`` as ``extractor`` sees it; None when the caller gave none."""
        if self._given[role] is None:
            return None
        key = (role, extractor.name)
        if key not in self._built:
            try:
                given = self._given[role] = rereadable(self._given[role], role)
                self._built[key] = load_reference(
                    given, extractor, self._how, images=role in self._single, role=role
                )
            except (TypeError, ValueError) as error:
                raise ValueError(f"in the {role} set: {error}") from error
        return self._built[key]


def _plan(protocol: Any, images: Any) -> EvaluationProtocol | None:
    """The protocol; ValueError where the images were made by another one."""
    own = getattr(images, "protocol", None)
    found = find_protocol(protocol) if isinstance(protocol, str) else protocol
    if own is not None and found not in (None, own):
        raise ValueError(
            f"got the protocol {found.name!r} for images of {own.name!r}; give it to stream_dataset"
        )
    return own or found


def _default_metrics(plan: EvaluationProtocol | None, features: Any) -> Sequence[str]:
    """Those of the protocol; else the published evaluator's, or what any features allow."""
    if plan is not None:
        return plan.metrics
    named = features.partition("=")[0] if isinstance(features, str) else features
    return ADM if named in (None, DEFAULT_FEATURES) else ("fid", "precision", "recall")


def _metric_objects(
    metrics: Sequence[str | Metric], plan: EvaluationProtocol | None = None
) -> list[Metric]:
    """Fresh metric objects, each name once; groups are spelt out, settings are the protocol's."""
    given = [metrics] if isinstance(metrics, str) else list(metrics)
    spelt = [
        each
        for name in given
        for each in (GROUPS.get(name, [name]) if isinstance(name, str) else [name])
    ]
    options = plan.metric_settings if plan else {}
    found = [
        metric if isinstance(metric, Metric) else METRICS[metric](**options.get(metric, {}))
        for metric in spelt
    ]
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


def _task(metric: Metric, chosen: _Lazy, sets: _Sets, uncertainty: bool) -> _Task:
    """Fails on a missing or unfit set now, before hours of generation."""
    metric.uncertain |= uncertainty
    extractor = chosen.serving(metric)
    reference = sets.get(metric.against, extractor) if metric.against else None
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
