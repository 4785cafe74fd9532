"""Which steps one captured graph serves, and a step whose place is in tensors.

A graph repeats what was captured, Python numbers and shapes included. Steps of one shape (single
tokens) share graphs: what differs from step to step comes out of tables by the step's index, a
tensor, and attention reads the cache up to the end of a *bucket*, under a mask, so that a short
prefix is not read at full length. A step of a shape of its own (a token map) has its own graph,
which reads exactly what it needs.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from arimage.ar.base import Step
from arimage.ar.orders.base import Order
from arimage.shapes import Bool, Int

BUCKET = 64  # positions; a graph for each, and on average half a bucket is read in vain
TABLES = ("positions", "slots", "holds")  # of a step, where several share a graph


@dataclass(frozen=True)
class MovingStep(Step):
    """A step of a graph that serves several: ``index`` is a tensor, ``positions`` say where it is.

    ``start`` says whether the prefix comes first (0 or not), ``stop`` how many rows are visible.
    """

    index: Any
    moves: ClassVar[bool] = True

    def take(self, table: Tensor) -> Tensor:
        """The step's rows of a table that has one for every position."""
        return table.index_select(0, self.positions)


@dataclass(frozen=True)
class Group:
    """Steps ``first``, ``first`` + 1, ... that one graph serves; tables have a row for each."""

    first: int
    steps: tuple[Step, ...]
    positions: Tensor
    slots: Tensor
    holds: Tensor
    mask: Tensor

    @classmethod
    def of(cls, steps: tuple[Step, ...], visible: int) -> "Group":
        """Tables of steps of one shape, which read ``visible`` rows of the cache."""
        tables = (torch.stack([getattr(s, name) for s in steps]) for name in TABLES)
        mask = torch.stack([padded_mask(step, visible) for step in steps])
        return cls(int(steps[0].index), steps, *tables, mask)

    def __contains__(self, index: int) -> bool:
        return self.first <= index < self.first + len(self.steps)

    def step(self, index: Int[Tensor, " 1"]) -> Step:
        """The step of an index in a tensor; the only step of a group as it is."""
        only = self.steps[0]
        if len(self.steps) == 1:
            return only
        at = index - self.first
        positions, slots, holds, mask = (
            table.index_select(0, at).squeeze(0)
            for table in (self.positions, self.slots, self.holds, self.mask)
        )
        return MovingStep(
            index=index.squeeze(0),
            num_steps=only.num_steps,
            scale=only.scale,
            slots=slots,
            positions=positions,
            start=only.start,
            stop=mask.shape[-1],
            cached=True,
            mask=mask,
            holds=holds,
        )


def padded_mask(step: Step, visible: int) -> Bool[Tensor, "m visible"]:
    """What a step may see of ``visible`` rows: none that are written later."""
    rows = len(step.positions)
    mask = step.mask
    if mask is None:
        mask = torch.ones(rows, step.stop, dtype=torch.bool, device=step.positions.device)
    return F.pad(mask, (0, visible - mask.shape[-1]))


def groups_of(order: Order, bucket: int = BUCKET, cuts: Sequence[int] = ()) -> list[Group]:
    """All steps of an order, in groups that a graph can serve; none goes over a step of ``cuts``.

    Only cached steps that follow the prefix move; the first step embeds it. Visible rows end at a
    multiple of ``bucket``, or with the sequence.
    """
    steps = [order.step(i) for i in range(order.num_steps)]

    def kind(step: Step) -> tuple[int, ...]:
        return (sum(int(step.index) >= cut for cut in cuts), *shape_of(step, bucket))

    groups = (tuple(group) for _, group in itertools.groupby(steps, kind))
    return [Group.of(group, visible_rows(group, bucket, order.length)) for group in groups]


def visible_rows(steps: tuple[Step, ...], bucket: int, length: int) -> int:
    """Rows of the cache that steps of one graph read: their bucket, or what the only one needs."""
    last = steps[-1].stop
    return last if len(steps) == 1 else min(-(-last // bucket) * bucket, length)


def shape_of(step: Step, bucket: int) -> tuple[int, ...]:
    """Equal for steps that a graph can serve together."""
    fixed = step.reads is not None or step.slots.ndim > 1  # places of its own, or of each image
    if not step.cached or step.start == 0 or fixed:
        return (int(step.index),)
    return (-1, len(step.positions), step.predicts, step.scale, -(-step.stop // bucket))
