"""Classifier-free guidance (arXiv 2207.12598) in one convention: u + s (c - u), s = 1 is off.

c and u are the logits with the class and without. A schedule gives s for each step, or for each
token of a step. VAR's ``cfg = t`` is ``Linear`` with s = 1 + t; LlamaGen's and RAR's scales are the
same s.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor

from arimage.ar.base import Step
from arimage.registry import Registry
from arimage.sampling.named import make_named, record_of
from arimage.sampling.registry import SCHEDULES


@dataclass(frozen=True)
class Pass:
    """What a step does: it predicts so many ``cells`` of token map ``index`` of ``count``;
    ``first``, whether the map is predicted for the first time.
    """

    index: int
    count: int
    cells: int
    first: bool = True


def passes_of(steps: Sequence[Step]) -> list[Pass]:
    """What the steps of an order do."""
    maps = [step.scale for step in steps]
    firsts = [k == 0 or maps[k - 1] != maps[k] for k in range(len(maps))]
    return [
        Pass(step.scale, maps[-1] + 1, step.predicts, first)
        for step, first in zip(steps, firsts, strict=True)
    ]


class Schedule(ABC):
    """s as a function of the step; subclasses are dataclasses, their fields are its options.

    ``saves``: published code leaves out the pass without a class where s is 1.
    """

    saves: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, scale: float, index: int, num_steps: int) -> float | Tensor:
        """s at step ``index`` of ``num_steps`` when the user asked for ``scale``."""

    def bound(self, passes: Sequence[Pass], num_slots: int) -> "Schedule":
        """The same for the steps of an order, for schedules over more than their number."""
        return self


@dataclass(frozen=True)
class Bound(Schedule):
    """A schedule over tokens or maps that knows the steps; ``by``, s of a scale at a step."""

    by: Callable[[float, int], float | Tensor]

    def __call__(self, scale: float, index: int, num_steps: int) -> float | Tensor:
        """One number, or float64 (tokens, 1)."""
        return self.by(scale, index)


class TokenSchedule(Schedule):
    """s as a function of the tokens done; by steps alone, every step is one token."""

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As ``over`` says, at one token a step."""
        s = self.over(scale, index, index + 1, num_steps)
        return s if isinstance(s, float) else float(s)

    def bound(self, passes: Sequence[Pass], num_slots: int) -> Schedule:
        """By the tokens of each step; as it is where these do not sum to the slots."""
        ends = [0, *accumulate(each.cells for each in passes)]
        if ends[-1] != num_slots:
            return self
        return Bound(lambda scale, i: self.over(scale, ends[i], ends[i + 1], num_slots))

    @abstractmethod
    def over(self, scale: float, before: int, after: int, total: int) -> float | Tensor:
        """s of the step that takes the tokens done from ``before`` to ``after`` of ``total``: one
        number, or float64 (after - before, 1) with one for each token.
        """


@dataclass(frozen=True)
class Constant(Schedule):
    """s = scale at every step."""

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As the class says."""
        return scale


@dataclass(frozen=True)
class Linear(Schedule):
    """From 1 at the first step to ``scale`` at the last (VAR, over its scales).

    With ``last``, s is 1 after that step: the null rows of the steps that follow are saved.
    """

    last: int | None = None

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As the class says."""
        if self.last is not None and index > self.last:
            return 1.0
        return 1 + (scale - 1) * index / max(num_steps - 1, 1)


@dataclass(frozen=True)
class PowerCosine(Schedule):
    """1 + (scale - 1) (1 - cos(pi (t / num_steps) ** power)) / 2 (RAR, arXiv 2411.00776)."""

    saves: ClassVar[bool] = False
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

    LlamaGen's ``cfg_interval = i`` is first 0, last i + 1; last None means to the end, and so does
    a last step behind it.

    Raises:
        ValueError: an interval without a step; one behind the last step, when it is asked.
    """

    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        if self.first < 0 or (self.last is not None and self.last < self.first):
            raise ValueError(
                f"got an interval of guidance from step {self.first} to {self.last}; expected 0 <= "
                "first <= last, or last None for the end"
            )

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As the class says."""
        if self.first >= num_steps:
            raise ValueError(
                f"got an interval of guidance from step {self.first} and {num_steps} steps, which "
                "are counted from 0; begin it earlier"
            )
        last = num_steps - 1 if self.last is None else self.last
        return scale if self.first <= index <= last else 1.0


@dataclass(frozen=True)
class LinearAfter(TokenSchedule):
    """1 + (scale - 1) done / total, done counted after the step (ARPG, arXiv 2503.10568)."""

    def over(self, scale: float, before: int, after: int, total: int) -> float:
        """As the class says (hp-l33/ARPG@1a1758c models/arpg.py generate)."""
        return 1 + (scale - 1) * after / total


@dataclass(frozen=True)
class LinearBefore(TokenSchedule):
    """first + (scale - first) done / total, done counted before the step (RandAR, 2412.01827).

    Guidance is off at every step where the scale is 1, whatever ``first`` is.
    """

    first: float = 1.0

    def over(self, scale: float, before: int, after: int, total: int) -> float:
        """As the class says."""
        return 1.0 if scale == 1 else self.first + (scale - self.first) * before / total


@dataclass(frozen=True)
class LinearPerToken(TokenSchedule):
    """1 + (scale - 1) i / total for the token that is chosen as number i, from 0 on (LPD, arXiv
    2507.01957): another s for each token of a step.
    """

    def over(self, scale: float, before: int, after: int, total: int) -> Tensor:
        """As the class says (mit-han-lab/lpd models/lpd.py)."""
        return (1 + (scale - 1) * torch.arange(before, after).double() / total).unsqueeze(-1)


