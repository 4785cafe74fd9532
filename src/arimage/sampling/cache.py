"""The static key-value cache: allocated once, passed, written by row. It has no pointer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from arimage.ar.base import CacheShape, Step
from arimage.ar.orders.base import Order
from arimage.shapes import Float


@dataclass(frozen=True)
class StaticCache:
    """Keys and values of all layers, (layers, rows, heads, length, head_dim) each."""

    keys: Tensor
    values: Tensor

    @classmethod
    def allocate(
        cls,
        shape: CacheShape,
        rows: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> "StaticCache":
        """Memory for ``rows`` sequences of ``length`` positions; what is in it is never read."""
        size = (shape.layers, rows, shape.heads, length, shape.head_dim)
        return cls(*(torch.empty(size, dtype=dtype, device=device) for _ in range(2)))

    def update(
        self,
        layer: int,
        step: Step,
        keys: Float[Tensor, "r h m d"],
        values: Float[Tensor, "r h m d"],
    ) -> tuple[Tensor, Tensor]:
        """Writes the rows of ``step`` in ``layer``; returns views of the rows up to stop."""
        write(self.keys[layer], step, keys)
        write(self.values[layer], step, values)
        return self.keys[layer, :, :, : step.stop], self.values[layer, :, :, : step.stop]

    def rows(self, count: int) -> "StaticCache":
        """Views of the first ``count`` rows."""
        return StaticCache(self.keys[:, :count], self.values[:, :count])


def write(memory: Float[Tensor, "r h n d"], step: Step, rows: Float[Tensor, "r h m d"]) -> None:
    """Puts ``rows`` where the step's positions are."""
    if step.moves:
        memory.index_copy_(2, step.positions, rows.to(memory.dtype))
    else:
        memory[:, :, step.start : step.stop] = rows


FEW_QUERIES = 8  # positions per step on average; below, reading keys is all that attention does


def cache_dtype(dtype: torch.dtype, device: torch.device, order: Order) -> torch.dtype:
    """What keys and values are kept in: the model's dtype, or float32 on a CPU for small steps.

    There attention of one query is 2 to 7 times as fast in float32 (docs/performance.md).
    """
    small = order.length < FEW_QUERIES * order.num_steps
    return torch.float32 if small and device.type == "cpu" and dtype == torch.bfloat16 else dtype
