"""A context rule as FlexAttention reads it: which blocks of keys a block of queries sees at all.

Whole blocks that nobody sees are never computed, and a mask is looked up only in blocks that are
seen in part (arXiv 2412.05496, ``torch.nn.attention.flex_attention``). Used in training on GPUs;
the same rule as a dense mask for scaled_dot_product_attention is the slow twin.
"""

from functools import lru_cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from arimage.ar.base import Backbone
from arimage.shapes import Bool, Float, Int

Attention = Literal["flex", "sdpa"]
NARROWEST = 16  # head_dim of the kernel: tl.dot, torch/_inductor/kernel/flex/flex_attention.py


def make_block_mask(mask: Bool[Tensor, "m n"]) -> BlockMask:
    """The same mask in blocks of 128 x 128, the last ones cut; it lives where ``mask`` does."""
    height, width = mask.shape
    return create_block_mask(
        lambda image, head, query, key: mask[query, key],
        *(None, None, height, width),
        device=mask.device,
    )


def visible(blocks: BlockMask) -> Bool[Tensor, "m n"]:
    """The dense mask, read back from the lists of blocks: ``mask_mod`` counts only in those that
    are seen in part.
    """
    parts = listed(blocks.kv_num_blocks[0, 0], blocks.kv_indices[0, 0])
    counts, indices = blocks.full_kv_num_blocks, blocks.full_kv_indices
    assert counts is not None
    assert indices is not None
    whole = listed(counts[0, 0], indices[0, 0])
    queries, keys = (torch.arange(n, device=parts.device) for n in blocks.shape[-2:])
    query, key = queries[:, None], keys[None]
    block = (query // blocks.BLOCK_SIZE[0], key // blocks.BLOCK_SIZE[1])
    zero = torch.zeros((), dtype=torch.long, device=parts.device)
    return whole[block] | (parts[block] & blocks.mask_mod(zero, zero, query, key))


def listed(counts: Int[Tensor, " q"], indices: Int[Tensor, "q k"]) -> Bool[Tensor, "q k"]:
    """True at the first ``counts`` of each row's ``indices``."""
    first = torch.arange(indices.shape[1], device=indices.device) < counts[:, None]
    return torch.zeros_like(first).scatter(1, indices.long(), first)


def attend_blocks(
    q: Float[Tensor, "r h m d"],
    k: Float[Tensor, "r h n d"],
    v: Float[Tensor, "r h n d"],
    blocks: BlockMask,
    scale: float | None,
) -> Float[Tensor, "r h m d"]:
    """softmax(scale q k^T) v over what is visible.

    By FlexAttention's compiled kernel; on a CPU, where it has no gradients, from the same blocks by
    scaled_dot_product_attention.
    """
    if q.device.type == "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible(blocks), scale=scale)
    kernel = flex_attention if torch.compiler.is_compiling() else _kernel()
    return kernel(q, k, v, block_mask=blocks, scale=scale)


@lru_cache(maxsize=1)
def _kernel() -> Any:
    return torch.compile(flex_attention)


def choose_attention(asked: str | None, transformer: Backbone) -> Attention:
    """How a transformer attends in training: "flex" or "sdpa".

    Args:
        asked: one of them; None is flex on a CUDA device and sdpa elsewhere, and where flex cannot
            be: models of text, which add numbers to scores, and heads narrower than 16 on a GPU.
        transformer: where it trains.

    Raises:
        ValueError: another name; flex for a model that cannot use it.
    """
    if asked not in (None, *get_args(Attention)):
        raise ValueError(f"got attention {asked!r}; expected flex or sdpa")
    if asked == "sdpa":
        return "sdpa"
    on_gpu, head_dim = transformer.device.type == "cuda", transformer.cache_shape.head_dim
    narrow = on_gpu and head_dim < NARROWEST
    if transformer.takes_text or narrow:
        if asked is None:
            return "sdpa"
        why = "is of text" if transformer.takes_text else f"has a head_dim of {head_dim}"
        raise ValueError(
            f"got attention 'flex' for a model that {why}; it takes models of classes with a "
            f"head_dim from {NARROWEST} on: use sdpa"
        )
    return "flex" if on_gpu or asked else "sdpa"
