"""Masked order: all slots at every step, the most confident ones kept (MaskGIT, arXiv 2202.04200).

The model is bidirectional, so there is nothing to cache. Behaviour of the schedule and of the
confidence: google-research/maskgit@1db2359 maskgit/libml/parallel_decode.py.
"""

import dataclasses
import math

import torch
from torch import Tensor

from arimage.ar.base import CONTENT, PREFIX, UNKNOWN, Descriptors, Draw, Lesson, Noise, State, Step
from arimage.ar.draws import Draws, uniform
from arimage.ar.orders.base import Order
from arimage.shapes import Bool, Int
from arimage.slots import Fuser

CHOICE_TEMPERATURE = 4.5  # google-research/maskgit@1db2359 maskgit/inference.py
NUM_STEPS = 8  # the same file, for 256 px


class MaskedOrder(Order):
    """``num_steps`` passes; after pass t a share cos(pi/2 * (t+1)/num_steps) stays unknown.

    Args:
        num_steps: passes of the model, 8 by default; at most the number of slots.
        choice_temperature: scale of the Gumbel noise on the confidence, annealed to 0.
    """

    cached = False
    masks = True
    free_steps = True
    given_first = True

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        num_steps: int | None = None,
        choice_temperature: float = CHOICE_TEMPERATURE,
    ) -> None:
        super().__init__(fuser, prefix_length, device)
        if num_steps is None:
            num_steps = min(NUM_STEPS, self.num_slots)
        if not 1 <= num_steps <= self.num_slots:
            raise ValueError(
                f"got num_steps {num_steps}; the masked order takes 1 to {self.num_slots} steps "
                "for this tokenizer"
            )
        self._num_steps, self.choice_temperature = num_steps, choice_temperature

    @property
    def num_steps(self) -> int:
        """As asked for."""
        return self._num_steps

    @property
    def length(self) -> int:
        """Every slot is fed at every step."""
        return self.prefix_length + self.num_slots

    def describe(self) -> Descriptors:
        """One group: everything is read at once."""
        index = torch.arange(self.length)
        slots = (index - self.prefix_length).clamp_min(0)
        table = self.fuser.slots
        kind = torch.where(index < self.prefix_length, PREFIX, CONTENT)
        zeros = torch.zeros_like(index)
        return Descriptors(kind, zeros, index, table.row[slots], table.column[slots])

    def sees(self, query: Descriptors, key: Descriptors) -> Bool[Tensor, "q k"]:
        """Everything sees everything."""
        return torch.ones(len(query), len(key), dtype=torch.bool)

    def step(self, index: int) -> Step:
        """All slots; only the index changes."""
        return dataclasses.replace(self.full_step(), index=index, num_steps=self.num_steps)

    def inputs(self, state: State, step: Step) -> Tensor:
        """All ids, UNKNOWN where not chosen, (b, num_slots); given tokens are there from start."""
        known = state.known
        return state.ids if known is None else torch.where(known.mask, known.ids, state.ids)

    def commit(self, state: State, step: Step, draw: Draw, noise: Noise) -> State:
        """Keeps the most confident draws; known slots stay."""
        before = self.inputs(state, step)
        open_slots = before == UNKNOWN
        ratio = (step.index + 1) / self.num_steps
        gumbel = noise.gumbel(self.num_slots).to(draw.log_probs)
        confidence = draw.log_probs + self.choice_temperature * (1 - ratio) * gumbel
        confidence = confidence.masked_fill(~open_slots, -torch.inf)
        best_first = confidence.argsort(dim=-1, descending=True, stable=True)
        place = best_first.argsort(-1)  # 0 is the most confident
        kept = open_slots & (place < self._to_keep(state, open_slots, ratio)[:, None])
        ids = torch.where(kept, draw.ids, before)
        chosen = ids != UNKNOWN
        codes = self.fuser.lookup(ids.clamp_min(0)) * chosen.unsqueeze(-1)
        canvas = self.fuser.fuse(state.canvas, step.scale, step.slots, codes.to(state.canvas))
        return dataclasses.replace(state, ids=ids, canvas=canvas, step=state.step + 1)

    def draws(self, step: Step) -> int:
        """One per slot."""
        return self.num_slots

    def _to_keep(
        self, state: State, open_slots: Bool[Tensor, "b n"], ratio: float
    ) -> Int[Tensor, " b"]:
        """How many open slots of each image are chosen now: at least one, at the end all."""
        left = open_slots.sum(1)
        total = torch.full_like(left, self.num_slots)
        if state.known is not None:
            total = total - state.known.mask.sum(1)
        stay = (total * math.cos(math.pi / 2 * ratio)).floor().long()
        stay = torch.minimum(stay, left - 1).clamp_min(0)
        return left if ratio == 1 else left - stay

    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """Masks a share cos(pi/2 * u), u uniform, of each image; only masked slots count."""
        share = torch.cos(math.pi / 2 * uniform(draws, len(ids), 1))
        score = uniform(draws, *ids.shape)
        place = score.argsort(1).argsort(1)
        count = (share * self.num_slots).ceil().clamp(1, self.num_slots)
        masked = (place < count).to(ids.device)
        return Lesson(ids.masked_fill(masked, UNKNOWN), ids, masked, self.full_step())
