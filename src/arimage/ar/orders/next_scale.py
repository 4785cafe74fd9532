"""Next-scale order: one token map per step, coarse to fine (VAR, arXiv 2404.02905)."""

import torch
from torch import Tensor

from arimage.ar.base import Descriptors, Lesson, State, Step
from arimage.ar.draws import Draws
from arimage.ar.orders.base import CausalOrder
from arimage.shapes import Bool, Int


class NextScaleOrder(CausalOrder):
    """10 steps for VAR at 256 px. A step sees the canvas resized to the map that it predicts."""

    mixes = True

    def groups(self) -> list[tuple[int, int]]:
        """One token map each."""
        table = self.fuser.slots
        return [table.span(k) for k in range(table.num_scales)]

    def sees(self, query: Descriptors, key: Descriptors) -> Bool[Tensor, "q k"]:
        """Block-causal: the own token map and all coarser ones."""
        return key.group[None] <= query.group[:, None]

    def inputs(self, state: State, step: Step) -> Tensor | None:
        """The canvas at the size of the map to predict, (b, n, code_dim)."""
        return None if step.index == 0 else self.fuser.view(state.canvas, step.scale)

    @torch.no_grad()
    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """Views of the canvas as generation would see it, scales 1 and up; all tokens out."""
        views, canvas = [self.fuser.lookup(ids[:, :0])], self.fuser.blank(len(ids))
        for scale in range(self.fuser.slots.num_scales - 1):
            slots = torch.arange(*self.fuser.slots.span(scale), device=ids.device)
            canvas = self.fuser.fuse(canvas, scale, slots, self.fuser.lookup(ids[:, slots]))
            views.append(self.fuser.view(canvas, scale + 1))
        counts = torch.ones_like(ids, dtype=torch.bool)
        return Lesson(torch.cat(views, dim=1), ids, counts, self.full_step())

    def _content_offset(self) -> int:
        return self.prefix_length - 1
