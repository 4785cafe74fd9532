"""Next-scale order without memory, whose maps may be gone over again (HMAR, arXiv 2506.04421).

A step sees its own token map alone: what came before is in the canvas. After the pass that predicts
a map, the tokens that were least sure may be masked and predicted anew, a few at a time. Behaviour
of NVlabs/HMAR@595a9df models/hmar.py generate; lessons, models/nsp.py and mp_trainer.py.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from arimage.ar.base import UNKNOWN, Descriptors, Draw, Lesson, Noise, State, Step
from arimage.ar.draws import Draws, uniform
from arimage.ar.orders.next_scale import NextScaleOrder
from arimage.shapes import Bool, Int
from arimage.slots import Fuser, SlotTable

SHOWN, HIDDEN = 1, 2  # the last channel of inputs: a token of the own map, or its mask; else 0
REFINED = 0.5  # share of images whose lesson is to refine; the published code trains that apart
Passes = Sequence[Sequence[int]]


class RefinedScaleOrder(NextScaleOrder):
    """One step per map, and one more for each further pass.

    In a pass over a map that is there already the model reads, for each cell, the canvas, the own
    map's part of it, and a mark (SHOWN or HIDDEN): (b, n, 2 code_dim + 1). In ``State.ids`` a token
    i that will be drawn anew is UNKNOWN - 1 - i; the canvas gets a map after its last pass.

    Args:
        passes: for each map, how many tokens are settled after each pass; one pass each by default.

    Raises:
        ValueError: passes that do not sum to the maps.
    """

    cached: ClassVar[bool] = False
    masks: ClassVar[bool] = True
    mixes: ClassVar[bool] = False
    settings: ClassVar[tuple[str, ...]] = ("passes",)

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        passes: Passes | None = None,
    ) -> None:
        check_passes(passes, fuser.slots)
        super().__init__(fuser, prefix_length, device)
        again = [() if passes is None else passes[step.scale][1:] for step in self._steps]
        # For each step: whether it refines, and how many tokens of the map stay open after it.
        self._left = [
            (refines, sum(counts[refines:]))
            for counts in again
            for refines in range(len(counts) + 1)
        ]
        steps = [step for step in self._steps for _ in range(len(again[step.scale]) + 1)]
        self._steps = [
            dataclasses.replace(step, index=index, num_steps=len(steps))
            for index, step in enumerate(steps)
        ]

    def sees(self, query: Descriptors, key: Descriptors) -> Bool[Tensor, "q k"]:
        """Block-diagonal: the own token map."""
        return key.group[None] == query.group[:, None]

    def inputs(self, state: State, step: Step) -> Tensor | None:
        """The canvas at the size of the map; where that is refined, what the class says."""
        view = super().inputs(state, step)
        if not self._left[int(step.index)][0]:
            return view
        ids = state.ids[:, step.slots]
        mark = torch.where(ids < UNKNOWN, HIDDEN, SHOWN)
        own = self._own(torch.where(ids < UNKNOWN, UNKNOWN - 1 - ids, ids), step.scale)
        return torch.cat([view, own, mark.unsqueeze(-1).to(own.dtype)], dim=-1)

    def commit(self, state: State, step: Step, draw: Draw, noise: Noise) -> State:
        """Open tokens are drawn; the least sure of them stay open until the map's last pass."""
        refines, left = self._left[int(step.index)]
        slots = step.slots.expand_as(draw.ids)
        before = state.ids.gather(1, slots)
        fixed = before > UNKNOWN if refines else torch.zeros_like(before, dtype=torch.bool)
        ids = torch.where(fixed, before, draw.ids)
        if state.known is not None:
            given = state.known.mask.gather(1, slots)
            ids = torch.where(given, state.known.ids.gather(1, slots), ids)
            fixed = fixed | given
        canvas = state.canvas
        if left:
            sure = draw.log_probs.masked_fill(fixed, torch.inf)
            unsure = sure.argsort(dim=1, stable=True)[:, :left]
            reopened = torch.zeros_like(fixed).scatter(1, unsure, True) & ~fixed
            ids = torch.where(reopened, UNKNOWN - 1 - ids, ids)
        else:
            canvas = self.fuser.fuse(canvas, step.scale, step.slots, self.fuser.lookup(ids))
        chosen = state.ids.scatter(1, slots, ids)
        return dataclasses.replace(state, ids=chosen, canvas=canvas, step=state.step + 1)

    @torch.no_grad()
    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """Half of the images are to predict all maps, half to refine all but the first.

        There a share of the tokens, uniform for each image, is hidden, and only these count.
        """
        plain = super().lesson(ids, draws)
        first = self.fuser.slots.span(0)[1]
        numbers = uniform(draws, len(ids), 2 + ids.shape[1] - first)
        if numbers.shape[1] == 2:
            return plain
        share, places = numbers[:, 1:2], numbers[:, 2:]
        refined = (numbers[:, :1] < REFINED).to(ids.device)
        hidden = ((places < share) | (places == places.amin(1, keepdim=True))).to(ids.device)
        maps = range(1, self.fuser.slots.num_scales)
        own = torch.cat([self._own(ids[:, self._span(k)], k) for k in maps], dim=1)
        mark = torch.where(hidden, HIDDEN, SHOWN) * refined
        parts = [plain.inputs, own * refined[..., None], mark[..., None].to(own.dtype)]
        counts = torch.cat([~refined.expand(-1, first), ~refined | hidden], dim=1)
        return dataclasses.replace(plain, inputs=torch.cat(parts, dim=-1), counts=counts)

    def replay(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """The first passes."""
        return super().lesson(ids, draws)

    def _span(self, scale: int) -> slice:
        return slice(*self.fuser.slots.span(scale))

    def _own(self, ids: Int[Tensor, "b n"], scale: int) -> Tensor:
        """A map's part of the canvas at its own size."""
        slots = torch.arange(*self.fuser.slots.span(scale), device=ids.device)
        codes, blank = self.fuser.lookup(ids), self.fuser.blank(len(ids))
        return self.fuser.view(self.fuser.fuse(blank, scale, slots, codes), scale)

    def _make_step(self, index: int, span: tuple[int, int], places: Descriptors) -> Step:
        made = super()._make_step(index, span, places)
        return dataclasses.replace(made, cached=False, mask=None)


def check_passes(passes: Passes | None, slots: SlotTable) -> None:
    """Raises ValueError unless there are passes for each map, which sum to its tokens."""
    if passes is None:
        return
    if len(passes) != slots.num_scales:
        raise ValueError(
            f"got passes for {len(passes)} token maps; the model has {slots.num_scales}: give a "
            "list of token counts for each"
        )
    for counts, grid in zip(passes, slots.grids, strict=True):
        cells = math.prod(grid)
        if not counts or min(counts) < 1 or sum(counts) != cells:
            raise ValueError(
                f"got passes {list(counts)} for the token map of {grid[0]} x {grid[1]}, which sum "
                f"to {sum(counts)}; expected counts above 0 that sum to {cells}"
            )
