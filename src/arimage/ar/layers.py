"""Layers shared by the transformers: attention, norms, rotary positions, feed-forward."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.attention.flex_attention import BlockMask

from arimage.ar.base import KeyValueCache, Step
from arimage.ar.block_mask import attend_blocks
from arimage.ar.linear import Gelu, Linear
from arimage.shapes import Float

MANY_QUERIES = 100  # from here on products beat the fused kernel (docs/performance.md)


def attend(
    q: Float[Tensor, "r h m d"],
    k: Float[Tensor, "r h n d"],
    v: Float[Tensor, "r h n d"],
    step: Step,
    cache: KeyValueCache | None,
    layer: int,
    scale: float | None = None,
    bounded: bool = False,
) -> Float[Tensor, "r m width"]:
    """Attention of a step over itself and, with a cache, all rows written before it; of fewer
    queries than keys where only some positions are asked for.

    ``bounded``: q and k are normalised, so that scores may be kept in their dtype.
    """
    if isinstance(step.mask, BlockMask):  # a lesson; mixed precision may keep more digits of q, k
        out = attend_blocks(q.to(v.dtype), k.to(v.dtype), v, step.mask, scale)
        return out.transpose(1, 2).flatten(2)
    if cache is not None and step.cached:
        k, v = cache.update(layer, step, k, v)
    fast = bounded and q.device.type == "cpu" and q.dtype == torch.bfloat16
    if fast and step.mask is None and q.shape[2] >= MANY_QUERIES and not torch.is_grad_enabled():
        out = attend_by_products(q, k, v, 1.0 if scale is None else scale)
    else:  # a cache may keep more digits than the model
        queries, mask = q.to(k.dtype), step.mask
        if mask is not None and mask.is_floating_point():
            mask = mask.to(k.dtype)
        out = F.scaled_dot_product_attention(queries, k, v, attn_mask=mask, scale=scale)
    return out.transpose(1, 2).flatten(2).to(q.dtype)


def attend_by_products(
    q: Float[Tensor, "r h m d"],
    k: Float[Tensor, "r h n d"],
    v: Float[Tensor, "r h n d"],
    scale: float,
) -> Float[Tensor, "r h m d"]:
    """softmax(scale q k^T) v, row by row, the scores in one small buffer of q's dtype.

    Twice as fast as the fused kernel on a CPU in bfloat16, whose own products are small.
    """
    q = q.contiguous() if scale == 1 else q * scale
    out, scores = torch.empty_like(q), q.new_empty(*q.shape[1:3], k.shape[2])
    for row in range(len(q)):
        torch.bmm(q[row], k[row].transpose(1, 2), out=scores)
        torch.softmax(scores, dim=-1, out=scores)
        torch.bmm(scores, v[row], out=out[row])
    return out


def split_heads(x: Float[Tensor, "r m width"], heads: int) -> Float[Tensor, "r h m d"]:
    """(r, m, heads * d) -> (r, heads, m, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Modulation(Linear):
    """adaLN of one block; a class of its own, so that training can share out its weights apart."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in float32, rounded to x's dtype before the weight (Llama's order)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "r m width"]) -> Float[Tensor, "r m width"]:
        """Same shape out."""
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=self.eps)
        return normed.to(x.dtype) * self.weight


class ResidualDropout(nn.Module):
    """Dropout at the end of a residual branch.

    ``path``, which a trainer sets, is the share of images whose whole branch is dropped (stochastic
    depth, arXiv 1603.09382); it is a matter of training and in no config.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.path = rate, 0.0

    def forward(self, x: Float[Tensor, "r m width"]) -> Float[Tensor, "r m width"]:
        """Same shape out; what is kept is scaled up."""
        if not self.training:
            return x
        x = F.dropout(x, self.rate)
        if not self.path:
            return x
        return x * x.new_empty(len(x), 1, 1).bernoulli_(1 - self.path) / (1 - self.path)


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), without biases (arXiv 2002.05202); gate and up are one product."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "r m width"]) -> Float[Tensor, "r m width"]:
        """Same shape out."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class MLP(nn.Module):
    """Linear, GELU (the tanh approximation, or itself with "none"), linear, with biases."""

    def __init__(self, width: int, hidden: int, gelu: Gelu = "tanh") -> None:
        super().__init__()
        self.gelu: Gelu = gelu
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Float[Tensor, "r m width"]) -> Float[Tensor, "r m width"]:
        """Same shape out."""
        return self.down(self.up(x, gelu=self.gelu))


def modulate(
    x: Float[Tensor, "r m width"],
    scale: Float[Tensor, "r _ width"],
    shift: Float[Tensor, "r _ width"],
) -> Float[Tensor, "r m width"]:
    """x * (1 + scale) + shift, after a norm (adaLN, arXiv 2212.09748)."""
    return torch.addcmul(shift, x, 1 + scale)


@lru_cache(maxsize=16)
def rotary_2d(
    grid: tuple[int, int],
    prefix: int,
    head_dim: int,
    base: float,
    device: torch.device,
    trained: tuple[int, int] | None = None,
) -> Float[Tensor, "n half 2"]:
    """(prefix + h*w, head_dim/2, [cos, sin]) in float32: half the pairs turn with the row, half
    with the column. Prefix rows are zero, cos included, so their queries and keys vanish
    (FoundationVision/LlamaGen@ce98ec4 autoregressive/models/gpt.py).

    ``trained``: the grid that the rows and columns of ``grid`` are spread over; None is ``grid``.
    """
    with torch.inference_mode(False):  # a table made while sampling may serve training later
        return _rotary_2d(grid, prefix, head_dim, base, device, trained or grid)


def _rotary_2d(
    grid: tuple[int, int],
    prefix: int,
    head_dim: int,
    base: float,
    device: torch.device,
    trained: tuple[int, int],
) -> Float[Tensor, "n half 2"]:
    half = head_dim // 2
    rates = base ** -(torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    rows, columns = (
        torch.arange(side, dtype=torch.float32, device=device)[:, None] * (of / side) * rates
        for side, of in zip(grid, trained, strict=True)
    )
    angles = torch.cat(
        [rows[:, None].expand(-1, grid[1], -1), columns[None].expand(grid[0], -1, -1)], dim=-1
    ).flatten(0, 1)
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([table.new_zeros(prefix, *table.shape[1:]), table])


def at_places(table: Float[Tensor, "n half 2"], places: Tensor) -> Float[Tensor, "*r m half 2"]:
    """Rows of a table whose first is zero (a prefix of one) at slots, (m,) or (r, m) with an axis
    for the heads; the first row for NO_SLOT, which is -1.
    """
    rows = table[places + 1]
    return rows if places.ndim == 1 else rows.unsqueeze(1)


def rotate(
    x: Float[Tensor, "r h m d"], table: Float[Tensor, "*r m half 2"]
) -> Float[Tensor, "_ h m d"]:
    """Turns adjacent pairs (2i, 2i+1) of the last axis, in float32 or more: as complex numbers, the
    fewest calls, or by parts where torch.compile sees it, which fuses no complex ones.
    """
    pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling() or get_proxy_mode() is not None:
        (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))
    return turned.flatten(-2).to(x.dtype)
