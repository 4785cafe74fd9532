"""What ``arimage evaluate tokenizer`` does: every score of a tokenizer, in one pass over images.

Also after each token map, with perturbed tokens, and of another tokenizer beside it: the one that
a fine-tuning began with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from arimage.eval.base import Score, feature_extractor
from arimage.eval.codebook import CodeCounter
from arimage.eval.gallery import Gallery
from arimage.eval.metrics.reconstruction import psnr
from arimage.eval.pairs import PairMetric, error_of_change, fresh_metrics
from arimage.eval.perturbed import grid_names, pfid
from arimage.eval.report import BEFORE, CHANGE, CHANGE_ERROR, SCALE, Report
from arimage.eval.runner import DEFAULT_FEATURES
from arimage.eval.several import score_each
from arimage.eval.sources import ImageSource, ReadOptions, open_path
from arimage.pretrained import check_device, identity
from arimage.shapes import UInt8
from arimage.sheets import sheet
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.perturb import perturbed_reconstruct
from arimage.tokenizers.stages import reconstruct_stages

METRICS = ("rfid", "rinception_score", "psnr", "ssim", "lpips")
SCALE_METRICS = ("psnr", "ssim")
CLASSIFIERS = ("inception", "digits")  # features that come with class probabilities
# What RobustTok trains with (lxa9867/ImageFolder@bae3079 README); over which points the published
# pFID is a mean is not said.
POINT = (0.5, 100)
SHOWN = 8  # images in the pictures
AMPLIFIED = 4  # their errors


@dataclass(frozen=True, kw_only=True)
class TokenizerJob:
    """Reconstructions of images by the tokenizer of a model.

    Attributes:
        data: images, cut to the tokenizer's size (``images.center_crop``).
        model: preset, folder, hub id or file.
        variant: of a hub repository of models.
        before: another tokenizer for images of this size, which ``model`` is compared with.
        metrics: as ``eval.pairs.evaluate_reconstructions``; None is ``METRICS`` and pFID at
            ``POINT``, without those whose weights are not at hand (the report says so).
        scale_metrics: those that are also taken after each token map, where there are several;
            None is those of ``SCALE_METRICS`` among the metrics.
        grid: points (alpha, delta) of pFID.
        features, batch_size: as ``eval.pairs.evaluate_reconstructions``.
        read: how image files are read.
        device: of the tokenizers and networks.
        uncertainty: standard errors, where a metric has one.
    """

    data: str
    model: str
    variant: str | None = None
    before: str | None = None
    metrics: tuple[str, ...] | None = None
    scale_metrics: tuple[str, ...] | None = None
    grid: tuple[tuple[float, int], ...] = ()
    features: str = DEFAULT_FEATURES
    read: ReadOptions = field(default_factory=ReadOptions)
    batch_size: int = 64
    device: str = "cpu"
    uncertainty: bool = False

    def run(self) -> Report:
        """The report; its gallery holds the pictures.

        Raises:
            ValueError, KeyError, FileNotFoundError: whatever is wrong, in a sentence.
        """
        check_device(self.device)
        tokenizer = self._load(self.model)
        before = None if self.before is None else self._load(self.before)
        size = tokenizer.config.image_size
        if before is not None and before.config.image_size != size:
            raise ValueError(
                f"{self.before} takes images of {before.config.image_size} pixels and {self.model} "
                f"of {size}; compare tokenizers of one size"
            )
        images = open_path(self.data, replace(self.read, size=size))
        with torch.device(self.device):  # where extractors and distances are
            report = self._evaluate(images, tokenizer, before)
        return replace(report, gallery=Gallery.of_sheets(pictures(images, tokenizer, before)))

    def _load(self, name: str) -> ImageTokenizer:
        tokenizer = ImageTokenizer.from_pretrained(name, variant=self.variant)
        return tokenizer.to(self.device).eval()

    def _evaluate(
        self, images: ImageSource, tokenizer: ImageTokenizer, before: ImageTokenizer | None
    ) -> Report:
        plan, notices = self._plan([one for one in (tokenizer, before) if one is not None])
        candidates = [Candidate(tokenizer, plan)]
        settings = {"tokenizer": self.model, "variant": self.variant}
        settings |= {"weights": identity(tokenizer)}
        if before is not None:
            candidates.append(Candidate(before, replace(plan, scale_metrics=())))
            settings |= {"before": self.before, "before_weights": identity(before)}
        each, protocol = score_each(
            images,
            lambda pixels: (made for one in candidates for made in one.reconstruct(pixels)),
            [metrics for one in candidates for metrics in one.metrics],
            features=plan.features,
            batch_size=self.batch_size,
            settings=settings,
        )
        rows = iter(each)
        scores = [one.scores([next(rows) for _ in one.metrics]) for one in candidates]
        if before is not None:
            scores[0] = changed(*scores, *candidates)
        notices += candidates[0].codes.few() + enlarged(images)
        protocol = replace(protocol, warnings=[*protocol.warnings, *notices])
        return Report(scores=tuple(scores[0]), protocol=protocol)

    def _plan(self, tokenizers: Sequence[ImageTokenizer]) -> "tuple[Plan, list[str]]":
        """What is scored, and sentences on what cannot be."""
        names, features, grid = self.metrics, self.features, self.grid
        missing: list[str] = []
        if names is None:
            names, features, missing = at_hand(features)
            codes = min(tokenizer.config.vocab_size for tokenizer in tokenizers)
            grid = grid or ((POINT[0], min(POINT[1], codes)),)
            grid = grid if "rfid" in names else ()
        staged = self.scale_metrics
        if staged is None:
            staged = tuple(name for name in SCALE_METRICS if name in names)
        other = next((name for name in staged if name not in names), None)
        if other is not None:
            raise ValueError(
                f"got the metric {other!r} for each scale, but not among the metrics "
                f"({', '.join(names)}); name it there too"
            )
        staged = staged if tokenizers[0].slots.num_scales > 1 else ()
        return Plan(names, staged, grid, features, self.uncertainty), missing


def at_hand(features: str) -> tuple[tuple[str, ...], Any, list[str]]:
    """The metrics of ``METRICS`` whose weights can be had, what their features are, and a sentence
    for each network that is missing."""
    names, missing, extractor = list(METRICS), [], None
    if features.partition("=")[0] not in CLASSIFIERS:
        names.remove("rinception_score")
    try:
        extractor = feature_extractor(features)
    except FileNotFoundError as error:
        if features != DEFAULT_FEATURES:  # asked for by name
            raise
        left = [name for name in names if name.startswith("r")]
        names = [name for name in names if name not in left]
        missing.append(f"left out: {', '.join([*left, 'pfid'])}; {error}")
    try:
        fresh_metrics(["lpips"])
    except FileNotFoundError as error:
        names.remove("lpips")
        missing.append(f"left out: lpips; {error}")
    return tuple(names), extractor, missing


def enlarged(images: ImageSource) -> list[str]:
    """That some images are smaller than the tokenizer's."""
    small = len(getattr(images, "enlarged", ()))
    if not small:
        return []
    return [
        f"{small} of {len(images)} images were smaller and have been enlarged: smooth ones are "
        "easier to give back"
    ]


