"""ARPG: tokens and places apart, so that any places are predicted at once (arXiv 2503.10568).

Behaviour of hp-l33/ARPG@1a1758c models/arpg.py: the first half of the blocks reads the class and
the tokens (self-decoder); its output is one set of keys and values, which the second half reads
from queries that are one vector and differ in their rotary positions alone (cross-decoder).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from arimage.ar.base import Backbone, Cache, CacheShape, Context, Step
from arimage.ar.layers import (
    ResidualDropout,
    RMSNorm,
    SwiGLU,
    at_places,
    attend,
    rotary_2d,
    rotate,
    split_heads,
)
from arimage.ar.linear import Linear
from arimage.ar.llama import INIT_STD, ROTARY_BASE, Block, LlamaConfig, over_grid
from arimage.pretrained import strict
from arimage.shapes import Float
from arimage.slots import SlotTable


@strict
class ARPGConfig(LlamaConfig):
    """Sizes of an ARPG transformer; each decoder has half of ``depth``."""

    model_type = "arimage_arpg"
    orders: ClassVar[tuple[str, ...]] = ("random_groups",)

    order: str = "random_groups"

    def validate_halves(self) -> None:
        """Two halves."""
        if self.depth % 2:
            raise ValueError(f"got depth {self.depth}; an ARPG has two halves: give an even depth")


class CrossBlock(GradientCheckpointingLayer):
    """x + attention(norm(x)) to keys and values that all these blocks share, then the MLP."""

    def __init__(self, config: ARPGConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.num_heads
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.query = Linear(width, width, bias=False)
        self.project = Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.mlp = SwiGLU(width, config.mlp_hidden)
        self.dropout = ResidualDropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "r n width"],
        keys: Float[Tensor, "r h m d"],
        values: Float[Tensor, "r h m d"],
        table: Float[Tensor, "*r n half 2"],
        step: Step,
    ) -> Float[Tensor, "r n width"]:
        """``table``: rotary cos and sin of the places to predict; ``step``: with their mask."""
        q = rotate(split_heads(self.query(self.attention_norm(x)), self.heads), table)
        x = x + self.dropout(self.project(attend(q, keys, values, step, None, 0)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class ARPGModel(Backbone):
    """Predicts the tokens at the places of its queries, which are UNKNOWN ids."""

    config_class = ARPGConfig
    config: ARPGConfig
    unused_draws: ClassVar[int] = 1  # models/arpg.py preprocess_condition: labels to drop, none
    _no_split_modules: ClassVar[list[str]] = ["Block", "CrossBlock"]

    def __init__(self, config: ARPGConfig) -> None:
        super().__init__(config)
        width, half = config.width, config.depth // 2
        self.trained_grid = (config.grid[0], config.grid[1])
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.mask_token = nn.Parameter(torch.randn(1, width) * INIT_STD)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(half))
        self.memory_norm = RMSNorm(width, config.norm_eps)
        self.key_value = Linear(width, 2 * width, bias=False)
        self.cross_blocks = nn.ModuleList(CrossBlock(config) for _ in range(half))
        self.norm = RMSNorm(width, config.norm_eps)
        self.output = Linear(width, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(self.output.weight)
        self.post_init()

    @property
    def slots(self) -> SlotTable:
        """The cells of the grid."""
        return self.config.slots

    @property
    def cache_shape(self) -> CacheShape:
        """Half of the blocks, and one set of keys and values for the other half."""
        return CacheShape(self.config.depth // 2 + 1, self.config.num_heads, self.config.head_dim)

    def at(self, grids: Sequence[tuple[int, int]]) -> "ARPGModel":
        """As LlamaGen's."""
        return over_grid(self, grids)

    def prepare(self, condition: Any) -> Context:
        """The class token; ``condition``: class labels (r,)."""
        return Context(self.class_embedding(condition).unsqueeze(1))

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """``inputs`` (r, m): ids of tokens, then an UNKNOWN for each place to predict."""
        assert inputs is not None
        reading, asking = apart(step)
        x = self.token_embedding(inputs[:, : inputs.shape[1] - step.predicts])
        if step.start == 0:
            x = torch.cat([context.prefix, x], dim=1)
        x, table = self.dropout(x), self.rotary_at(reading.holds)  # (r, m, width)
        for block in self.blocks:
            x = block(x, table, reading, cache)
        kv = split_heads(self.key_value(self.memory_norm(x)), 2 * self.config.num_heads)
        k, v = kv.chunk(2, dim=1)
        k = rotate(k, table)
        if cache is not None and step.cached:
            k, v = cache.update(len(self.blocks), reading, k, v)
        queries = self.mask_token.expand(len(x), step.predicts, -1)  # (r, n, width)
        table = self.rotary_at(step.slots)
        for block in self.cross_blocks:
            queries = block(queries, k, v, table, asking)
        return self.norm(queries)

    def rotary_at(self, places: Tensor) -> Float[Tensor, "*r n half 2"]:
        """cos and sin at slots, (n,) or (r, n), with an axis for the heads; zero for NO_SLOT."""
        height, width = self.config.grid
        sizes = self.prefix_length, self.config.head_dim, ROTARY_BASE
        table = rotary_2d((height, width), *sizes, places.device, self.trained_grid)
        return at_places(table, places)

    def head(self, hidden: Float[Tensor, "r n width"]) -> Float[Tensor, "r n vocab"]:
        """A linear layer without bias."""
        return self.output(hidden)


def apart(step: Step) -> tuple[Step, Step]:
    """The step of its tokens and that of its queries, whose rows the cache does not have.

    Neither sees a query. Blocks of a mask are those of both (orders/random_groups.py).
    """
    tokens = len(step.positions) - step.predicts
    stop = step.stop if step.moves else step.stop - step.predicts
    reads = asks = step.mask
    if isinstance(step.mask, Tensor):
        reads, asks = step.mask[:, :stop].tensor_split([tokens])
    reading = dataclasses.replace(
        step,
        positions=step.positions[:tokens],
        stop=stop,
        mask=reads,
        holds=step.holds[..., :tokens],
    )
    return reading, dataclasses.replace(reading, mask=asks)
