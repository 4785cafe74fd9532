"""Classifier-free guidance (arXiv 2207.12598) in one convention: u + s (c - u), s = 1 is off.

c and u are the logits with the class and without. A schedule gives s for each step. VAR's
``cfg = t`` is ``Linear`` with s = 1 + t; LlamaGen's and RAR's scales are the same s.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import Any

from arimage.registry import unknown_name
from arimage.sampling.registry import SCHEDULES


class Schedule(ABC):
    """s as a function of the step; subclasses are dataclasses, their fields are its options."""

    @abstractmethod
    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """s at step ``index`` of ``num_steps`` when the user asked for ``scale``."""


@dataclass(frozen=True)
class Constant(Schedule):
    """s = scale at every step."""

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As the class says."""
        return scale


@dataclass(frozen=True)
class Linear(Schedule):
    """From 1 at the first step to ``scale`` at the last (VAR, over its scales)."""

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As the class says."""
        return 1 + (scale - 1) * index / max(num_steps - 1, 1)


@dataclass(frozen=True)
class PowerCosine(Schedule):
    """1 + (scale - 1) (1 - cos(pi (t / num_steps) ** power)) / 2 (RAR, arXiv 2411.00776)."""

    power: float = 1.0

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise ValueError(f"got power {self.power}; expected a number above 0")

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As the class says."""
        return 1 + (scale - 1) * (1 - math.cos(math.pi * (index / num_steps) ** self.power)) / 2


@dataclass(frozen=True)
class Interval(Schedule):
    """s = scale at steps first..last, both included, and 1 elsewhere (arXiv 2404.07724).

    LlamaGen's ``cfg_interval = i`` is first 0, last i + 1; last None means to the end.
    """

    first: int = 0
    last: int | None = None

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As the class says."""
        last = num_steps - 1 if self.last is None else self.last
        return scale if self.first <= index <= last else 1.0


@dataclass(frozen=True)
class Guidance:
    """A scale with its schedule.

    Raises:
        ValueError: a negative or non-finite scale.
    """

    scale: float = 1.0
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale < 0:
            raise ValueError(
                f"got guidance_scale {self.scale}; expected a number >= 0, where 1 is off"
            )

    def at(self, index: int, num_steps: int) -> float:
        """s at a step."""
        return self.schedule(self.scale, index, num_steps)

    def guides(self, index: int, num_steps: int) -> bool:
        """Whether null rows are needed at a step: s is not 1 there or at a later one."""
        return index <= self.last_active(num_steps)

    def last_active(self, num_steps: int) -> int:
        """The last step where s is not 1; -1 if there is none: no null rows are needed."""
        backwards = reversed(range(num_steps))
        return next((i for i in backwards if self.at(i, num_steps) != 1), -1)


def make_schedule(schedule: str | dict[str, Any] | Schedule) -> Schedule:
    """A schedule by registered name, by a record of name and options, or as it is.

    Raises:
        KeyError: an unknown name or option, with the nearest known ones.
    """
    if isinstance(schedule, Schedule):
        return schedule
    options = {"name": schedule} if isinstance(schedule, str) else dict(schedule)
    name = str(options.pop("name", ""))
    cls = SCHEDULES[name]
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise KeyError(unknown_name(f"option of the schedule {name!r}", option, known))
    return cls(**options)


def schedule_record(schedule: Schedule) -> dict[str, Any]:
    """The name and the options of a schedule; ``make_schedule`` reads them.

    Raises:
        ValueError: a schedule that is not registered.
    """
    for name in SCHEDULES:
        if SCHEDULES[name] is type(schedule):
            return {"name": name, **asdict(schedule)}  # type: ignore[call-overload]
    raise ValueError(
        f"{type(schedule).__name__} is not a registered guidance schedule; add it to SCHEDULES, so "
        "that its settings can be saved"
    )
