"""The contracts of the room: extractor, reference, metric, score.

A feature extractor turns pixels into a ``FeatureBatch``. A ``Metric`` keeps what it needs of each
batch, merges with the same metric of another process, and computes one ``Score``, some of them
against a ``Reference``. A new metric is a subclass in ``metrics/`` and a line in ``registry.py``.
"""

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from arimage.eval.moments import Moments
from arimage.eval.registry import FEATURES
from arimage.eval.rows import Shared, joined
from arimage.eval.stream import Images
from arimage.shapes import Bool, Float, Int, UInt8


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number with what it takes to read it.

    ``count`` is the number of generated images, ``reference`` the name of the set they were
    compared with, ``features`` the extractor, ``standard_error`` that of the value where it was
    asked for and is known (each metric says what it covers), ``details`` the parts of the value,
    ``settings`` the arguments of the metric.
    """

    name: str
    value: float
    higher_is_better: bool
    count: int
    reference: str | None = None
    features: str | None = None
    standard_error: float | None = None
    details: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; what JSON has no number for becomes "inf", "-inf" or "nan"."""
        record = asdict(self)
        record["value"] = _json_number(self.value)
        if self.standard_error is not None:
            record["standard_error"] = _json_number(self.standard_error)
        record["details"] = {key: _json_number(part) for key, part in self.details.items()}
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Score":
        """The inverse of ``to_json``."""
        numbers = {"value": float(record["value"])}
        if record.get("standard_error") is not None:
            numbers["standard_error"] = float(record["standard_error"])
        details = {key: float(part) for key, part in record.get("details", {}).items()}
        return cls(**{**record, **numbers, "details": details})


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureBatch:
    """What an extractor says about b images: features (b, d), perhaps more.

    ``extractor`` names who said it; numbers of two extractors are never compared. ``spatial`` is
    what sFID compares (eval/features/inception.py), ``probabilities`` are of classes.

    Raises:
        ValueError: rows that do not agree, features that are not finite, probabilities whose
            rows do not sum to 1.
    """

    extractor: str
    features: Float[np.ndarray, "b d"]
    spatial: Float[np.ndarray, "b s"] | None = None
    probabilities: Float[np.ndarray, "b classes"] | None = None
    labels: Int[np.ndarray, " b"] | None = None

    def __post_init__(self) -> None:
        for part in ("spatial", "probabilities", "labels"):
            rows = getattr(self, part)
            if rows is not None and len(rows) != len(self.features):
                raise ValueError(
                    f"{self.extractor!r} gave {len(rows)} {part} for {len(self.features)} images"
                )
        for part in ("features", "spatial"):
            rows = getattr(self, part)
            if rows is not None and not np.isfinite(rows).all():
                raise ValueError(
                    f"the {part} of {self.extractor!r} hold NaN or infinity; check its weights"
                )
        if self.probabilities is not None and len(self):
            sums = self.probabilities.sum(axis=1)
            if self.probabilities.min() < 0 or np.abs(sums - 1).max() > 1e-3:
                raise ValueError(
                    f"the probabilities of {self.extractor!r} do not sum to 1 (apply a softmax)"
                )

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, which: Bool[np.ndarray, " b"]) -> "FeatureBatch":
        """Those of some images, without the spatial features."""
        parts = {key: getattr(self, key) for key in ("features", "probabilities", "labels")}
        kept = {key: None if part is None else part[which] for key, part in parts.items()}
        return FeatureBatch(extractor=self.extractor, **kept)

    @classmethod
    def concatenate(cls, batches: list["FeatureBatch"]) -> "FeatureBatch":
        """Batches of one extractor, in order, as one."""

        def joined(part: str) -> np.ndarray | None:
            rows = [getattr(batch, part) for batch in batches]
            return None if rows[0] is None else np.concatenate(rows)

        return cls(
            extractor=batches[0].extractor,
            features=np.concatenate([batch.features for batch in batches]),
            spatial=joined("spatial"),
            probabilities=joined("probabilities"),
            labels=joined("labels"),
        )


@runtime_checkable
class FeatureExtractor(Protocol):
    """Pixels in, features out."""

    @property
    def name(self) -> str:
        """Names everything that changes the numbers, the weights too."""
        ...

    def __call__(
        self, pixels: UInt8[np.ndarray, "b h w 3"], labels: Int[np.ndarray, " b"] | None = None
    ) -> FeatureBatch:
        """The features of ``pixels``; ``labels`` are passed through."""
        ...


