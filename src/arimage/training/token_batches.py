"""Tokens to train on, in an order that seed and epoch name, equal for any number of processes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from arimage.shapes import Int
from arimage.training.loop import step_seed
from arimage.training.tokens import TokenSet


@dataclass(frozen=True)
class TokenBatch:
    """Images of one step.

    Attributes:
        ids: (b, slots) int64.
        class_labels: (b,) int64.
        index: (b,) which images of the data.
        epoch: of the first of them.
    """

    ids: Tensor
    class_labels: Tensor
    index: Tensor
    epoch: int

    def __len__(self) -> int:
        return len(self.ids)


@runtime_checkable
class TokenData(Protocol):
    """Tokens of a data set.

    Attributes:
        num_classes: labels are below it.
        class_names: one per class, or None.
        identity: of the tokenizer.
    """

    num_classes: int
    class_names: list[str] | None
    identity: str

    def __len__(self) -> int:
        """Images."""
        ...

    def rows(self, index: Int[Tensor, " b"]) -> TokenBatch:
        """These images, as in epoch 0."""
        ...

    def part(self, index: Int[Tensor, " b"]) -> "TokenData":
        """These images alone; they keep their numbers in ``TokenBatch.index``."""
        ...

    def batches(
        self, batch_size: int, rank: int = 0, world: int = 1, start: int = 0, seed: int = 0
    ) -> Iterator[TokenBatch]:
        """Endless batches of ``batch_size`` images per process, from step ``start`` on.

        Every epoch is a permutation that (seed, epoch) names.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What a run records of its data: how many images, from where, their hash."""
        ...


class MemoryTokens:
    """A ``TokenSet`` as ``TokenData``.

    Args:
        tokens: all of them.
        chosen: which of them to use, and in which order they are numbered; None for all.
    """

    def __init__(self, tokens: TokenSet, chosen: Tensor | None = None) -> None:
        self.tokens = tokens
        self.chosen = torch.arange(len(tokens.ids)) if chosen is None else chosen
        self.num_classes, self.class_names = tokens.num_classes, tokens.class_names
        self.identity = tokens.tokenizer

    def __len__(self) -> int:
        return len(self.chosen)

    def rows(self, index: Int[Tensor, " b"]) -> TokenBatch:
        """These images."""
        return self._batch(self.chosen[index], 0)

    def part(self, index: Int[Tensor, " b"]) -> "MemoryTokens":
        """These images alone."""
        return MemoryTokens(self.tokens, self.chosen[index])

    def batches(
        self, batch_size: int, rank: int = 0, world: int = 1, start: int = 0, seed: int = 0
    ) -> Iterator[TokenBatch]:
        """Endless batches; see ``TokenData``."""
        epoch, order, count = -1, torch.empty(0, dtype=torch.long), len(self)
        step = start
        while True:
            place = (step * world + rank) * batch_size
            first, rows = place // count, []
            for number in range(place, place + batch_size):
                if number // count != epoch:
                    epoch = number // count
                    order = epoch_order(count, seed, epoch)
                rows.append(order[number % count])
            yield self._batch(self.chosen[torch.stack(rows)], first)
            step += 1

    def describe(self) -> dict[str, Any]:
        """Everything but the tokens, and their hash."""
        total = hashlib.sha256(self.chosen.numpy().tobytes())
        total.update(self.tokens.ids.numpy().tobytes())
        total.update(np.ascontiguousarray(self.tokens.class_labels).tobytes())
        about = self.tokens.describe()
        return about | {"images": len(self), "hash": total.hexdigest()}

    def _batch(self, index: Tensor, epoch: int) -> TokenBatch:
        labels = torch.from_numpy(self.tokens.class_labels[index.numpy()])
        return TokenBatch(self.tokens.ids[index], labels, index, epoch)


def epoch_order(count: int, seed: int, epoch: int) -> Int[Tensor, " count"]:
    """The permutation of an epoch."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(step_seed(seed, epoch)))


def hold_out(data: TokenData, share: float, seed: int) -> tuple[TokenData, TokenData | None]:
    """(the rest, a share of the images drawn by the seed); all and None for a share of 0.

    Raises:
        ValueError: a share that leaves no image on one side.
    """
    if not share:
        return data, None
    order, count = epoch_order(len(data), seed, -1 % 2**32), round(share * len(data))
    if not 0 < count < len(data):
        raise ValueError(
            f"got validation {share} of {len(data)} images, which is {count} of them; expected "
            "some, not all"
        )
    return data.part(order[count:].sort().values), data.part(order[:count].sort().values)
