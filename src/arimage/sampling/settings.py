"""Settings: everything a user may choose about sampling, checked in one place."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from arimage.ar.base import Noise
from arimage.registry import unknown_name
from arimage.sampling.cache import check_cache_dtype
from arimage.sampling.cads import Annealing
from arimage.sampling.guidance import Guidance, Schedule, make_schedule, schedule_record
from arimage.sampling.named import make_named, record_of
from arimage.sampling.registry import ANNEALINGS, NOISES, SAMPLERS, SCHEDULES, TEMPERATURES
from arimage.sampling.samplers.base import PartSampler, Sampler

OF_PARTS = ("guidance_scale", "temperature", "top_k", "top_p")

SCHEDULE = "temperature_schedule"
SCHEDULED = {"guidance_schedule": SCHEDULES, SCHEDULE: TEMPERATURES}
ORDER_SETTINGS = ("num_steps", "choice_temperature", "refresh", "passes")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to sample; a saved generator carries its defaults in model_index.json.

    Attributes:
        guidance_scale: s in u + s (c - u); 1 is off.
        guidance_schedule: a registered name, perhaps with options ("interval first=1 last=2"), a
            record of both, or a Schedule.
        guide: a weaker generator over the same tokens, or its name (sampling/autoguidance.py).
        guide_scale: s in w + s (m - w), m and w the logits of the model and of ``guide``; 1 is off.
        annealing: noise on the class, less at each step: "cads", perhaps with options, or an
            Annealing (sampling/cads.py); None is off.
        temperature: of the categorical sampler; 0 is argmax.
        temperature_schedule: a registered name, or a Schedule of sampling/temperature.py.
        top_k, top_p: of the categorical sampler; None is off.
        num_steps: passes of the model, for orders that let one choose; None is the default.
        choice_temperature: scale of the noise on the confidence, for orders that keep the most
            confident tokens; None is the default.
        refresh: of the order "halton": only every so many passes compute everything, and those
            between reuse keys and values, which changes images; None is every pass.
        sampler: a registered name.
        more_smooth: of the categorical sampler; mixes codes, for next-scale models.
        rng: a registered kind of noise: "per_image", or "reference" for the stream of VAR's code.
        passes: for orders that go over a token map again (refined_scale): for each map, how many
            tokens are settled after each pass; None is one pass each.
        parts: for models that choose a token in parts (``ar.parts``): what differs for the second
            part and those after it, of guidance_scale, temperature, top_k and top_p, a record each.
        cache_dtype: "fp8" keeps keys and values in 8 bits, which changes images; None keeps them
            as they are (sampling/cache.py).

    Raises:
        ValueError: a setting out of range. KeyError: an unknown schedule, sampler or cache_dtype.
    """

    guidance_scale: float | int = 1.0
    guidance_schedule: str | Schedule = "constant"
    temperature: float | int = 1.0
    temperature_schedule: str | Schedule = "constant"
    top_k: int | None = None
    top_p: float | None = None
    num_steps: int | None = None
    choice_temperature: float | int | None = None
    refresh: int | None = None
    sampler: str = "categorical"
    more_smooth: bool = False
    rng: str = "per_image"
    cache_dtype: str | None = None
    guide: Any = None
    guide_scale: float | int = 1.0
    annealing: Any = None
    passes: Any = None
    parts: Sequence[dict[str, Any]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "passes", read_passes(self.passes))
        object.__setattr__(self, "parts", list(self.parts))  # as JSON gives them back
        for name in (name for part in self.parts for name in part):
            if name not in OF_PARTS:
                raise ValueError(unknown_name("setting of a token's part", name, OF_PARTS))
        self.guidance()
        self._check_branches()
        self.make_sampler()
        NOISES[self.rng]
        check_cache_dtype(self.cache_dtype)
        if self.more_smooth and (self.sampler != "categorical" or self.temperature == 0):
            raise ValueError(
                "more_smooth mixes the codes that may be drawn and greedy sampling draws none; "
                "leave one of them out"
            )

    def _check_branches(self) -> None:
        annealed, scale = self.condition_annealing() is not None, self.guide_scale
        if not (isinstance(scale, int | float) and 0 <= scale < float("inf")):
            raise ValueError(f"got guide_scale {scale}; expected a number >= 0, where 1 is off")
        if scale != 1 and self.guide is None:
            raise ValueError(
                f"got guide_scale {scale} and no guide; give guide, a weaker model over the same "
                "tokens"
            )
        if annealed and (scale != 1 or self.rng == "reference"):
            raise ValueError(
                "annealing draws from each image's own stream and changes the condition of one "
                "model; leave out guide_scale and rng='reference', or annealing"
            )

    def updated(self, changes: dict[str, Any]) -> "Settings":
        """A copy with some settings changed, of all parts; an unknown one is a TypeError."""
        names = [f.name for f in fields(self)]
        for name in changes:
            if name not in names:
                raise TypeError(unknown_name("sampling setting", name, names))
        kept = [{k: v for k, v in part.items() if k not in changes} for part in self.parts]
        return replace(self, **{"parts": kept} | changes)

    def check_fits(self, mixes: bool, parts: int) -> None:
        """Raises ValueError for settings of another kind of transformer.

        Args:
            mixes: whether it reads the canvas, so that codes may be mixed.
            parts: that it chooses a token in.
        """
        if self.more_smooth and not mixes:
            raise ValueError(
                "more_smooth mixes codes; this transformer reads ids: it is for next-scale models"
            )
        if len(self.parts) >= parts:
            raise ValueError(
                f"got settings of {len(self.parts)} more parts of a token; this transformer has "
                f"{parts - 1} after the first: give as many at most"
            )

    def guidance(self) -> Guidance:
        """The guidance these settings ask for."""
        scales = (part.get("guidance_scale", self.guidance_scale) for part in self.parts)
        schedule = make_schedule(self.guidance_schedule)
        return Guidance(float(self.guidance_scale), schedule, later=tuple(map(float, scales)))

    def condition_annealing(self) -> Annealing | None:
        """The ``Annealing`` these settings ask for; None where it is off."""
        given = self.annealing
        return None if given is None else make_named(ANNEALINGS, Annealing, given)

    def make_sampler(self) -> Sampler:
        """The sampler these settings ask for."""
        cls = SAMPLERS[self.sampler]
        names = vars(self).keys() & getattr(cls, "__dataclass_fields__", {}).keys()
        values = {name: getattr(self, name) for name in names}
        if SCHEDULE in values:
            values[SCHEDULE] = make_schedule(values[SCHEDULE], TEMPERATURES)
        later = ({k: v for k, v in part.items() if k in names} for part in self.parts)
        made = [cls(**values), *(cls(**values | changes) for changes in later)]
        return PartSampler(tuple(made)) if self.parts else made[0]

    @property
    def order_options(self) -> dict[str, Any]:
        """What is said of the order, as ``parts.make_order`` takes it."""
        given = {name: getattr(self, name) for name in ORDER_SETTINGS}
        return {name: value for name, value in given.items() if value is not None}

    def make_noise(self, seeds: Sequence[int], device: torch.device | str) -> Noise:
        """The random streams of a batch."""
        return NOISES[self.rng](seeds, device)

    def to_json(self) -> dict[str, Any]:
        """Plain values; objects become their names and options, a guide the name it has."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, registry in SCHEDULED.items():
            if isinstance(record[name], Schedule):
                record[name] = schedule_record(record[name], registry)
        if self.annealing is not None:
            record["annealing"] = record_of(ANNEALINGS, self.condition_annealing())
        if self.guide is not None and not isinstance(self.guide, str):
            origin = getattr(self.guide, "origin", None)
            record["guide"] = getattr(origin, "name", type(self.guide).__name__)
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Settings":
        """The inverse of ``to_json``.

        Raises:
            ValueError: an unknown setting, schedule or option, or a value out of range.
        """
        changes = dict(record)
        try:
            for name, registry in SCHEDULED.items():
                if isinstance(changes.get(name), dict):
                    changes[name] = make_schedule(changes[name], registry)
            return cls().updated(changes)
        except (KeyError, TypeError) as error:
            raise ValueError(f"cannot read the sampling settings: {error.args[0]}") from error


def read_passes(passes: Any) -> tuple[tuple[int, ...], ...] | None:
    """Token counts of passes as tuples, which can be compared and hashed; None as it is.

    Raises:
        ValueError: no list of lists of integers.
    """
    if passes is None:
        return None
    lists = isinstance(passes, list | tuple) and all(isinstance(p, list | tuple) for p in passes)
    if not lists or not all(type(count) is int for counts in passes for count in counts):
        raise ValueError(
            f"got passes {passes}; expected for each token map a list of token counts, for example "
            "[[1], [1, 3], [1, 1, 2, 5], [16]]"
        )
    return tuple(tuple(counts) for counts in passes)