class CallableFeatures:
    """Makes an extractor of any function from uint8 pixels (b, h, w, 3) to features (b, d)."""

    def __init__(self, function: Callable[[np.ndarray], Any]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def __call__(
        self, pixels: UInt8[np.ndarray, "b h w 3"], labels: Int[np.ndarray, " b"] | None = None
    ) -> FeatureBatch:
        """Calls the function; ValueError when it does not give one row of numbers per image."""
        rows = np.asarray(self.function(pixels))
        if rows.ndim != 2 or len(rows) != len(pixels) or rows.dtype.kind not in "fiu":
            raise ValueError(
                f"the feature function {self.name!r} gave {rows.dtype} of shape {rows.shape} for "
                f"{len(pixels)} images; expected numbers of shape ({len(pixels)}, d)"
            )
        kind = rows.dtype if rows.dtype == np.float64 else np.float32
        return FeatureBatch(extractor=self.name, features=rows.astype(kind), labels=labels)


def feature_extractor(features: Any) -> FeatureExtractor:
    """The extractor that ``features`` means: a registered name, "name=PATH" for other weights, an
    extractor, or any function.

    Raises:
        KeyError: an unknown name (with the nearest known ones).
        TypeError: something that cannot be called.
    """
    if isinstance(features, str):
        name, _, weights = features.partition("=")
        return FEATURES[name](weights) if weights else FEATURES[name]()
    if not callable(features):
        raise TypeError(
            f"got features of type {type(features).__name__}; expected a name "
            f"({', '.join(FEATURES)}) or a function from pixels to features"
        )
    return features if isinstance(features, FeatureExtractor) else CallableFeatures(features)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A real set as one extractor sees it: its moments always, its images' features perhaps.

    Published statistics have only a mean and a covariance; metrics that compare single images say
    so. ``sha256`` is of the pixels, of the file, or of the statistics where there is neither.
    ``spatial`` holds the moments that sFID compares with. ``images`` may be fewer than those of the
    moments (a published file has 10,000 of 1.28 million), and their spatial features are dropped.
    ``count`` is the number of images of the moments, ``size`` their (height, width), None where a
    file does not say; ``remark`` is what a reader of the scores should know; ``source``
    (eval/sources.py) gives the pixels of ``images``, row by row, where they are at hand.
    """

    name: str
    extractor: str
    moments: Moments
    images: FeatureBatch | None
    sha256: str
    spatial: Moments | None = None
    count: int | None = None
    size: tuple[int, int] | None = None
    remark: str = ""
    source: Any = None

    @property
    def features(self) -> Float[np.ndarray, "n d"]:
        """One row per image; only for metrics that declare ``needs = "images"``."""
        assert self.images is not None, "Metric.check_reference lets no such reference pass"
        return self.images.features

    @classmethod
    def from_pixels(
        cls,
        name: str,
        pixels: Images,
        extractor: Any,
        labels: Any = None,
        batch_size: int = 256,
    ) -> "Reference":
        """Extracts a real set once; ``pixels`` and ``extractor`` are what ``evaluate`` takes."""
        from arimage.eval.extraction import Pass
        from arimage.eval.references import from_images

        chosen, how = feature_extractor(extractor), Pass(batch_size=batch_size)
        return replace(from_images(pixels, chosen, how, name=name, labels=labels), name=name)

    @classmethod
    def from_moments(
        cls, name: str, extractor: str, mean: np.ndarray, covariance: np.ndarray, count: int
    ) -> "Reference":
        """Published statistics: mean (d,), covariance (d, d) of ``count`` images' features."""
        moments = Moments.from_covariance(mean, covariance, count)
        digest = hashlib.sha256(moments.mean.tobytes() + moments.covariance.tobytes())
        return cls(
            name=name,
            extractor=extractor,
            moments=moments,
            images=None,
            sha256=digest.hexdigest(),
            count=count,
        )


class Metric(ABC):
    """One number about a stream of images; the state is what ``merge`` needs, nothing else.

    Subclasses declare the class attributes and define ``add``, ``absorb`` and ``result``; the
    methods a caller uses (``update``, ``merge``, ``compute``) stay as they are here.

    Attributes:
        name: as in the registry and in the report.
        higher_is_better: the direction of the value.
        order_matters: whether the value depends on the order of the images.
        against: the set it compares with, as ``evaluate`` calls it; None for no set.
        needs: what of that set it needs.
        features: the registered extractor it brings itself; None for the caller's choice.
        uncertain: set it before the first update when a standard error is wanted; a metric that
            needs single images for one keeps them then.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    order_matters: ClassVar[bool]
    against: ClassVar[Literal["reference", "training"] | None] = None
    needs: ClassVar[Literal["moments", "images"]] = "moments"
    features: ClassVar[str | None] = None

    def __init__(self) -> None:
        self.count = 0
        self.extractor: str | None = None
        self.uncertain = False

    @abstractmethod
    def add(self, batch: FeatureBatch) -> None:
        """Takes what it needs of a batch, or raises ValueError before it changed anything."""

    @abstractmethod
    def absorb(self, other: Any) -> None:
        """Takes over the state of ``other``, whose images come after its own."""

    @abstractmethod
    def result(self, reference: Reference | None, shared: Shared) -> tuple[float, dict[str, float]]:
        """The value and its details; ``reference`` has been checked."""

    def standard_error(self, reference: Reference | None, shared: Shared) -> float | None:
        """That of the value, asked for after ``result`` if ``uncertain``; None if not known."""
        return None

    def update(self, batch: FeatureBatch) -> None:
        """Counts in a batch; ValueError when another extractor made the earlier ones."""
        self._expect(batch.extractor)
        self.add(batch)
        self.count += len(batch)
        self.extractor = batch.extractor

    def merge(self, other: "Metric") -> None:
        """Counts in the images that ``other`` saw, after its own."""
        if type(other) is not type(self):
            raise TypeError(
                f"cannot merge {type(other).__name__} into {self.name!r}; merge the same metric"
            )
        if not other.count:
            return
        self._expect(other.extractor)
        self.absorb(other)
        self.count += other.count
        self.extractor = other.extractor

    def compute(self, reference: Reference | None = None, shared: Shared | None = None) -> Score:
        """The score of all images so far; the state stays, so it may be called again.

        Metrics of one evaluation are given one dict as ``shared``, in which they find each other's
        work. Its entry "metrics", if there, lists them: one may then do what several need.

        Raises:
            ValueError: no images, too few for this metric, a reference that is missing or lacks
                what the metric needs.
        """
        if not self.count:
            raise ValueError(f"{self.name!r} has seen no image; call update first")
        self.check_reference(reference, self.extractor)
        shared = {} if shared is None else shared
        value, details = self.result(reference, shared)
        error = self.standard_error(reference, shared) if self.uncertain else None
        return Score(
            name=self.name,
            value=float(value),
            higher_is_better=self.higher_is_better,
            count=self.count,
            reference=reference.name if reference is not None and self.against else None,
            features=self.extractor,
            standard_error=None if error is None else float(error),
            details={key: float(part) for key, part in details.items()},
            settings=self.settings,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments it was made with, as far as they change the value."""
        names = inspect.signature(type(self).__init__).parameters
        return {n: getattr(self, n) for n in names if hasattr(self, n) and n != "device"}

    def check_reference(self, reference: Reference | None, extractor: str | None) -> None:
        """ValueError when ``reference`` cannot serve images seen by ``extractor``."""
        if self.against is None:
            return
        if reference is None:
            raise ValueError(
                f"{self.name!r} compares with a {self.against} set and got none; "
                f"pass {self.against}=, or leave {self.name!r} out"
            )
        if self.needs == "images" and reference.images is None:
            raise ValueError(
                f"{self.name!r} compares single images, but {reference.name!r} holds only a mean "
                "and a covariance; build it with Reference.from_pixels"
            )
        if reference.extractor != extractor:
            raise ValueError(
                f"{self.name!r} needs the {self.against} set {reference.name!r} seen by "
                f"{extractor!r}, but {reference.extractor!r} saw it; pass its images instead"
            )

    def _expect(self, extractor: str | None) -> None:
        if self.extractor not in (None, extractor):
            raise ValueError(
                f"{self.name!r} holds features of {self.extractor!r} and got some of "
                f"{extractor!r}; use one extractor, or a new metric"
            )


class RowMetric(Metric):
    """A metric that keeps one row per image and computes from all of them, in order."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[np.ndarray] = []

    def add(self, batch: FeatureBatch) -> None:
        """Keeps ``rows(batch)``."""
        self._pieces.append(self.rows(batch))

    def absorb(self, other: Any) -> None:
        """Appends the rows of ``other``."""
        self._pieces.extend(other._pieces)

    def rows(self, batch: FeatureBatch) -> Float[np.ndarray, "b d"]:
        """What is kept of a batch: its features, unless a subclass says otherwise."""
        return batch.features

    def collected(self, shared: Shared) -> Float[np.ndarray, "n d"]:
        """All rows so far, in order."""
        return joined(self._pieces, shared)
