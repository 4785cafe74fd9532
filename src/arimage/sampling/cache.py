"""The static key-value cache: allocated once, passed, written by row. It has no pointer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from arimage.ar.base import CacheShape, Step
from arimage.ar.orders.base import Order
from arimage.registry import unknown_name
from arimage.shapes import Float


@dataclass(frozen=True)
class StaticCache:
    """Keys and values of each layer, (rows, heads, length, head_dim).

    A tensor for each layer, since a compiled step writes into a whole one in place, and would copy
    one of all layers for each of them.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

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
        size = (rows, shape.heads, length, shape.head_dim)
        count = 2 * shape.layers
        layers = tuple(torch.empty(size, dtype=dtype, device=device) for _ in range(count))
        return cls(layers[: shape.layers], layers[shape.layers :])

    def update(
        self,
        layer: int,
        step: Step,
        keys: Float[Tensor, "r h m d"],
        values: Float[Tensor, "r h m d"],
    ) -> tuple[Tensor, Tensor]:
        """Writes the rows of ``step`` in ``layer``; returns views of the rows up to stop."""
        kept_keys, kept_values = self.keys[layer], self.values[layer]
        write(kept_keys, step, keys)
        write(kept_values, step, values)
        return kept_keys[:, :, : step.stop], kept_values[:, :, : step.stop]

    def rows(self, count: int) -> "StaticCache":
        """Views of the first ``count`` rows."""
        return type(self)(*(tuple(m[:count] for m in kept) for kept in (self.keys, self.values)))


@dataclass(frozen=True)
class Opening:
    """What a first step leaves behind, made before: its hidden states, and the rows that it wrote.

    hidden (r, n, width); keys and values of each layer, (r, heads, rows, head_dim), none where the
    order keeps none.
    """

    hidden: Tensor
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, hidden: Tensor, cache: StaticCache | None, rows: int) -> "Opening":
        """Copies of the first ``rows`` rows of a cache, with the hidden states of their step."""
        if cache is None:
            return cls(hidden)
        copies = (
            tuple(m[:, :, :rows].clone() for m in kept) for kept in (cache.keys, cache.values)
        )
        return cls(hidden, *copies)

    def fill(self, cache: StaticCache | None) -> None:
        """Writes the rows as the step would have."""
        if cache is None:
            return
        pairs = zip((*cache.keys, *cache.values), (*self.keys, *self.values), strict=True)
        for memory, rows in pairs:
            memory[:, :, : rows.shape[2]] = rows


def write(memory: Float[Tensor, "r h n d"], step: Step, rows: Float[Tensor, "r h m d"]) -> None:
    """Puts ``rows`` where the step's positions are."""
    rows = rows.to(memory.dtype)
    if step.scattered:
        places = step.positions.expand(len(rows), -1)[:, None, :, None]
        bits = memory.view(torch.uint8) if memory.itemsize == 1 else memory
        bits.scatter_(2, places.expand_as(rows), rows.view(bits.dtype))
    elif not step.moves:
        memory[:, :, step.start : step.stop] = rows
    elif memory.itemsize == 1:  # torch copies bytes by index, not float8
        memory.view(torch.uint8).index_copy_(2, step.positions, rows.view(torch.uint8))
    else:
        memory.index_copy_(2, step.positions, rows)


CACHE_DTYPES = {"fp8": torch.float8_e4m3fn}  # what Settings.cache_dtype may be


class Float8Cache(StaticCache):
    """Keys and values in 8 bits, read back in the dtype they came in: a step sees all rounded.

    No scales: a float8_e4m3fn has a relative error of at most 1/16 from 2^-6 to 448, and keys and
    values lie in that range (docs/performance.md). What is larger is cut.
    """

    def update(
        self,
        layer: int,
        step: Step,
        keys: Float[Tensor, "r h m d"],
        values: Float[Tensor, "r h m d"],
    ) -> tuple[Tensor, Tensor]:
        """As ``StaticCache``'s; returns copies, of one layer, that attention can read."""
        most = torch.finfo(self.keys[0].dtype).max  # a cast of more is NaN in older torch
        kept = super().update(layer, step, *(t.clamp(-most, most) for t in (keys, values)))
        return kept[0].to(keys.dtype), kept[1].to(keys.dtype)


def make_cache(
    kept_as: str | None,
    shape: CacheShape,
    rows: int,
    length: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> StaticCache:
    """A cache of keys and values in ``dtype``, or as a name says."""
    if kept_as is None:
        return StaticCache.allocate(shape, rows, length, dtype, device)
    return Float8Cache.allocate(shape, rows, length, CACHE_DTYPES[kept_as], device)


def check_cache_dtype(kept_as: str | None, order: Order | None = None) -> None:
    """Raises KeyError for an unknown name, ValueError for an order that keeps no cache."""
    if kept_as is not None and kept_as not in CACHE_DTYPES:
        raise KeyError(unknown_name("cache_dtype", kept_as, CACHE_DTYPES))
    if kept_as is not None and order is not None and not order.cached:
        raise ValueError(
            f"got cache_dtype {kept_as!r} and a transformer that keeps no keys and values between "
            "steps; leave it out"
        )


FEW_QUERIES = 8  # positions per step on average; below, reading keys is all that attention does


def cache_dtype(dtype: torch.dtype, device: torch.device, order: Order) -> torch.dtype:
    """What keys and values are kept in: the model's dtype, or float32 on a CPU for small steps.

    There attention of one query is 2 to 7 times as fast in float32 (docs/performance.md).
    """
    small = order.length < FEW_QUERIES * order.num_steps
    return torch.float32 if small and device.type == "cpu" and dtype == torch.bfloat16 else dtype
