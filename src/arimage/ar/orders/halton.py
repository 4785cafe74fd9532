"""Halton order: masked prediction along a fixed path that spreads over the image (2503.17076).

The path is known beforehand, and so are the slots of each step: logits are computed for these
alone. Behaviour of valeoai/Halton-MaskGIT@f61b0a1 Sampler/halton_sampler.py.

With ``refresh`` most passes embed only the slots that were chosen since the last full pass and
those they predict; the others keep the keys and values of that pass (after ReCAP, 2505.19089). It
is an approximation from the second block on: the features of a slot that is left out no longer
follow what was chosen meanwhile.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, count, pairwise
from typing import ClassVar

import torch
from torch import Tensor

from arimage.ar.base import UNKNOWN, Draw, Known, Noise, State, Step
from arimage.ar.orders.base import Order, check_sizes
from arimage.ar.orders.masked import MaskedOrder
from arimage.shapes import Int
from arimage.slots import Fuser

NUM_STEPS = 32  # valeoai/Halton-MaskGIT@f61b0a1 README.md


def radical_inverses(base: int) -> Iterator[tuple[int, int]]:
    """The sequence of van der Corput from 1 on, as (numerator, denominator)."""
    for index in count(1):
        numerator, denominator = 0, 1
        while index:
            index, digit = divmod(index, base)
            numerator, denominator = numerator * base + digit, denominator * base
        yield numerator, denominator


def halton_path(height: int, width: int) -> Int[Tensor, " slots"]:
    """Cells, row by row, in the order in which the Halton sequence of bases 2 and 3 first hits
    them: rows by 2, columns by 3.
    """
    found: dict[int, None] = {}
    for (a, b), (c, d) in zip(radical_inverses(2), radical_inverses(3), strict=True):
        found.setdefault(height * a // b * width + width * c // d)
        if len(found) == height * width:
            return torch.tensor(list(found))
    raise AssertionError("the sequence has no end")


def group_sizes(num_slots: int, num_steps: int) -> list[int]:
    """Slots of each step: after step t as many are done as an arccos says, at least t + 1."""
    ends = []
    for index in range(num_steps):  # float32 and truncated, as in the reference
        done = torch.tensor((index + 1) / num_steps)
        share = 1 - done.acos() / (math.pi * 0.5)
        ends.append(max(int(share * num_slots), index + 1))
    return [b - a for a, b in pairwise((0, *ends))]


class HaltonOrder(MaskedOrder):
    """32 steps; a step predicts the next slots of the path from all that are chosen.

    Args:
        num_steps: passes of the model; at most the number of slots.
        rolled: each image begins at a place of the path of its own, drawn from its seed.
        sizes: slots of each step, to give them instead.
        refresh: pass 0 and every so many after it are full; None or 1: all are.
        schedule: of lessons, one of ``masked.SCHEDULES``.
        mask_id: as for the masked order.

    Raises:
        ValueError: sizes that do not sum to the slots, steps that are none or too many, a
            ``refresh`` below 1.
    """

    masks = False
    settings: ClassVar[tuple[str, ...]] = ("refresh",)
    default_steps: ClassVar[int] = NUM_STEPS
    teaches_all: ClassVar[bool] = True  # Utils/masking_scheduler.py of the same repository

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        num_steps: int | None = None,
        *,
        rolled: bool = True,
        sizes: Sequence[int] | None = None,
        refresh: int | None = None,
        schedule: str = "arccos",
        mask_id: int | None = None,
    ) -> None:
        steps = num_steps if sizes is None else len(sizes)
        super().__init__(fuser, prefix_length, device, steps, schedule=schedule, mask_id=mask_id)
        slots = self.num_slots
        self.sizes = list(sizes) if sizes is not None else group_sizes(slots, self.num_steps)
        check_sizes(self.sizes, slots)
        if refresh is not None and refresh < 1:
            raise ValueError(
                f"got refresh {refresh}; expected 1 or more: of so many passes one computes all"
            )
        self.refresh = refresh or 1
        self.cached = self.refresh > 1
        self.spans = list(pairwise((0, *accumulate(self.sizes))))
        self.path, self.rolled = halton_path(*fuser.slots.grids[-1]).to(self.device), rolled

    def start(self, noise: Noise, known: Known | None = None) -> State:
        """The state before the first step, with each image's path where they are rolled."""
        state = super().start(noise, known)
        if not self.rolled:
            return state
        offsets = noise.integers(self.num_slots)
        places = torch.arange(self.num_slots, device=self.device) - offsets.unsqueeze(1)
        return dataclasses.replace(state, path=self.path[places % self.num_slots])

    def step(self, index: int) -> Step:
        """Everything is embedded, or what changed since; the step's places of the path are read."""
        step = dataclasses.replace(super().step(index), cached=self.cached)
        return self._along(self.path, step)

    def inputs(self, state: State, step: Step) -> Tensor:
        """Ids of the slots that the step embeds, (b, m) without the prefix; UNKNOWN where open."""
        ids = super().inputs(state, step)
        return ids.gather(1, step.holds.expand(len(ids), -1)) if step.scattered else ids

    def placed(self, step: Step, state: State) -> Step:
        """The step at the places of each image's path."""
        return step if state.path is None else self._along(state.path, step)

    def stream(self, noise: Noise, step: Step) -> Noise:
        """Published code draws a token for every slot and keeps those of the step."""
        return noise.among(step.slots, self.num_slots)

    def commit(self, state: State, step: Step, draw: Draw, noise: Noise) -> State:
        """All draws are kept."""
        if self.mask_id is None:
            return Order.commit(self, state, step, draw, noise)
        real = dataclasses.replace(draw, ids=draw.ids.clamp_max(self.mask_id - 1))
        after = Order.commit(self, state, step, real, noise)
        if int(step.index) == self.num_steps - 1:
            return dataclasses.replace(
                after, ids=after.ids.masked_fill(after.ids == UNKNOWN, self.mask_id - 1)
            )
        slots = step.slots.expand_as(draw.ids)
        masked = draw.ids == self.mask_id
        if state.known is not None:
            masked = masked & ~state.known.mask.gather(1, slots)
        ids = after.ids.gather(1, slots).masked_fill(masked, UNKNOWN)
        return dataclasses.replace(after, ids=after.ids.scatter(1, slots, ids))

    def draws(self, step: Step) -> int:
        """None."""
        return 0

    def _along(self, path: Tensor, step: Step) -> Step:
        index = int(step.index)
        first, stop = self.spans[index]
        slots = path[..., first:stop]
        since = self.spans[index - index % self.refresh][0]
        if since == first:
            return dataclasses.replace(step, slots=slots, reads=slots + self.prefix_length)
        changed = path[..., since:stop]
        return dataclasses.replace(
            step,
            slots=slots,
            positions=changed + self.prefix_length,
            start=self.prefix_length,
            holds=changed,
            reads=torch.arange(first - since, stop - since, device=self.device),
            scattered=True,
        )
