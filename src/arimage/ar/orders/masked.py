"""Masked order: all slots at every step, the most confident ones kept (MaskGIT, arXiv 2202.04200).

The model is bidirectional, so there is nothing to cache. Behaviour of the schedule and of the
confidence: google-research/maskgit@1db2359 maskgit/libml/parallel_decode.py.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from arimage.ar.base import CONTENT, PREFIX, UNKNOWN, Descriptors, Draw, Lesson, Noise, State, Step
from arimage.ar.draws import Draws, uniform
from arimage.ar.orders.base import Order, check_steps
from arimage.registry import unknown_name
from arimage.shapes import Bool, Int
from arimage.slots import Fuser

CHOICE_TEMPERATURE = 4.5  # google-research/maskgit@1db2359 maskgit/inference.py
NUM_STEPS = 8  # the same file, for 256 px
SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {  # share that is open when ``done`` is done
    "cosine": lambda done: (math.pi / 2 * done).cos(),
    "arccos": lambda done: done.acos() / (math.pi / 2),
    "linear": lambda done: 1 - done,
    "square": lambda done: 1 - done**2,
    "root": lambda done: 1 - done**0.5,
}


class MaskedOrder(Order):
    """``num_steps`` passes; after pass t a share of (t+1)/num_steps by the schedule stays unknown.

    Args:
        num_steps: passes of the model, at most one per entry; None for ``default_steps``.
        choice_temperature: scale of the Gumbel noise on the confidence, annealed to 0; None for
            ``default_choice``.
        schedule: one of ``SCHEDULES``.
        mask_id: the mask token where the model has a logit for it, which may be drawn as it is in
            published code: the slot stays open, and in the end it is the token before.
        redraws: as valeoai/Halton-MaskGIT@f61b0a1 Sampler/confidence_sampler.py: tokens that were
            chosen are drawn again at each step, and pass t begins with t/(num_steps-1) done.

    Class attributes: ``default_steps``, ``default_choice``; ``teaches_all``, whether lessons count
    tokens that they show, too.
    """

    cached = False
    masks = True
    free_steps = True
    given_first = True
    settings: ClassVar[tuple[str, ...]] = ("choice_temperature",)
    default_steps: ClassVar[int] = NUM_STEPS
    default_choice: ClassVar[float] = CHOICE_TEMPERATURE
    teaches_all: ClassVar[bool] = False
    counts_in: ClassVar[torch.dtype] = torch.float64  # bytedance/1d-tokenizer@942a96f, maskgit.py

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        num_steps: int | None = None,
        choice_temperature: float | int | None = None,
        *,
        schedule: str = "cosine",
        mask_id: int | None = None,
        redraws: bool = False,
    ) -> None:
        super().__init__(fuser, prefix_length, device)
        if num_steps is None:
            num_steps = min(self.default_steps, self.num_entries)
        check_steps(num_steps, self.num_entries)
        if choice_temperature is None:
            choice_temperature = self.default_choice
        if choice_temperature < 0:
            raise ValueError(
                f"got choice_temperature {choice_temperature}; expected a number >= 0, where 0 "
                "keeps the most probable tokens"
            )
        self._num_steps, self.choice_temperature = num_steps, choice_temperature
        self.schedule, self.mask_id, self.redraws = check_schedule(schedule), mask_id, redraws
        self.exact = torch.float32 if redraws else self.counts_in
        done = [self._done(index) for index in range(num_steps)]
        self._open = open_share(schedule, torch.tensor(done, dtype=self.exact)).tolist()

    @property
    def num_entries(self) -> int:
        """What is drawn and kept one by one: tokens, or parts of them."""
        return self.num_slots

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

    def entries(self, ids: Int[Tensor, "b slots"]) -> Int[Tensor, "b n"]:
        """What is drawn one by one: ids, UNKNOWN where open."""
        return ids

    def joined(self, entries: Int[Tensor, "b n"]) -> Int[Tensor, "b slots"]:
        """The ids of entries; below zero where one is open."""
        return entries

    def commit(self, state: State, step: Step, draw: Draw, noise: Noise) -> State:
        """Keeps the most confident draws; known slots stay."""
        before = self.entries(self.inputs(state, step))
        is_open = before == UNKNOWN
        gumbel = noise.gumbel(before.shape[1], inverse=True).to(draw.log_probs)
        heat = self.choice_temperature * (1 - self._done(int(step.index)))
        confidence = (draw.log_probs + heat * gumbel).masked_fill(~is_open, -torch.inf)
        best_first = confidence.argsort(dim=-1, descending=True, stable=True)
        place = best_first.argsort(-1)  # 0 is the most confident
        written = is_open & (place < self._to_keep(state, is_open, int(step.index))[:, None])
        if self.redraws:
            written = written | (~is_open & ~self._given(state, is_open))
        entries = torch.where(written, draw.ids, before)
        ids = self.joined(self.unmasked(entries, step))
        chosen = ids >= 0
        codes = self.fuser.lookup(ids.clamp_min(0)) * chosen.unsqueeze(-1)
        slots = torch.arange(self.num_slots, device=ids.device)
        canvas = self.fuser.fuse(state.canvas, step.scale, slots, codes.to(state.canvas))
        return dataclasses.replace(state, ids=ids, canvas=canvas, step=state.step + 1)

    def unmasked(self, ids: Int[Tensor, "b n"], step: Step) -> Int[Tensor, "b n"]:
        """A mask token that was drawn is open; after the last step it is the token before it."""
        if self.mask_id is None:
            return ids
        last = int(step.index) == self.num_steps - 1
        return ids.masked_fill(ids == self.mask_id, self.mask_id - 1 if last else UNKNOWN)

    def draws(self, step: Step) -> int:
        """One per entry."""
        return step.predicts

    def _given(self, state: State, is_open: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
        """Which entries were given from the start."""
        if state.known is None:
            return torch.zeros_like(is_open)
        return self.entries(state.known.ids.masked_fill(~state.known.mask, UNKNOWN)) != UNKNOWN

    def _done(self, index: int) -> float:
        """The share of the steps that counts as done in step ``index``."""
        if self.redraws:
            return index / max(self.num_steps - 1, 1)
        return (index + 1) / self.num_steps

    def _to_keep(self, state: State, is_open: Bool[Tensor, "b n"], index: int) -> Int[Tensor, " b"]:
        """How many open entries of each image are chosen now: at least one, at the end all."""
        left = is_open.sum(1)
        if index == self.num_steps - 1:
            return left
        total = is_open.shape[1] - self._given(state, is_open).sum(1)
        if self.redraws:
            chosen = ((1 - self._open[index]) * total).long().clamp_min(index + 1)
            return (chosen - (total - left)).clamp_min(0)
        stay = (total.to(self.exact) * self._open[index]).floor().long()
        return left - torch.minimum(stay, left - 1).clamp_min(0)

    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """Masks the share that is open at a random time, uniform in 0 to 1, of each image; masked
        entries count, or all.
        """
        targets = self.entries(ids)
        share = open_share(self.schedule, uniform(draws, len(ids), 1))
        score = uniform(draws, *targets.shape)
        place = score.argsort(1).argsort(1)
        count = (share * targets.shape[1]).ceil().clamp(1, targets.shape[1])
        masked = (place < count).to(ids.device)
        counts = torch.ones_like(masked) if self.teaches_all else masked
        inputs = self.joined(targets.masked_fill(masked, UNKNOWN))
        return Lesson(inputs, targets, counts, self.full_step())


def open_share(schedule: str, done: Tensor) -> Tensor:
    """Share of the entries that is open when a share of the steps is done."""
    return SCHEDULES[schedule](done)


def check_schedule(name: str) -> str:
    """``name``. KeyError for one that is not in ``SCHEDULES``."""
    if name not in SCHEDULES:
        raise KeyError(unknown_name("schedule of masks", name, SCHEDULES))
    return name
