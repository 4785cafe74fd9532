"""How many images fit into memory at once: an estimate, meant to be above the truth.

Per image: the key-value cache, the widest step of the transformer (activations and logits) and the
tokenizer's activations, which it states itself. Per batch: what the transformer prepares for each
distinct condition (RAR's adaLN tables). Weights are not counted: they are there already. Where the
estimate was below the truth, ``batches.Fit`` goes on with fewer.
"""

import dataclasses
import math
from typing import Any

import torch

from arimage.ar.base import Backbone
from arimage.ar.orders.base import Order
from arimage.sampling.cache import CACHE_DTYPES, cache_dtype
from arimage.sampling.guidance import Guidance
from arimage.sampling.settings import Settings

LARGEST_BATCH = 256  # more does not make a step faster, and results would arrive late
GIB = 2**30
CPU_BUDGET = 4.0  # GiB
CUDA_SHARE = 0.8  # of what is free: kernels need room too
ACTIVATIONS = 24  # values per position and unit of width alive in one block, feed-forward included
LOGIT_BYTES = 64  # per logit: float32 copies, float64 sums and sorted copies of the samplers


def image_bytes(
    model: Backbone,
    order: Order,
    guidance: Guidance,
    tokenizer_bytes: int,
    kept_as: str | None = None,
) -> int:
    """Estimated peak of one image; twice the rows where guidance is on.

    Args:
        model, order, guidance: as they will run.
        tokenizer_bytes: what the tokenizer holds while it decodes one image.
        kept_as: ``Settings.cache_dtype``.
    """
    size, shape = model.dtype.itemsize, model.cache_shape
    steps = [order.step(i) for i in range(order.num_steps)]
    guidance = guidance.bound(steps, order.num_slots, order.cached)
    rows = 2 if guidance.last_active(order.num_steps) >= 0 else 1
    read = cache_dtype(model.dtype, model.device, order).itemsize
    layer = 2 * shape.heads * shape.head_dim * order.length  # values
    cache = shape.layers * layer * read
    if kept_as is not None:  # and one layer at a time in the model's dtype
        cache = shape.layers * layer * CACHE_DTYPES[kept_as].itemsize + layer * size
    own = model.new_cache(1, torch.device("meta"))
    if own is not None or not order.cached:
        cache = 0 if own is None else held_bytes(own)
    widest = max(model.prefix_rows, *(step.stop - step.start for step in steps))
    activations = widest * model.config.width * ACTIVATIONS * size
    logits = max(step.predicts for step in steps) * max(model.parts) * LOGIT_BYTES
    return rows * (cache + activations) + logits + tokenizer_bytes


def held_bytes(cache: Any) -> int:
    """Bytes of a cache's tensors."""
    return sum(getattr(cache, field.name).nbytes for field in dataclasses.fields(cache))


def planned(
    main: Any, guide: Any, settings: Settings, memory_budget: float | int | None = None
) -> int:
    """How many images of a generator, and of its guide if there is one, fit at once.

    ``memory_budget``: as ``budget_bytes``.
    """
    how = main.order(**settings.order_options), settings.guidance(), 0, settings.cache_dtype
    models = list(main.transformers)
    one = main.tokenizer.bytes_per_image + sum(image_bytes(model, *how) for model in models)
    if guide is not None:
        models.append(guide.transformer)
        one += image_bytes(guide.transformer, how[0], Guidance(), *how[2:])
    tables = [model.table_bytes for model in models]
    table, most = map(sum, zip(*tables, strict=True))
    budget = budget_bytes(memory_budget, main.device, main.held_bytes)
    return fitting_batch(one, budget, table, most)


def budget_bytes(memory_budget: float | int | None, device: torch.device, held: int = 0) -> int:
    """``memory_budget`` GiB in bytes; None is a share of the free memory on CUDA, else 4 GiB.

    ``held``: bytes of captured caches, which count as free: the same batch uses them again.

    Raises:
        ValueError: a budget that is not above 0.
    """
    if memory_budget is not None:
        if not 0 < memory_budget < math.inf:
            raise ValueError(f"got memory_budget {memory_budget}; expected GiB, a number above 0")
        return int(memory_budget * GIB)
    if device.type != "cuda":
        return int(CPU_BUDGET * GIB)
    free, _ = torch.cuda.mem_get_info(device)  # without what torch keeps for itself
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(CUDA_SHARE * (free + kept + held))


def fitting_batch(per_image: int, budget: int, table: int = 0, most: int = 0) -> int:
    """Images that fit into ``budget`` bytes: at least one, at most ``LARGEST_BATCH``.

    Args:
        per_image: ``image_bytes``.
        table, most: ``Backbone.table_bytes``: for each condition, of which there are at most one
            per image and the null one; and for all of them.
    """
    of_each = (budget - table) // (per_image + table)
    of_all = (budget - most) // per_image
    return min(max(of_each, of_all, 1), LARGEST_BATCH)


def check_batch_size(batch_size: int, images: int = 1, shared: bool = False) -> int:
    """``batch_size``, or a ValueError unless it is at least 1, and fits where noise is shared."""
    if batch_size < 1:
        raise ValueError(f"got batch_size {batch_size}; expected an integer >= 1")
    if shared and images > batch_size:
        raise ValueError(
            f"got {images} images and batch_size {batch_size}; rng='reference' draws for all "
            "images together: raise batch_size, or call once per batch"
        )
    return batch_size
