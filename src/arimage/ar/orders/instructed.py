"""Random order with instructions: a query says which place comes next (RandAR, arXiv 2412.01827).

The sequence is the prefix, then for each place of the path a query and the token that answers it;
each position sees those before it. So several queries can be asked at once; at the next step the
tokens come in between, and the queries' rows of the cache are written anew. Behaviour of
ziqipang/RandAR@d374a72 RandAR/model/randar_gpt.py, utils.py.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import ClassVar

import torch
from torch import Tensor

from arimage.ar.base import (
    CONTENT,
    NO_SLOT,
    PREFIX,
    QUERY,
    UNKNOWN,
    Descriptors,
    Lesson,
    Noise,
    State,
    Step,
)
from arimage.ar.draws import Draws
from arimage.ar.orders.random import RandomOrder, along, paths_for, random_paths
from arimage.shapes import Int
from arimage.slots import Fuser

NUM_STEPS = 88  # ziqipang/RandAR@d374a72 RandAR/model/randar_gpt.py generate, for 256 slots


def group_sizes(num_slots: int, num_steps: int) -> list[int]:
    """Tokens of each step: one at first, then as many as a cosine asks for, at least one.

    Raises:
        ValueError: more steps than slots, or none.
    """
    if not 1 <= num_steps <= num_slots:
        raise ValueError(
            f"got num_steps {num_steps}; an order with instructions takes 1 to {num_slots} steps "
            "for this tokenizer"
        )
    if num_steps == 1:
        return [num_slots]
    sizes, done = [1], 1
    for index in range(1, num_steps):
        share = 1 - math.cos(math.pi / 2 * (index + 1) / num_steps)
        wanted = min(int(share * num_slots + 1), num_slots)
        sizes.append(min(max(wanted - done, 1), num_slots - done))
        done += sizes[-1]
    return sizes


class InstructedOrder(RandomOrder):
    """88 steps for 256 slots. Queries are UNKNOWN ids, whose place ``Step.holds`` says.

    Position p + 2i has the query of place i of the path, position p + 2i + 1 its token, with p =
    prefix_length. A step feeds the tokens of the group before with the queries between them, then
    the queries of its own group, one behind the other.

    Args:
        path: as for every random order.
        num_steps: how many steps; None for 88, or one per slot where there are fewer.
        sizes: tokens of each step, to give them instead.

    Raises:
        ValueError: sizes that do not sum to the slots, steps that are none or too many.
    """

    free_steps: ClassVar[bool] = True

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        path: Tensor | None = None,
        num_steps: int | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        slots = fuser.slots.num_slots
        if sizes is None:
            steps = min(NUM_STEPS, slots) if num_steps is None else num_steps
            sizes = group_sizes(slots, steps)
        if sum(sizes) != slots or min(sizes) < 1:
            raise ValueError(
                f"got steps of {sum(sizes)} tokens in all, the smallest of {min(sizes)}; expected "
                f"steps of at least 1 that sum to the {slots} slots of the tokenizer"
            )
        self.sizes = list(sizes)
        super().__init__(fuser, prefix_length, device, path)

    def groups(self) -> list[tuple[int, int]]:
        """Places in the path."""
        return list(pairwise((0, *accumulate(self.sizes))))

    @property
    def length(self) -> int:
        """A query and a token per slot; the last token is never fed back."""
        return self.prefix_length + 2 * self.num_slots - 1

    def describe(self) -> Descriptors:
        """One group: a position sees what is before it in the sequence, whatever the steps."""
        index = torch.arange(self.length)
        kind = torch.where((index - self.prefix_length) % 2 == 0, QUERY, CONTENT)
        kind[: self.prefix_length] = PREFIX
        held, table = self._held(0, self.length).cpu().clamp_min(0), self.fuser.slots
        return Descriptors(
            kind, torch.zeros_like(index), index, table.row[held], table.column[held]
        )

    def draw_paths(self, noise: Noise) -> Int[Tensor, "b slots"]:
        """A path of each image, as published code draws them."""
        return noise.permutations(self.num_slots)

    def inputs(self, state: State, step: Step) -> Tensor | None:
        """Tokens of the group before and UNKNOWN for queries, (b, m) without the prefix."""
        holds = step.holds if step.start else step.holds[..., self.prefix_length :]
        ids = state.ids.gather(1, holds.clamp_min(0).expand(len(state.ids), -1))
        place = torch.arange(ids.shape[1], device=ids.device)
        token = (place % 2 == 0) & (place < ids.shape[1] - step.predicts)
        return ids.masked_fill(~token, UNKNOWN)

    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws, share: float = 1.0) -> Lesson:
        """Queries and tokens in turn, along a path of each image; each query's token out.

        The rule is causal: a query sees all tokens before it, also those which decoding predicts
        together with its own; ``replay`` is decoding's.
        """
        path = self._paths(ids, draws, share)
        targets = ids.gather(1, path)
        inputs = torch.stack([torch.full_like(targets, UNKNOWN), targets], dim=2).flatten(1)
        step = along(self.full_step(), path)
        return Lesson(inputs[:, :-1], targets, torch.ones_like(ids, dtype=torch.bool), step)

    def full_step(self) -> Step:
        """The whole sequence; logits of the queries alone."""
        queries = torch.arange(self.num_slots, device=self.device) * 2 + self.prefix_length
        return dataclasses.replace(super().full_step(), reads=queries)

    def replay(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """The queries and tokens of all groups but the last, then every query as it is asked in
        decoding: after the groups before it and behind the queries of its own group.
        """
        path = self._paths(ids, draws, 1.0)
        targets, before = ids.gather(1, path), self.num_slots - self.sizes[-1]
        context = torch.stack([torch.full_like(targets, UNKNOWN), targets], dim=2)
        asked = torch.full_like(targets, UNKNOWN)
        inputs = torch.cat([context[:, :before].flatten(1), asked], dim=1)
        known = self.prefix_length + 2 * before
        place = torch.arange(self.num_slots, device=self.device)
        step = dataclasses.replace(
            super().full_step(),
            positions=torch.arange(known + self.num_slots, device=self.device),
            stop=known + self.num_slots,
            mask=self._replayed(known),
            holds=torch.cat([self._held(0, known), place]),
        )
        return Lesson(inputs, targets, torch.ones_like(ids, dtype=torch.bool), along(step, path))

    def _replayed(self, context: int) -> Tensor:
        """Rows and columns: the context, then the queries as they are asked."""
        total = context + self.num_slots
        mask = torch.ones(total, total, dtype=torch.bool).tril()
        for first, stop in self.groups():
            rows = mask[context + first : context + stop]
            rows[:, self.prefix_length + 2 * first : context + first] = False
        return mask.to(self.device)

    def _paths(self, ids: Tensor, draws: Draws, share: float) -> Int[Tensor, "b slots"]:
        if self.path is None:
            return random_paths(*ids.shape, share, draws).to(ids.device)
        return paths_for(self.path, len(ids))

    def _held(self, start: int, stop: int) -> Int[Tensor, " m"]:
        return self._places[start:stop]

    @cached_property
    def _places(self) -> Int[Tensor, " length"]:
        """The place in the path of each position."""
        index = torch.arange(self.length, device=self.device) - self.prefix_length
        return index.div(2, rounding_mode="floor").masked_fill(index < 0, NO_SLOT)

    def _make_step(self, index: int, span: tuple[int, int], places: Descriptors) -> Step:
        p, (first, end) = self.prefix_length, span
        start = p + 2 * (first - self.sizes[index - 1]) + 1 if index else 0
        known, stop = p + 2 * first, p + 2 * first + end - first
        positions = torch.arange(start, stop, device=self.device)
        rule = torch.arange(stop, device=self.device)[None] <= positions[:, None]
        queries = torch.arange(first, end, device=self.device)
        return Step(
            index=index,
            num_steps=len(self.sizes),
            scale=0,
            slots=queries,
            positions=positions,
            start=start,
            stop=stop,
            cached=True,
            mask=rule,
            holds=torch.cat([self._held(start, known), queries]),
        )
