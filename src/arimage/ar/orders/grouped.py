"""Orders of groups: several tokens at once along a path, asked for by queries (ARPG, LPD).

A step feeds the group before (the prefix at first), then a query for each place of the next group;
queries are UNKNOWN ids. Tokens are kept at position p + i, for place i of the path, with p =
prefix_length. Queries lie behind them, where the tokens of their group come at the next step.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from arimage.ar.base import (
    CONTENT,
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
from arimage.ar.orders.random import SizedOrder, along
from arimage.shapes import Bool, Int


class GroupedOrder(SizedOrder):
    """Base of both: all but the sizes of groups, the paths, and what queries see of each other."""

    @abstractmethod
    def draw_paths(self, noise: Noise) -> Int[Tensor, "b slots"]:
        """A path for each image."""

    @property
    def length(self) -> int:
        """The last group is never fed back; its queries lie where it would."""
        return self.prefix_length + self.num_slots

    def describe(self) -> Descriptors:
        """As the last step leaves it: the tokens of all groups but the last, then its queries."""
        before = self.num_slots - self.sizes[-1]
        rows = [*range(self.prefix_length + before), *range(-self.sizes[-1], 0)]
        return rows_of(self._everything(self.sizes), torch.tensor(rows))

    def sees(self, query: Descriptors, key: Descriptors) -> Bool[Tensor, "q k"]:
        """Tokens of its own group and of those before it; no queries."""
        return (key.kind[None] != QUERY) & (key.group[None] <= query.group[:, None])

    def inputs(self, state: State, step: Step) -> Tensor | None:
        """Tokens of the group before and UNKNOWN for queries, (b, m) without the prefix."""
        holds = step.holds if step.start else step.holds[..., self.prefix_length :]
        ids = state.ids.gather(1, holds.clamp_min(0).expand(len(state.ids), -1))
        place = torch.arange(ids.shape[1], device=ids.device)
        return ids.masked_fill(place >= ids.shape[1] - step.predicts, UNKNOWN)

    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws, share: float = 1.0) -> Lesson:
        """The tokens of all groups but the last, then all queries, along a path of each image."""
        return self._lesson(ids, draws, share, self._full_step)

    def replay(self, ids: Int[Tensor, "b slots"], draws: Draws) -> Lesson:
        """The same in the groups of decoding."""
        return self._lesson(ids, draws, 1.0, self._full(self.sizes))

    def _lesson(self, ids: Tensor, draws: Draws, share: float, step: Step) -> Lesson:
        path = self.taught_paths(ids, draws, share)
        targets = ids.gather(1, path)
        given = step.stop - self.prefix_length - self.num_slots
        inputs = torch.cat([targets[:, :given], torch.full_like(targets, UNKNOWN)], dim=1)
        return Lesson(inputs, targets, torch.ones_like(ids, dtype=torch.bool), along(step, path))

    @cached_property
    def _full_step(self) -> Step:
        return self._full(self.sizes)

    def _full(self, sizes: Sequence[int]) -> Step:
        """One pass over the tokens of all groups but the last, then over all queries."""
        tokens = self.prefix_length + self.num_slots - sizes[-1]
        rows = torch.tensor([*range(tokens), *range(-self.num_slots, 0)])
        everything = rows_of(self._everything(sizes), rows)
        queries = torch.arange(self.num_slots, device=self.device)
        return Step(
            index=0,
            num_steps=1,
            scale=0,
            slots=queries,
            positions=torch.arange(len(rows), device=self.device),
            start=0,
            stop=len(rows),
            cached=False,
            mask=self.sees(everything, everything).to(self.device),
            holds=torch.cat([self._held(0, tokens), queries]),
        )

    def _everything(self, sizes: Sequence[int]) -> Descriptors:
        """The prefix, all tokens, all queries. A query is read at the step of its group, a token
        at the step after.
        """
        table = self.fuser.slots
        group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        rank = torch.cat([torch.arange(size) for size in sizes])
        prefix = torch.zeros(self.prefix_length, dtype=torch.long)
        kinds = (PREFIX, self.prefix_length), (CONTENT, len(group)), (QUERY, len(group))
        place = torch.cat([prefix, *[torch.arange(self.num_slots)] * 2])
        return Descriptors(
            torch.cat([torch.full((count,), kind) for kind, count in kinds]),
            torch.cat([prefix, group + 1, group]),
            torch.cat([torch.arange(self.prefix_length), rank, rank]),
            table.row[place],
            table.column[place],
        )

    @cached_property
    def _rule(self) -> Tensor:
        everything = self._everything(self.sizes)
        return self.sees(everything, everything)

    def _make_step(self, index: int, span: tuple[int, int], places: Descriptors) -> Step:
        p, (first, end) = self.prefix_length, span
        start = p + first - self.sizes[index - 1] if index else 0
        asked = range(p + self.num_slots + first, p + self.num_slots + end)
        rows = torch.tensor([*range(start, p + first), *asked])
        columns = torch.tensor([*range(p + first), *asked])
        queries = torch.arange(first, end, device=self.device)
        return Step(
            index=index,
            num_steps=len(self.sizes),
            scale=0,
            slots=queries,
            positions=torch.arange(start, p + end, device=self.device),
            start=start,
            stop=p + end,
            cached=True,
            mask=self._rule[rows][:, columns].to(self.device),
            holds=torch.cat([self._held(start, p + first), queries]),
        )


def rows_of(places: Descriptors, rows: Int[Tensor, " n"]) -> Descriptors:
    """Some of the positions."""
    names = (field.name for field in dataclasses.fields(places))
    return Descriptors(**{name: getattr(places, name)[rows] for name in names})
