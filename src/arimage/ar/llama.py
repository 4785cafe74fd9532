"""A Llama-type transformer over image tokens: RMSNorm, SwiGLU, 2-D rotary positions.

Behaviour of FoundationVision/LlamaGen@ce98ec4 autoregressive/models/gpt.py (arXiv 2406.06525) in
raster order. With ``order="masked"`` the same blocks are bidirectional and the vocabulary has one
more row, the mask token (arXiv 2202.04200).
"""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from arimage.ar.base import UNKNOWN, Backbone, Cache, Context, Step
from arimage.ar.config import GridConfig
from arimage.ar.layers import (
    ResidualDropout,
    RMSNorm,
    SwiGLU,
    attend,
    rotary_2d,
    rotate,
    split_heads,
)
from arimage.ar.linear import Linear, linear
from arimage.pretrained import strict
from arimage.shapes import Bool, Float, Int
from arimage.slots import SlotTable

L = TypeVar("L", bound="LlamaModel")
B = TypeVar("B", bound=Backbone)
ROTARY_BASE = 10000.0  # FoundationVision/LlamaGen@ce98ec4 autoregressive/models/gpt.py, ModelArgs
INIT_STD = 0.02  # the same class


@strict
class LlamaConfig(GridConfig):
    """Sizes of a Llama-type transformer."""

    model_type = "arimage_llama"
    orders: ClassVar[tuple[str, ...]] = ("raster", "masked", "jacobi")

    mlp_hidden: int = 384
    norm_eps: float = 1e-5

    @property
    def extra_tokens(self) -> int:
        """Rows after the vocabulary: the mask token."""
        return int(self.order == "masked")

    def validate_rotary(self) -> None:
        """Half of the rotary pairs turn with the row, half with the column."""
        if self.head_dim % 4:
            raise ValueError(
                f"got width {self.width} and num_heads {self.num_heads}, head_dim {self.head_dim}; "
                "2-D rotary positions need a multiple of 4"
            )


class Block(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)); no biases."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        width = config.width
        self.layer, self.heads = layer, config.num_heads
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.qkv = Linear(width, 3 * width, bias=False)
        self.project = Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.mlp = SwiGLU(width, config.mlp_hidden)
        self.dropout = ResidualDropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "r m width"],
        table: Float[Tensor, "*r m half 2"],
        step: Step,
        cache: Cache | None,
    ) -> Float[Tensor, "r m width"]:
        """``table``: rotary cos and sin of the step's positions."""
        return self.rest(x, self.attention(self.attention_norm(x), table, step, cache))

    def attention(
        self,
        x: Float[Tensor, "r m width"],
        table: Float[Tensor, "*r m half 2"],
        step: Step,
        cache: Cache | None,
    ) -> Float[Tensor, "r m width"]:
        """Self-attention of normalised inputs, before the projection."""
        qkv = split_heads(self.qkv(x), 3 * self.heads)
        q, k = rotate(qkv[:, : 2 * self.heads], table).chunk(2, dim=1)
        return attend(q, k, qkv[:, 2 * self.heads :], step, cache, self.layer)

    def prefix(
        self, x: Float[Tensor, "r n width"], mask: Bool[Tensor, "r n"] | None
    ) -> tuple[Float[Tensor, "r n width"], Float[Tensor, "r h 1 d"]]:
        """The block over a prefix alone, and the value that later positions see in its place.

        Rotary rows of the prefix are zero, and so are its queries and keys: each position sees
        those up to itself alike, which is a running mean of values. Later positions see the whole
        prefix as one position: a zero key and the mean value, weighing as much as there are valid
        positions. Exact, but for rounding; ``forward`` over all positions is the slow twin.

        Args:
            x: the positions, the last of which is valid.
            mask: which are valid; None for a prefix of one.
        """
        v = self.values(self.attention_norm(x))
        mean = v if mask is None else running_mean(v, mask)
        return self.rest(x, mean), split_heads(mean[:, -1:], self.heads)

    def values(self, x: Float[Tensor, "r n width"]) -> Float[Tensor, "r n width"]:
        """Values alone; with queries and keys where weights are packed or quantised: no cutting."""
        if self.qkv.packed is not None or self.qkv.quantized:
            return self.qkv(x).chunk(3, dim=-1)[2]
        return linear(x, self.qkv.weight[2 * x.shape[-1] :], None)

    def rest(
        self, x: Float[Tensor, "r m width"], attended: Float[Tensor, "r m width"]
    ) -> Float[Tensor, "r m width"]:
        """What follows attention."""
        x = x + self.dropout(self.project(attended))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def running_mean(
    values: Float[Tensor, "r n width"], mask: Bool[Tensor, "r n"]
) -> Float[Tensor, "r n width"]:
    """Mean of the valid values up to each position, in float32; zeros before the first of them."""
    weights = mask.unsqueeze(-1).float()
    means = (values * weights).cumsum(1) / weights.cumsum(1).clamp_min(1)
    return means.to(values.dtype)


