"""Order by regions: tokens far apart are predicted together (PAR, arXiv 2412.15119).

The grid is cut into n equal regions, sqrt(n) per side. First the upper left token of each region,
one at a time; then, at each step, the token at the next place of every region, n at once. n - 1
special tokens, fed with the last of the first n, open the first group of n. Behaviour of
Epiphqny/PAR@d96acea autoregressive/models/gpt.py, generate.py.
"""

import dataclasses
import math
from functools import cached_property

import torch
from torch import Tensor

from arimage.ar.base import (
    CONTENT,
    NO_SLOT,
    PREFIX,
    QUERY,
    UNKNOWN,
    Descriptors,
    Lesson,
    State,
    Step,
)
from arimage.ar.draws import Draws
from arimage.ar.orders.base import CausalOrder
from arimage.shapes import Bool, Int
from arimage.slots import Fuser


class RegionOrder(CausalOrder):
    """147 steps for a 24 x 24 grid in 4 regions, 51 in 16.

    Position p - 1 + i predicts the slot at place i of the path, as in raster order; but positions
    p + n to p + 2n - 2 hold the special tokens, and tokens from number n on come after them.
    Special token j is fed as the id UNKNOWN - j.

    Args:
        regions: n, a square number whose root divides both sides of the grid.

    Raises:
        ValueError: regions that do not divide the grid.
    """

    def __init__(
        self, fuser: Fuser, prefix_length: int, device: torch.device | str, regions: int = 4
    ) -> None:
        self.regions = regions
        self.path = region_path(fuser.slots.grids[-1], regions).to(device)
        super().__init__(fuser, prefix_length, device)

    def groups(self) -> list[tuple[int, int]]:
        """Places in the path: n of one, then groups of n."""
        n = self.regions
        ones = [(i, i + 1) for i in range(n)]
        return ones + [(i, i + n) for i in range(n, self.num_slots, n)]

    def describe(self) -> Descriptors:
        """As for every order of fixed groups; special tokens are queries without a place."""
        places = super().describe()
        held, table = self._table.cpu(), self.fuser.slots
        kind = torch.where(held == NO_SLOT, QUERY, CONTENT)
        kind[: self.prefix_length] = PREFIX
        slots = held.clamp_min(0)
        return dataclasses.replace(
            places, kind=kind, row=table.row[slots], column=table.column[slots]
        )

    def sees(self, query: Descriptors, key: Descriptors) -> Bool[Tensor, "q k"]:
        """Earlier groups and the own one, whole; the prefix is causal."""
        earlier = key.group[None] < query.group[:, None]
        same = key.group[None] == query.group[:, None]
        whole = (query.group > 0)[:, None] | (key.rank[None] <= query.rank[:, None])
        return earlier | (same & whole)

    def inputs(self, state: State, step: Step) -> Tensor | None:
        """The tokens of the group before, (b, m); special tokens before the first group of n."""
        if step.start == 0:
            return None
        ids = state.ids.gather(1, step.holds.clamp_min(0).expand(len(state.ids), -1))
        return torch.where(step.holds == NO_SLOT, step.take(self._special), ids)

    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """All tokens but those of the last group in, with the special ones; all tokens out, in the
        order of ``Lesson.step.slots``. The rule is that of decoding.
        """
        held = self._table[self.prefix_length :]
        special = self._special[self.prefix_length :]
        inputs = torch.where(held == NO_SLOT, special, ids[:, held.clamp_min(0)])
        counts = torch.ones_like(ids, dtype=torch.bool)
        return Lesson(inputs, ids[:, self.path], counts, self.full_step())

    def full_step(self) -> Step:
        """The whole sequence; slots in the order of the path."""
        return dataclasses.replace(super().full_step(), slots=self.path)

    @cached_property
    def _table(self) -> Int[Tensor, " length"]:
        """The slot that each position holds."""
        n, none = self.regions, torch.full((self.prefix_length,), NO_SLOT, device=self.path.device)
        special = none.new_full((n - 1,), NO_SLOT)
        held = [none, self.path[:n], special, self.path[n : self.num_slots - n]]
        return torch.cat(held)[: self.length]

    @cached_property
    def _special(self) -> Int[Tensor, " length"]:
        """The ids of the special tokens, at their positions."""
        first = self.prefix_length + self.regions
        return UNKNOWN + first - torch.arange(self.length, device=self.path.device)

    def _held(self, start: int, stop: int) -> Int[Tensor, " m"]:
        return self._table[start:stop]

    def _make_step(self, index: int, span: tuple[int, int], places: Descriptors) -> Step:
        made = super()._make_step(index, span, places)
        return dataclasses.replace(made, slots=self.path[span[0] : span[1]])


def region_path(grid: tuple[int, int], regions: int) -> Int[Tensor, " slots"]:
    """Slots in the order of decoding: by place inside the region, then by region.

    Raises:
        ValueError: ``check_regions``.
    """
    check_regions(grid, regions)
    (height, width), side = grid, math.isqrt(regions)
    cells = torch.arange(height * width).view(side, height // side, side, width // side)
    return cells.permute(1, 3, 0, 2).flatten()


def check_regions(grid: tuple[int, int] | list[int], regions: int) -> None:
    """Raises ValueError unless the grid is cut into so many equal regions, as many per side."""
    side = math.isqrt(max(regions, 0))
    if regions < 1 or side * side != regions or grid[0] % side or grid[1] % side:
        raise ValueError(
            f"got {regions} regions for a grid of {grid[0]} x {grid[1]} tokens; steps of one token "
            "per region sum to the grid where the number is a square (4, 16) whose root divides "
            "both sides"
        )
