"""Random order with instructions: a query says which place comes next (RandAR, arXiv 2412.01827).

The sequence is the prefix, then for each place of the path a query and the token that answers it;
each position sees those before it. So several queries can be asked at once; at the next step the
tokens come in between, and the queries' rows of the cache are written anew. Behaviour of
ziqipang/RandAR@d374a72 RandAR/model/randar_gpt.py, utils.py.
"""

import dataclasses
import math
from functools import cached_property

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
from arimage.ar.orders.base import check_steps
from arimage.ar.orders.random import SizedOrder, along
from arimage.shapes import Int

NUM_STEPS = 88  # ziqipang/RandAR@d374a72 RandAR/model/randar_gpt.py generate, for 256 slots


def group_sizes(num_slots: int, num_steps: int) -> list[int]:
    """Tokens of each step: one at first, then as many as a cosine asks for, at least one.

    One step is one pass over all; published code makes two of it, as of two.

    Raises:
        ValueError: more steps than slots, or none.
    """
    check_steps(num_steps, num_slots)
    if num_steps == 1:
        return [num_slots]
    sizes, done = [1], 1
    for index in range(1, num_steps):
        share = 1 - math.cos(math.pi / 2 * (index + 1) / num_steps)
        wanted = min(int(share * num_slots + 1), num_slots)
        sizes.append(min(max(wanted - done, 1), num_slots - done))
        done += sizes[-1]
    return sizes


class InstructedOrder(SizedOrder):
    """88 steps for 256 slots. Queries are UNKNOWN ids, whose place ``Step.holds`` says.

    Position p + 2i has the query of place i of the path, position p + 2i + 1 its token, with p =
    prefix_length. A step feeds the tokens of the group before with the queries between them, then
    the queries of its own group, one behind the other.
    """

    def choose_sizes(self, num_slots: int, num_steps: int | None) -> list[int]:
        """For 88 steps, or one per slot where there are fewer, unless said."""
        return group_sizes(num_slots, min(NUM_STEPS, num_slots) if num_steps is None else num_steps)

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
        path = self.taught_paths(ids, draws, share)
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
        path = self.taught_paths(ids, draws, 1.0)
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
