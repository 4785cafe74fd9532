"""Next-scale order whose maps replace each other: FlexVAR (arXiv 2502.20313).

A step sees the codes of the map before, resized to its own size: not the sum of all, as VAR's. So
maps may be left out, and any that grow will do. Behaviour of jiaosiyu1999/FlexVAR@04462cb
models/flexvar.py; lessons, trainer.py.
"""

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from arimage.ar.base import Lesson, State, Step
from arimage.ar.draws import Draws, uniform
from arimage.ar.orders.next_scale import NextScaleOrder
from arimage.shapes import Bool, Float, Int

# Of trainer.py gen_curr_patch_nums: how often all maps are taught; how many otherwise, besides the
# first two and the last; and above which number another one is left out.
WHOLE, MIDDLE, LEFT_OUT = 0.05, 7, (0.9, 0.95, 0.98, 0.99)


class FlexibleScaleOrder(NextScaleOrder):
    """As many steps as there are maps; context is block-causal, as VAR's."""

    mixes: ClassVar[bool] = False
    masks: ClassVar[bool] = True
    replaces: ClassVar[bool] = True

    def inputs(self, state: State, step: Step) -> Tensor | None:
        """The codes of the map before at the size of the map to predict, (b, n, code_dim)."""
        if step.index == 0:
            return None
        span = slice(*self.fuser.slots.span(step.scale - 1))
        return self._resized(self.fuser.lookup(state.ids[:, span]), step.scale - 1, step.scale)

    @torch.no_grad()
    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """Some maps are left out for each image: nothing sees them and they do not count.

        The published code draws new sides for each batch; here they are those of the tokens.
        """
        return self._taught(ids, self.kept(len(ids), draws))

    @torch.no_grad()
    def replay(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """All maps."""
        count = self.fuser.slots.num_scales
        return self._taught(ids, torch.ones(len(ids), count, dtype=torch.bool))

    def kept(self, batch: int, draws: Draws) -> Bool[Tensor, "b maps"]:
        """The maps that each image is taught."""
        count = self.fuser.slots.num_scales
        middle = max(count - 3, 0)
        numbers = uniform(draws, batch, 2 + middle)
        out = sum((numbers[:, 1] > above).long() for above in LEFT_OUT)
        stay = torch.where(numbers[:, 0] < WHOLE, middle, min(MIDDLE, middle)) - out
        kept = torch.ones(batch, count, dtype=torch.bool)
        if middle:
            kept[:, 2:-1] = numbers[:, 2:].argsort(1).argsort(1) < stay[:, None]
        return kept

    def _taught(self, ids: Int[Tensor, "b slots"], kept: Bool[Tensor, "b maps"]) -> Lesson:
        views = [self.fuser.lookup(ids[:, :0])]
        views += [self._before(ids, kept, scale) for scale in range(1, kept.shape[1])]
        counts = kept[:, self.fuser.slots.scale].to(ids.device)
        step = self.full_step()
        if not kept.all() and isinstance(step.mask, Tensor):
            own = torch.eye(kept.shape[1], dtype=torch.bool)[self.fuser.slots.scale]
            own = own[:, self.fuser.slots.scale].to(ids.device)  # (slots, slots): of one map
            seen = F.pad(counts[:, None] | own, (self.prefix_length - 1, 0) * 2, value=True)
            step = dataclasses.replace(step, mask=(step.mask & seen)[:, None])
        return Lesson(torch.cat(views, dim=1), ids, counts, step)

    def _before(
        self, ids: Int[Tensor, "b slots"], kept: Bool[Tensor, "b maps"], scale: int
    ) -> Float[Tensor, "b n c"]:
        """What each image sees before map ``scale``: the last map below it that is kept."""
        found, last = None, torch.stack([kept[:, k] * k for k in range(scale)]).amax(0)
        for source in last.unique().tolist():
            codes = self.fuser.lookup(ids[:, slice(*self.fuser.slots.span(source))])
            view = self._resized(codes, source, scale)
            mine = (last == source)[:, None, None].to(ids.device)
            found = view if found is None else torch.where(mine, view, found)
        assert found is not None
        return found

    def _resized(
        self, codes: Float[Tensor, "b n c"], source: int, target: int
    ) -> Float[Tensor, "b m c"]:
        """Codes of a map at the size of another: bicubic, in float32."""
        grids = self.fuser.slots.grids
        small = codes.float().transpose(1, 2).unflatten(-1, grids[source])
        large = F.interpolate(small, grids[target], mode="bicubic")
        return large.flatten(2).transpose(1, 2).to(codes.dtype)
