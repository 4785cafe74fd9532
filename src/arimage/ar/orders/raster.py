"""Raster order: one token at a time, row by row (next-token models, e.g. arXiv 2406.06525)."""

import torch
from torch import Tensor

from arimage.ar.base import Descriptors, Lesson, State, Step
from arimage.ar.draws import Draws
from arimage.ar.orders.base import CausalOrder
from arimage.shapes import Bool, Int


class RasterOrder(CausalOrder):
    """256 steps for a 16 x 16 grid. Position p + i holds token i and predicts token i + 1."""

    def groups(self) -> list[tuple[int, int]]:
        """One slot each."""
        return [(i, i + 1) for i in range(self.num_slots)]

    def sees(self, query: Descriptors, key: Descriptors) -> Bool[Tensor, "q k"]:
        """Causal: earlier groups, and inside the prefix earlier ranks."""
        earlier = key.group[None] < query.group[:, None]
        same = key.group[None] == query.group[:, None]
        return earlier | (same & (key.rank[None] <= query.rank[:, None]))

    def inputs(self, state: State, step: Step) -> Tensor | None:
        """The token chosen last, (b, 1)."""
        if step.start == 0:
            return None
        return state.ids.gather(1, step.holds.expand(len(state.ids), 1))

    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """All tokens but the last in; all tokens out."""
        counts = torch.ones_like(ids, dtype=torch.bool)
        return Lesson(ids[:, :-1], ids, counts, self.full_step())
