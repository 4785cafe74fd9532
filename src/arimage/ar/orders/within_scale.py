"""One token map per step, each seen by itself alone (MVAR, arXiv 2505.12742; M-VAR, 2411.10433).

What came before reaches a map through its input, the canvas, and through a state where the model
keeps one (``Backbone.new_cache``); no keys and values are kept. In the maps from ``window_from`` on
a token sees ``window`` x ``window`` tokens. Behaviour of CVL-UESTC/MVAR@d0e035a models/mvar.py and
models/basic_mvar.py, whose ``na2d`` (NATTEN) shifts the window at the borders, so that all tokens
see as many.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from arimage.ar.base import Descriptors, Step
from arimage.ar.orders.next_scale import NextScaleOrder
from arimage.shapes import Bool, Int
from arimage.slots import Fuser


class WithinScaleOrder(NextScaleOrder):
    """As many steps as token maps; training and decoding have one rule.

    Args:
        window: side of the square that a token sees, an odd number; None is the whole map.
        window_from: the first map with windows.

    Raises:
        ValueError: a window that is even or larger than a map.
    """

    cached = False

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        window: int | None = None,
        window_from: int = 0,
    ) -> None:
        check_window([min(grid) for grid in fuser.slots.grids], window, window_from)
        self.window, self.window_from = window, window_from
        super().__init__(fuser, prefix_length, device)

    def sees(self, query: Descriptors, key: Descriptors) -> Bool[Tensor, "q k"]:
        """The own token map, or the window in it."""
        same = key.group[None] == query.group[:, None]
        if self.window is None:
            return same
        height, width = torch.tensor(self.fuser.slots.grids)[query.group].unbind(1)
        near = within(query.row, key.row, height, self.window)
        near &= within(query.column, key.column, width, self.window)
        return same & (near | (query.group < self.window_from)[:, None])

    def _make_step(self, index: int, span: tuple[int, int], places: Descriptors) -> Step:
        step = super()._make_step(index, span, places)
        own = places.part(step.start, step.stop)
        return dataclasses.replace(step, cached=False, mask=self._mask(own, own))


def within(
    query: Int[Tensor, " q"], key: Int[Tensor, " k"], side: Int[Tensor, " q"], window: int
) -> Bool[Tensor, "q k"]:
    """Along one axis: whether each key is in the query's window, which stays inside the map."""
    first = torch.minimum((query - window // 2).clamp_min(0), side - window)
    return (key[None] >= first[:, None]) & (key[None] < (first + window)[:, None])


def check_window(sides: Sequence[int], window: int | None, window_from: int) -> None:
    """Raises ValueError unless the window is odd and fits into all maps that have one."""
    if window is None:
        return
    smallest = min(sides[max(window_from, 0) :], default=window)
    if window < 1 or window % 2 == 0 or window_from < 0 or smallest < window:
        raise ValueError(
            f"got a window of {window} from token map {window_from} on, over maps of sides "
            f"{', '.join(map(str, sides))}; expected an odd side that is at most that of each map "
            "with windows"
        )