@dataclass(frozen=True)
class Plan:
    """What is scored of a tokenizer: as the attributes of ``TokenizerJob``."""

    metrics: tuple[str, ...]
    scale_metrics: tuple[str, ...]
    grid: tuple[tuple[float, int], ...]
    features: Any
    uncertainty: bool


class Candidate:
    """A tokenizer and its reconstructions: after each token map, if metrics ask for these; of the
    whole; with tokens perturbed, at each point of the grid."""

    def __init__(self, tokenizer: ImageTokenizer, plan: Plan) -> None:
        slots, size = tokenizer.slots, tokenizer.config.vocab_size
        self.plan = plan
        self.spans = [slots.span(scale) for scale in range(slots.num_scales)]
        self.points = grid_names(plan.grid) if plan.grid else []
        earlier = self.spans[:-1] if plan.scale_metrics else []
        self.stages = [fresh_metrics(plan.scale_metrics) for _ in earlier]
        self.whole = fresh_metrics(plan.metrics, plan.uncertainty)
        self.metrics = [*self.stages, self.whole, *(fresh_metrics(["rfid"]) for _ in plan.grid)]
        self.codes = CodeCounter(size)
        self.codes_of_scale = [CodeCounter(size) for _ in self.spans]
        self._plain = reconstruct_stages(tokenizer, whole=not self.stages, seen=self._count)
        self._perturbed = [perturbed_reconstruct(tokenizer, *point) for point in plan.grid]

    def reconstruct(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Iterator[np.ndarray]:
        """Those of a batch, one for each entry of ``metrics``."""
        yield from self._plain(pixels)
        for function in self._perturbed:
            yield function(pixels)

    def scores(self, each: Sequence[Sequence[Score]]) -> list[Score]:
        """The scores of the whole, of its codes and of the grid; details hold those of scales."""
        split = len(self.stages)
        stages, found, perturbed = each[:split], list(each[split]), each[split + 1 :]
        count = found[0].count
        codes = self.codes.scores(count)
        if self.stages:
            stages = [*stages, [score for score in found if score.name in self.plan.scale_metrics]]
            found = [with_scales(score, stages) for score in found]
        if len(self.spans) > 1:
            of_scales = [counter.scores(count) for counter in self.codes_of_scale]
            codes = [with_scales(score, of_scales) for score in codes]
        distance = [pfid(self.points, [score for (score,) in perturbed])] if self.points else []
        return [*found, *codes, *distance]

    def _count(self, ids: torch.Tensor) -> None:
        self.codes.add(ids)
        for (start, stop), counter in zip(self.spans, self.codes_of_scale, strict=True):
            counter.add(ids[:, start:stop])


def with_scales(score: Score, stages: Sequence[Sequence[Score]]) -> Score:
    """``score`` with the value after each token map in its details."""
    values = {
        f"{SCALE}{k}": other.value
        for k, scores in enumerate(stages, 1)
        for other in scores
        if other.name == score.name
    }
    return replace(score, details={**score.details, **values})


def changed(
    after: Sequence[Score], before: Sequence[Score], new: Candidate, old: Candidate
) -> list[Score]:
    """``after`` with the value before and the change in the details; for the metrics of pairs also
    the change's standard error, if it was asked for."""
    pairs = {a.name: (a, b) for a, b in zip(new.whole, old.whole, strict=True)}
    found = []
    for score, other in zip(after, before, strict=True):
        details = {BEFORE: other.value, CHANGE: score.value - other.value}
        a, b = pairs.get(score.name, (None, None))
        if new.plan.uncertainty and isinstance(a, PairMetric) and isinstance(b, PairMetric):
            error = error_of_change(b, a)
            details |= {} if error is None else {CHANGE_ERROR: error}
        found.append(replace(score, details={**score.details, **details}))
    return found


def pictures(
    images: ImageSource, tokenizer: ImageTokenizer, before: ImageTokenizer | None = None
) -> dict[str, UInt8[np.ndarray, "height width 3"]]:
    """``reconstructions``: originals, what the tokenizers make of them, and their errors;
    ``scales``, where there are several: after each token map. Images are from all over the set."""
    count = len(images)
    places = sorted({i * count // SHOWN for i in range(SHOWN)})
    originals = np.concatenate([p for i in places if len(p := images.read(i, i + 1).pixels)])
    stages = list(reconstruct_stages(tokenizer)(originals))
    made = {"reconstruction" if before is None else "after": stages[-1]}
    if before is not None:
        made = {"before": next(reconstruct_stages(before, whole=True)(originals)), **made}
    rows = {"original": originals}
    rows |= {said(name, originals, pixels): pixels for name, pixels in made.items()}
    rows |= {
        f"error{'' if before is None else f' {name}'}\nx {AMPLIFIED}": amplified(originals, pixels)
        for name, pixels in made.items()
    }
    found = {"reconstructions": sheet(rows)}
    if len(stages) > 1:
        grids = tokenizer.slots.grids
        names = [f"scale {k}: {w} x {h}" for k, (h, w) in enumerate(grids, 1)]
        steps = zip(names, stages, strict=True)
        rows = {said(name, originals, pixels): pixels for name, pixels in steps}
        found["scales"] = sheet(rows | {"original": originals})
    return found


def said(name: str, originals: np.ndarray, pixels: np.ndarray) -> str:
    """The name of a row of a sheet, with its mean PSNR."""
    return f"{name}\n{psnr(originals, pixels).mean():.1f} dB"


def amplified(
    originals: UInt8[np.ndarray, "n h w 3"], pixels: UInt8[np.ndarray, "n h w 3"]
) -> UInt8[np.ndarray, "n h w 3"]:
    """How far each value is off, ``AMPLIFIED`` times, up to 255; black where it is not."""
    off = np.abs(originals.astype(np.int16) - pixels)
    return np.minimum(off * AMPLIFIED, 255).astype(np.uint8)
