"""Orders: which slots are predicted together, in what sequence, and what each step may see."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from arimage.ar.base import (
    CONTENT,
    NO_SLOT,
    PREFIX,
    UNKNOWN,
    Descriptors,
    Draw,
    Known,
    Lesson,
    Noise,
    State,
    Step,
    may_see,
)
from arimage.ar.block_mask import make_block_mask
from arimage.ar.draws import Draws
from arimage.shapes import Bool, Float, Int
from arimage.slots import Fuser


class Order(ABC):
    """Base of all orders. It owns the state, and knows the tokenizer only as a ``Fuser``.

    Args:
        fuser: the tokenizer.
        prefix_length: positions before the first token.
        device: where index tensors live.

    Class attributes: ``cached``, whether keys and values are kept; ``masks``, whether lessons mask
    tokens, so that not all targets count; ``free_steps``, whether the constructor takes
    ``num_steps``; ``settings``, its other arguments that belong to sampling; ``mixes``, whether the
    model reads the canvas, so that codes may be mixed; ``replaces``, whether token maps replace
    each other in the canvas instead of adding up; ``given_first``, whether every token that is
    drawn sees all that are given, wherever they lie; ``known_steps``, whether ``step`` says all of
    them beforehand.
    """

    cached: ClassVar[bool]
    masks: ClassVar[bool] = False
    free_steps: ClassVar[bool] = False
    settings: ClassVar[tuple[str, ...]] = ()
    mixes: ClassVar[bool] = False
    replaces: ClassVar[bool] = False
    given_first: ClassVar[bool] = False
    known_steps: ClassVar[bool] = True

    def __init__(self, fuser: Fuser, prefix_length: int, device: torch.device | str) -> None:
        self.fuser, self.prefix_length, self.device = fuser, prefix_length, torch.device(device)
        self.num_slots = fuser.slots.num_slots

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Passes of the model per image."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Sequence positions, the prefix included: rows of the cache."""

    @abstractmethod
    def describe(self) -> Descriptors:
        """Descriptors of all ``length`` positions."""

    @abstractmethod
    def sees(self, query: Descriptors, key: Descriptors) -> Bool[Tensor, "q k"]:
        """The context rule: may each query position see each key position?"""

    @abstractmethod
    def step(self, index: int) -> Step:
        """Step ``index``, 0 <= index < num_steps."""

    @abstractmethod
    def inputs(self, state: State, step: Step) -> Tensor | None:
        """What the model embeds at ``step`` besides the prefix; None for the prefix alone."""

    @abstractmethod
    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """Inputs and targets of one full pass over real tokens (orders may draw a mask)."""

    def replay(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """The lesson under the rule of decoding; the same but for orders that have two rules."""
        return self.lesson(ids, draws)

    def start(self, noise: Noise, known: Known | None = None) -> State:
        """The state before the first step. Random orders draw here."""
        ids = torch.full((noise.batch, self.num_slots), UNKNOWN, device=self.device)
        if known is not None:
            self._check_known(known, noise.batch)
        return State(ids, self.fuser.blank(noise.batch), 0, known)

    def next_step(self, state: State) -> Step | None:
        """The step that follows ``state``, which it may look at; None when all is chosen."""
        if state.step >= self.num_steps:
            return None
        return self.placed(self.step(state.step), state)

    def placed(self, step: Step, state: State) -> Step:
        """``step`` as it is for this state; where images have orders of their own it differs."""
        return step

    def commit(self, state: State, step: Step, draw: Draw, noise: Noise) -> State:
        """The state after ``draw``: given tokens win over drawn ones, then the codes are fused."""
        ids, given = draw.ids, None
        slots = step.slots.expand_as(ids)
        if state.known is not None:
            given = state.known.mask.gather(1, slots)
            ids = torch.where(given, state.known.ids.gather(1, slots), ids)
        codes = self.fuser.lookup(ids)
        if draw.weights is not None:
            mixed = self.mixed(draw.weights)
            codes = mixed if given is None else torch.where(given.unsqueeze(-1), codes, mixed)
        canvas = self.fuser.fuse(state.canvas, step.scale, step.slots, codes)
        chosen = state.ids.scatter(1, slots, ids)
        return dataclasses.replace(state, ids=chosen, canvas=canvas, step=state.step + 1)

    def stream(self, noise: Noise, step: Step) -> Noise:
        """The noise that the tokens of a step are drawn from."""
        return noise

    def draws(self, step: Step) -> int:
        """Uniform numbers per image that ``commit`` takes of the noise."""
        return 0

    def mixed(self, weights: Float[Tensor, "b n v"]) -> Float[Tensor, "b n c"]:
        """All codes, mixed by ``weights``."""
        everything = torch.arange(weights.shape[-1], device=weights.device)
        codes = self.fuser.lookup(everything[None])[0]
        return weights.to(codes.dtype) @ codes

    def full_step(self) -> Step:
        """One uncached pass over the whole sequence that predicts every slot under the rule."""
        return self._full_step

    @cached_property
    def block_mask(self) -> BlockMask | None:
        """The mask of ``full_step`` in blocks; None where everything is visible."""
        mask = self._full_step.mask
        return make_block_mask(mask) if isinstance(mask, Tensor) else None

    @cached_property
    def _full_step(self) -> Step:
        places = self.describe()
        return Step(
            index=0,
            num_steps=1,
            scale=self.fuser.slots.num_scales - 1,
            slots=torch.arange(self.num_slots, device=self.device),
            positions=torch.arange(self.length, device=self.device),
            start=0,
            stop=self.length,
            cached=False,
            mask=self._mask(places, places),
            holds=self._held(0, self.length),
        )

    def _held(self, start: int, stop: int) -> Int[Tensor, " m"]:
        """The slot whose place each of the positions start..stop-1 has."""
        positions = torch.arange(start, stop, device=self.device)
        held = positions - self._content_offset()
        return held.masked_fill(positions < self.prefix_length, NO_SLOT)

    def _content_offset(self) -> int:
        """Sequence position minus the slot whose place it has."""
        return self.prefix_length

    def _mask(self, query: Descriptors, key: Descriptors) -> Tensor | None:
        mask = may_see(self.sees(query, key))
        return None if mask is None else mask.to(self.device)

    def _check_known(self, known: Known, batch: int) -> None:
        expected = (batch, self.num_slots)
        if known.ids.shape != expected:
            raise ValueError(
                f"got known tokens of shape {tuple(known.ids.shape)}; expected {expected}: one "
                "entry per image and slot"
            )


class CausalOrder(Order):
    """Orders whose groups are fixed beforehand and see themselves and what came before.

    The group of slots [a, b) is predicted by sequence positions [p + a, p + b) with
    p = prefix_length - 1: for next-token models the position of the token before, for next-scale
    models the position of the slot itself.
    """

    cached = True

    def __init__(self, fuser: Fuser, prefix_length: int, device: torch.device | str) -> None:
        super().__init__(fuser, prefix_length, device)
        places = self.describe()
        self._steps = [self._make_step(i, span, places) for i, span in enumerate(self.groups())]

    @abstractmethod
    def groups(self) -> list[tuple[int, int]]:
        """(first slot, slot after the last) of each step."""

    @property
    def num_steps(self) -> int:
        """One step per group."""
        return len(self._steps)

    @property
    def length(self) -> int:
        """The last slots are predicted but never fed back."""
        return self.prefix_length - 1 + self.num_slots

    def step(self, index: int) -> Step:
        """Made once, in the constructor."""
        return self._steps[index]

    def describe(self) -> Descriptors:
        """Prefix positions are group 0 with growing rank; the rest follows the groups."""
        group = torch.zeros(self.length, dtype=torch.long)
        rank = torch.arange(self.length)
        offset = self.prefix_length - 1
        for g, (start, stop) in enumerate(self.groups()):
            if g:
                group[offset + start : offset + stop] = g
                rank[offset + start : offset + stop] = torch.arange(stop - start)
        kind = torch.where(torch.arange(self.length) < self.prefix_length, PREFIX, CONTENT)
        slots = (torch.arange(self.length) - self._content_offset()).clamp_min(0)
        table = self.fuser.slots
        return Descriptors(kind, group, rank, table.row[slots], table.column[slots])

    def _make_step(self, index: int, span: tuple[int, int], places: Descriptors) -> Step:
        offset = self.prefix_length - 1
        start, stop = (0 if index == 0 else offset + span[0]), offset + span[1]
        return Step(
            index=index,
            num_steps=len(self.groups()),
            scale=int(self.fuser.slots.scale[span[0]]),
            slots=torch.arange(*span, device=self.device),
            positions=torch.arange(start, stop, device=self.device),
            start=start,
            stop=stop,
            cached=True,
            mask=self._mask(places.part(start, stop), places.part(0, stop)),
            holds=self._held(start, stop),
        )


def check_sizes(sizes: Sequence[int], num_slots: int) -> None:
    """Raises ValueError unless every step has a token and all have as many as there are slots."""
    if sum(sizes) != num_slots or min(sizes) < 1:
        raise ValueError(
            f"got steps of {sum(sizes)} tokens in all, the smallest of {min(sizes)}; expected "
            f"steps of at least 1 that sum to the {num_slots} slots of the tokenizer"
        )


def check_steps(num_steps: int, most: int) -> None:
    """Raises ValueError unless there are one to ``most`` of them."""
    if not 1 <= num_steps <= most:
        raise ValueError(
            f"got num_steps {num_steps}; this order takes 1 to {most} steps for this tokenizer"
        )
