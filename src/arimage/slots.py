"""Slots: where the tokens of an image live, and how chosen tokens become what comes next.

Shared by the tokenizers, which publish slots, and the orders, which walk over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from arimage.shapes import Float, Int


@dataclass(frozen=True)
class SlotTable:
    """The slots of one image: scale k, row y, column x, one entry per token, scale by scale.

    ``grids`` holds (height, width) of each token map, coarse to fine; a next-token tokenizer has
    one map, VAR's ten. Token ids of an image are stored in this order, shape (b, num_slots).
    """

    grids: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.grids or any(h < 1 or w < 1 for h, w in self.grids):
            raise ValueError(f"got grids {self.grids}; expected at least one (height, width) >= 1")

    @property
    def num_slots(self) -> int:
        """Tokens per image."""
        return sum(h * w for h, w in self.grids)

    @property
    def num_scales(self) -> int:
        """Token maps per image."""
        return len(self.grids)

    def span(self, scale: int) -> tuple[int, int]:
        """First slot of token map ``scale`` and the one after its last."""
        sizes = [h * w for h, w in self.grids]
        start = sum(sizes[:scale])
        return start, start + sizes[scale]

    @cached_property
    def scale(self) -> Int[Tensor, " slots"]:
        """Token map of each slot."""
        return torch.cat([torch.full((h * w,), k) for k, (h, w) in enumerate(self.grids)])

    @cached_property
    def row(self) -> Int[Tensor, " slots"]:
        """Row of each slot inside its token map."""
        return torch.cat([torch.arange(h).repeat_interleave(w) for h, w in self.grids])

    @cached_property
    def column(self) -> Int[Tensor, " slots"]:
        """Column of each slot inside its token map."""
        return torch.cat([torch.arange(w).repeat(h) for h, w in self.grids])


def square_grids(sides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(side, side) for each side."""
    return tuple((side, side) for side in sides)


@runtime_checkable
class Fuser(Protocol):
    """What an order needs of a tokenizer. A canvas is what the chosen tokens add up to so far.

    Three kinds cover what is published: look-up (next-token, masked), accumulate-and-upsample
    (VAR), replace-and-resize (FlexVAR).
    """

    @property
    def slots(self) -> SlotTable:
        """The slots of one image."""
        ...

    def blank(self, batch: int) -> Float[Tensor, "b c h w"]:
        """The canvas before the first token."""
        ...

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Code vectors of ids."""
        ...

    def fuse(
        self,
        canvas: Float[Tensor, "b c h w"],
        scale: int,
        slots: Int[Tensor, "*b n"],
        codes: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b c h w"]:
        """The canvas after ``codes`` were chosen for ``slots`` (or one set per image)."""
        ...

    def view(self, canvas: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b n c"]:
        """The canvas as a model that predicts token map ``scale`` sees it."""
        ...