class MapSchedule(Schedule):
    """s as a function of the token map; by steps alone, every step is a map."""

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As ``over_maps`` says, at one map a step."""
        return self.over_maps(scale, Pass(index, num_steps, 1))

    def bound(self, passes: Sequence[Pass], num_slots: int) -> Schedule:
        """By the map of each step, where there are several."""
        if passes[-1].count == 1:
            return self
        return Bound(lambda scale, i: self.over_maps(scale, passes[i]))

    @abstractmethod
    def over_maps(self, scale: float, given: Pass) -> float:
        """s of a step that predicts a map."""


@dataclass(frozen=True)
class LinearByMap(MapSchedule):
    """1 + (scale - 1) k / (K - 1) at map k of K; 1 where a map is gone over again (HMAR, arXiv
    2506.04421, whose code has 1e-6 of the scale there: rounding).

    ``steps``: k is divided by no more, so that later maps have more than the scale (FlexVAR, arXiv
    2502.20313: 9). ``cells``: maps of more have the scale itself (there 16 x 16).
    """

    steps: int | None = None
    cells: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "cells"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"got {name} {value}; expected an integer above 0, or None")

    def over_maps(self, scale: float, given: Pass) -> float:
        """As the class says."""
        if not given.first:
            return 1.0
        if self.cells is not None and given.cells > self.cells:
            return scale
        last = max(given.count - 1, 1)
        return 1 + (scale - 1) * given.index / min(last, self.steps or last)


@dataclass(frozen=True)
class Guidance:
    """A scale with its schedule.

    kept: whether steps read keys and values of earlier ones, so that null rows are needed until
    the last step with guidance; otherwise only in steps with guidance.
    later: scales of a token's second part and those after it, where they have others.

    Raises:
        ValueError: a negative or non-finite scale.
    """

    scale: float = 1.0
    schedule: Schedule = Constant()
    kept: bool = True
    later: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for scale in (self.scale, *self.later):
            if not math.isfinite(scale) or scale < 0:
                raise ValueError(
                    f"got guidance_scale {scale}; expected a number >= 0, where 1 is off"
                )

    def part(self, index: int) -> "Guidance":
        """The guidance of a token's part ``index``; see ``ar.parts``."""
        if not self.later:
            return self
        scale = (self.scale, *self.later)[min(index, len(self.later))]
        return dataclasses.replace(self, scale=scale, later=())

    def bound(self, steps: Sequence[Step], num_slots: int, kept: bool) -> "Guidance":
        """The same for the steps of an order; ``kept``, whether later ones read what is kept."""
        schedule = self.schedule.bound(passes_of(steps), num_slots)
        return dataclasses.replace(self, schedule=schedule, kept=kept)

    def at(self, index: int, num_steps: int) -> float | Tensor:
        """s at a step: one number, or float64 (tokens, 1)."""
        return self.schedule(self.scale, index, num_steps)

    def of(self, step: Step) -> float | Tensor:
        """``at`` the step; where it looks ahead, float64 (tokens, 1)."""
        if not step.ahead:
            return self.at(step.index, step.num_steps)  # type: ignore[arg-type]
        indices = range(int(step.index), int(step.index) + step.predicts)
        scales = [float(self.at(index, step.num_steps)) for index in indices]
        return torch.tensor(scales, dtype=torch.float64).unsqueeze(-1)

    def guides(self, index: int, num_steps: int) -> bool:
        """Whether null rows are needed at a step: s is not 1 there or, if ``kept``, later."""
        if not self.kept:
            return not is_off(self.at(index, num_steps))
        return index <= self.last_active(num_steps)

    def doubles(self, index: int, num_steps: int) -> bool:
        """Whether published code runs the model a second time at a step, without a class."""
        return not self.schedule.saves or not is_off(self.at(index, num_steps))

    def last_active(self, num_steps: int) -> int:
        """The last step where some s is not 1; -1 if there is none: no null rows are needed."""
        parts = [self.part(index) for index in range(1 + len(self.later))]
        for i in reversed(range(num_steps)):
            if not all(is_off(part.at(i, num_steps)) for part in parts):
                return i
        return -1


def is_off(s: float | Tensor) -> bool:
    """Whether s is 1, for every token."""
    return bool((s == 1).all()) if isinstance(s, Tensor) else s == 1


def scale_table(guidance: Guidance, num_steps: int) -> Tensor:
    """s of every step, float64 (num_steps,), or (num_steps, most tokens) where tokens differ."""
    scales = [torch.as_tensor(guidance.at(i, num_steps)).double() for i in range(num_steps)]
    if all(s.ndim == 0 for s in scales):
        return torch.stack(scales)
    return torch.nn.utils.rnn.pad_sequence([s.reshape(-1) for s in scales], batch_first=True)


def make_schedule(
    schedule: str | dict[str, Any] | Schedule, registry: Registry[type[Schedule]] = SCHEDULES
) -> Schedule:
    """A schedule by registered name, with options or without, by a record, or as it is.

    Raises:
        KeyError: an unknown name or option, with the nearest known ones.
        ValueError: a text that cannot be read, or an option out of range.
    """
    return make_named(registry, Schedule, schedule)


def schedule_record(
    schedule: Schedule, registry: Registry[type[Schedule]] = SCHEDULES
) -> dict[str, Any]:
    """The name and the options of a schedule; ``make_schedule`` reads them.

    Raises:
        ValueError: a schedule that is not registered.
    """
    return record_of(registry, schedule)
