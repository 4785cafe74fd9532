"""FlexVAR: a next-scale transformer that runs over any token maps (arXiv 2502.20313).

Behaviour of jiaosiyu1999/FlexVAR@04462cb models/flexvar.py: VAR's, but for its positions. One
square map of them is learned and area-resized to each token map; scales have no embedding.
"""

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.ar.base import Step
from arimage.ar.var import VARConfig, VARContext, VARModel
from arimage.pretrained import strict
from arimage.shapes import Float, Int
from arimage.slots import SlotTable, square_grids

WAVE_BASE = 10000.0  # models/flexvar.py generate_2d_rotary_position_embedding


@strict
class FlexVARConfig(VARConfig):
    """As VARConfig; table: side of the map of learned positions.

    ``scales`` are those that it runs over unless told otherwise (``FlexVARModel.at``).
    """

    model_type = "arimage_flexvar"
    orders: ClassVar[tuple[str, ...]] = ("flexible_scale",)
    positive: ClassVar[tuple[str, ...]] = (*VARConfig.positive, "table")

    order: str = "flexible_scale"
    table: int = 32

    def validate_table(self) -> None:
        """No token map is larger, and half of the width turns with the rows."""
        check_maps(square_grids(self.scales), self.table)
        if self.width % 2:
            raise ValueError(f"got width {self.width}; expected an even number")


@dataclass(frozen=True)
class FlexVARContext(VARContext):
    """places (slots, width): positions of all token maps, of all rows alike."""

    places: Tensor


class FlexVARModel(VARModel):
    """Predicts one token map per step from the one before, whatever their sides."""

    config_class = FlexVARConfig
    config: FlexVARConfig

    def make_places(self, config: VARConfig) -> None:
        """One map of positions, row by row."""
        assert isinstance(config, FlexVARConfig)
        self._grids = square_grids(config.scales)
        self.position_embedding = nn.Parameter(waves(config.width, config.table))

    @property
    def slots(self) -> SlotTable:
        """The token maps that it runs over."""
        return SlotTable(self._grids)

    def at(self, grids: Sequence[tuple[int, int]]) -> "FlexVARModel":
        """The same weights over other token maps, (height, width) each; not for saving.

        Raises:
            ValueError: maps that do not grow from 1 x 1, or exceed the learned positions.
        """
        maps = tuple((int(height), int(width)) for height, width in grids)
        check_maps(maps, self.config.table)
        other = copy.copy(self)
        other._grids = maps
        return other

    def prepare(self, class_labels: Int[Tensor, " r"]) -> FlexVARContext:
        """VAR's, and the positions."""
        made = super().prepare(class_labels)
        fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
        return FlexVARContext(**fields, places=self.places())

    def places(self) -> Float[Tensor, "slots width"]:
        """The learned map, area-resized to each token map."""
        learned = self.position_embedding.T.unflatten(1, (self.config.table, -1))[None]
        maps = [F.interpolate(learned, grid, mode="area") for grid in self.slots.grids]
        return torch.cat([found[0].flatten(1).T for found in maps])

    def placed(
        self, x: Float[Tensor, "r m width"], context: VARContext, step: Step
    ) -> Float[Tensor, "r m width"]:
        """Adds positions."""
        assert isinstance(context, FlexVARContext)
        return x + step.take(context.places)


def check_maps(grids: Sequence[tuple[int, int]], table: int) -> None:
    """Raises ValueError unless the maps grow from 1 x 1 and the positions reach as far."""
    names = ", ".join(f"{height} x {width}" for height, width in grids)
    pairs = itertools.pairwise(grids)
    if list(grids[:1]) != [(1, 1)] or any(b == a or b[0] < a[0] or b[1] < a[1] for a, b in pairs):
        raise ValueError(
            f"got token maps {names or 'of no size'}; expected growing ones from 1 x 1, for "
            "example scales 1, 2, 3, 4 or 1, 2, 2x4, 4x8"
        )
    if max(grids[-1]) > table:
        raise ValueError(
            f"got token maps {names}; the learned positions reach {table} x {table}: leave larger "
            "maps out"
        )


def waves(width: int, side: int) -> Float[Tensor, "cells width"]:
    """Where positions start: even entries sines of the row, odd ones cosines of the column."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(WAVE_BASE) / width))
    angles = torch.arange(side)[:, None] * rates  # (side, width / 2)
    rows = angles.sin()[:, None].expand(side, side, -1)
    columns = angles.cos()[None].expand(side, side, -1)
    return torch.stack([rows, columns], dim=-1).reshape(side * side, width)
