"""Windows that slide over a canvas of tokens, each given what those before it drew: out-painting.

The canvas has more cells than the model's token map. Windows of the map's size go outwards from
the image, the near ones first, by half of a side each, so that a window has half of its cells
given. Sliding windows over tokens: arXiv 2012.09841, section 3.3; with given tokens anywhere, as
masked models take them: arXiv 2202.04200, section 4.3. Half of a side is our choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arimage.ar.base import UNKNOWN, Known
from arimage.ar.orders.base import Order
from arimage.shapes import Bool, Int

Place = tuple[int, int]


@dataclass(frozen=True)
class Slide:
    """Cells of a canvas and where windows go.

    Attributes:
        grid: (height, width) of a window, and of the image that is given.
        canvas: (height, width) in cells.
        start: upper left cell of the image.
        places: upper left cells of the windows, in the order in which they are drawn.
    """

    grid: tuple[int, int]
    canvas: tuple[int, int]
    start: Place
    places: tuple[Place, ...]

    @classmethod
    def around(cls, grid: tuple[int, int], left: int, right: int, top: int, bottom: int) -> "Slide":
        """Margins in cells."""
        canvas, start = (grid[0] + top + bottom, grid[1] + left + right), (top, left)
        rows, columns = (offsets(*sizes) for sizes in zip(grid, canvas, start, strict=True))
        found = sorted((i + j, i, y, x) for i, y in rows for j, x in columns)
        places = tuple((y, x) for *_, y, x in found if (y, x) != start)
        return cls(grid, canvas, start, places)

    def window(self, place: Place) -> tuple[slice, slice]:
        """Rows and columns of a window."""
        (y, x), (height, width) = place, self.grid
        return slice(y, y + height), slice(x, x + width)

    def blank(self, ids: Int[Tensor, "b slots"]) -> Int[Tensor, "b h w"]:
        """The canvas with the image's ids, UNKNOWN around them."""
        cells = ids.new_full((len(ids), *self.canvas), UNKNOWN)
        cells[:, *self.window(self.start)] = ids.unflatten(1, self.grid)
        return cells

    def known(self, cells: Int[Tensor, "b h w"], place: Place) -> Known:
        """What a window finds."""
        ids = cells[:, *self.window(place)].flatten(1)
        return Known(ids, ids != UNKNOWN)

    def put(self, cells: Int[Tensor, "b h w"], place: Place, ids: Int[Tensor, "b slots"]) -> None:
        """Writes what a window drew."""
        cells[:, *self.window(place)] = ids.unflatten(1, self.grid)

    def check(self, order: Order) -> None:
        """Raises ValueError where a window's order draws all before it sees what is given."""
        cells = self.blank(torch.zeros(1, order.num_slots, dtype=torch.long))
        for place in self.places:
            mask = self.known(cells, place).mask[0]
            if not steers(order, mask):
                raise ValueError(
                    "the order of this model draws the tokens of that margin before it sees any of "
                    "the image: give other margins (right and bottom always work), or use a model "
                    "of masked or random order"
                )
            self.put(cells, place, torch.zeros(1, order.num_slots, dtype=torch.long))


def offsets(size: int, cells: int, start: int) -> list[tuple[int, int]]:
    """(how many windows from the first, offset) of windows of ``size`` that cover a side."""
    step, last = max(1, size // 2), cells - size
    after = [min(at, last) for at in range(start + step, last + step, step)]
    before = [max(at, 0) for at in range(start - step, -step, -step)]
    found = [start, *after], [start, *before]
    return sorted({(i, at) for side in found for i, at in enumerate(side)})


def steers(order: Order, given: Bool[Tensor, " slots"]) -> bool:
    """Whether some slot that is drawn comes after some that is given, or there is none to draw."""
    if not bool(given.any()):
        return False
    if order.given_first or bool(given.all()):
        return True
    first = torch.empty(order.num_slots, dtype=torch.long)
    for index in range(order.num_steps):
        first[order.step(index).slots.cpu()] = index
    return bool(first[given].min() < first[~given].max())


def window_seeds(seeds: Sequence[int], number: int) -> list[int]:
    """Seeds of window ``number``: another stream of each image's own."""
    states = (np.random.SeedSequence([seed, number]) for seed in seeds)
    return [int(state.generate_state(1, np.uint64)[0] >> np.uint64(1)) for state in states]