def over_grid(model: B, grids: Sequence[tuple[int, int]]) -> B:
    """The same weights of a model of rotary positions over another grid; for ``at``.

    Raises:
        ValueError: several maps; a grid that the order cannot cut.
    """
    if len(grids) != 1:
        raise ValueError(f"got grids {list(grids)}; this model has one token map: give one")
    config = {name: getattr(model.config, name) for name in model.config.own_fields()}
    other = copy.copy(model)
    other.config = type(model.config)(**config | {"grid": list(grids[0])})
    return other


class LlamaModel(Backbone):
    """Predicts the next token (raster) or all unknown tokens (masked)."""

    config_class = LlamaConfig
    config: LlamaConfig
    block: ClassVar[type[Block]] = Block
    _no_split_modules: ClassVar[list[str]] = ["Block"]

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.trained_grid = (config.grid[0], config.grid[1])
        self.add_condition(config)
        self.token_embedding = self.make_embedding(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(self.block(config, i) for i in range(config.depth))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.output = self.make_output(config)
        self.initialize()
        self.post_init()

    def add_condition(self, config: Any) -> None:
        """Makes what ``prepare`` needs."""
        self.class_embedding = nn.Embedding(config.num_classes + 1, config.width)

    def make_embedding(self, config: Any) -> nn.Module:
        """What turns tokens into vectors."""
        return nn.Embedding(config.vocab_size + config.extra_tokens, config.width)

    def make_output(self, config: Any) -> nn.Module:
        """What makes logits."""
        return Linear(config.width, config.vocab_size, bias=False)

    def initialize(self) -> None:
        """The reference's start: a small normal distribution, and zeros before the logits."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    @property
    def slots(self) -> SlotTable:
        """The cells of the grid."""
        return self.config.slots

    def at(self: L, grids: Sequence[tuple[int, int]]) -> L:
        """As every model's: rotary positions of the new grid, moved into the range of the one that
        was trained (position interpolation, arXiv 2306.15595).

        Raises:
            ValueError: several maps; a grid that the order cannot cut.
        """
        return over_grid(self, grids)

    def prepare(self, condition: Any) -> Context:
        """The class token; ``condition``: class labels (r,)."""
        return Context(self.class_embedding(condition).unsqueeze(1))

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """``inputs`` (r, m): token ids, UNKNOWN for the mask token; None for the prefix alone."""
        if inputs is None:
            return self.prefill(context.prefix, None, step, cache)
        x = self.embed(inputs, step)
        if step.start == 0:
            x = torch.cat([context.prefix, x], dim=1)
        x = self.dropout(x)  # (r, m, width)
        table = self.rotary(step)
        for block in self.blocks:
            x = block(x, table, step, cache)
        return self.finish(step.read(x))

    def finish(self, x: Float[Tensor, "r n width"]) -> Float[Tensor, "r n width"]:
        """What follows the blocks."""
        return self.norm(x)

    def prefill(
        self,
        prefix: Float[Tensor, "r n width"],
        mask: Bool[Tensor, "r n"] | None,
        step: Step,
        cache: Cache | None,
    ) -> Float[Tensor, "r 1 width"]:
        """The prefix alone: one cache row per layer, and the last normalised hidden state."""
        x = self.dropout(prefix)
        for block in self.blocks:
            x, value = block.prefix(x, mask)
            if cache is not None:
                cache.update(block.layer, step, torch.zeros_like(value), value)
        return self.finish(x[:, -1:])

    def embed(self, ids: Int[Tensor, "r m"], step: Step) -> Float[Tensor, "r m width"]:
        """Token ids to vectors; UNKNOWN and below are the rows after the vocabulary."""
        rows = torch.where(ids < 0, self.config.vocab_size + UNKNOWN - ids, ids)
        return self.token_embedding(rows)

    def head(self, hidden: Float[Tensor, "r n width"]) -> Float[Tensor, "r n vocab"]:
        """A linear layer without bias."""
        return self.output(hidden)

    def rotary(self, step: Step) -> Float[Tensor, "*r m half 2"]:
        """cos and sin of the step's positions."""
        return self.rotary_table(step.positions.device)[step.positions]

    def rotary_table(self, device: torch.device) -> Float[Tensor, "n half 2"]:
        """cos and sin of every sequence position."""
        height, width = self.config.grid
        sizes = self.prefix_length, self.config.head_dim, ROTARY_BASE
        return rotary_2d((height, width), *sizes, device, self.trained_grid)
