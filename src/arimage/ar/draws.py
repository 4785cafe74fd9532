"""Random numbers of lessons: from one generator for a batch, or from one for each image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from arimage.shapes import Float, Int

Draws = torch.Generator | Sequence[torch.Generator]  # on the CPU


def uniform(draws: Draws, batch: int, count: int) -> Float[Tensor, "b n"]:
    """``count`` numbers in [0, 1) for each of ``batch`` images.

    With a generator for each image, an image's numbers do not depend on the others.
    """
    if isinstance(draws, torch.Generator):
        return torch.rand(batch, count, generator=draws)
    rows = [torch.rand(count, generator=generator) for generator in draws]
    return torch.stack(rows) if rows else torch.empty(0, count)


def drop_labels(
    class_labels: Int[Tensor, " b"], rate: float, null_class: int, draws: Draws
) -> Int[Tensor, " b"]:
    """Replaces labels by the null class with probability ``rate`` (guidance, arXiv 2207.12598)."""
    dropped = uniform(draws, len(class_labels), 1)[:, 0] < rate
    return torch.where(dropped.to(class_labels.device), null_class, class_labels)
