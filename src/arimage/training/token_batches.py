"""Tokens that a training reads: all of a folder's, or a part where some are held out."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from arimage.eval.sources import digest
from arimage.shapes import Int
from arimage.training.images import Order, check_share
from arimage.training.token_data import TokenBatch, TokenData, variants_of


@runtime_checkable
class TrainingTokens(Protocol):
    """What ``TokenData`` and ``Part`` have in common.

    Attributes:
        tokenizer: ``identity`` of the tokenizer that made them.
        num_classes: labels are below it.
        class_names: one per class, or None.
    """

    tokenizer: str
    num_classes: int
    class_names: list[str] | None

    def __len__(self) -> int:
        """Images."""
        ...

    def rows(self, index: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """(ids, labels) of some images, the first variant of each."""
        ...

    def batches(
        self, batch_size: int, rank: int = 0, world: int = 1, start: int = 0, seed: int = 0
    ) -> Iterator[TokenBatch]:
        """Endless batches of ``batch_size`` images per process, from step ``start`` on."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything but the tokens, for the record of a run."""
        ...


class Part:
    """Some images of a folder of tokens, numbered anew.

    Args:
        data: the folder.
        chosen: (n,) which of its images.
    """

    def __init__(self, data: TokenData, chosen: Int[Tensor, " n"]) -> None:
        self.data, self.chosen = data, chosen
        self.tokenizer, self.num_classes = data.tokenizer, data.num_classes
        self.class_names = data.class_names

    def __len__(self) -> int:
        return len(self.chosen)

    def rows(self, index: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """(ids, labels) of some images, the first variant of each."""
        return self.data.rows(self.chosen[index])

    def batches(
        self, batch_size: int, rank: int = 0, world: int = 1, start: int = 0, seed: int = 0
    ) -> Iterator[TokenBatch]:
        """As those of ``TokenData``; an image has the variant that it has there."""
        check_share(batch_size, rank, world, start)
        data = self.data
        for keys in Order(len(self), seed, batch_size, rank, world, start):
            index = torch.tensor([image for _, image in keys])
            images = self.chosen[index]
            epochs = (epoch for epoch, _ in keys)
            drawn = [
                int(variants_of(len(data), data.variants, seed, epoch)[image])
                for epoch, image in zip(epochs, images.tolist(), strict=True)
            ]
            ids, labels = data.rows(images, torch.tensor(drawn))
            yield TokenBatch(ids, labels, index, keys[0][0])

    def describe(self) -> dict[str, Any]:
        """As the folder's, with the number and the identity of these images."""
        identity = digest(self.data.identity, *self.chosen.tolist())
        return self.data.describe() | {"images": len(self), "identity": identity}


def hold_out(
    data: TokenData, share: float, seed: int
) -> tuple[TrainingTokens, TrainingTokens | None]:
    """(the rest, a share of the images drawn by the seed); all and None for a share of 0.

    Raises:
        ValueError: a share that leaves no image on one side.
    """
    if not share:
        return data, None
    count = round(share * len(data))
    if not 0 < count < len(data):
        raise ValueError(
            f"got validation {share} of {len(data)} images, which is {count} of them; expected "
            "some, not all"
        )
    drawn = np.random.default_rng(seed).permutation(len(data))
    first, second = (torch.from_numpy(np.sort(part)) for part in (drawn[count:], drawn[:count]))
    return Part(data, first), Part(data, second)
