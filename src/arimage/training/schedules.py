"""How learning rate and weight decay move over a training."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """The learning rate at a step, as a share of its peak."""

    def factor(self, step: int, steps: int) -> float:
        """The share at ``step``, 0 <= step < steps."""
        ...


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The peak at every step."""

    def factor(self, step: int, steps: int) -> float:
        """The share at ``step``."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Up from zero over ``warmup`` of the steps, then half a cosine down to ``final``."""

    warmup: float = 0.1
    final: float = 0.0

    def factor(self, step: int, steps: int) -> float:
        """The share at ``step``."""
        first = round(self.warmup * steps)
        if step < first:
            return step / first
        passed = (step - first) / max(1, steps - first)
        share = max(0.0, 0.5 * (1 + math.cos(math.pi * passed)))
        return self.final + (1 - self.final) * share


@dataclass(frozen=True, kw_only=True)
class FlatThenLinear:
    """Up from ``start`` over ``warmup`` of the steps, flat for ``flat`` of the rest, then down.

    The last step has ``final``. VAR's ``lin0`` (FoundationVision/VAR@78b9539 utils/lr_control.py;
    its warm-up of ep/50 epochs is in utils/arg_util.py).
    """

    final: float
    warmup: float = 1 / 50
    start: float = 0.005
    flat: float = 0.05

    def factor(self, step: int, steps: int) -> float:
        """The share at ``step``."""
        first = round(self.warmup * steps)
        if step < first:
            return self.start + (1 - self.start) * step / first
        passed = (step - first) / max(1, steps - 1 - first)
        if passed < self.flat:
            return 1.0
        return self.final + (1 - self.final) * (1 - passed) / (1 - self.flat)


def half_cosine(start: float, end: float, step: int, steps: int) -> float:
    """From ``start`` at the first step to ``end`` at the last."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps - 1)))
