"""RAR: a next-token transformer that is told which token comes next (arXiv 2411.00776).

Behaviour of bytedance/1d-tokenizer@942a96f modeling/rar.py: the sequence is a start token, the
class, then tokens; adaLN from the class and the place in the sequence; learned positions for the
slot that a token has and for the slot to predict. So it can follow any order. The published
weights were trained from random orders to raster at the end, and their quality in other orders is
not known; ``order="random"`` runs them there all the same.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from arimage.ar.base import Backbone, Cache, Context, Step
from arimage.ar.config import GridConfig
from arimage.ar.layers import MLP, Modulation, ResidualDropout, attend, modulate, split_heads
from arimage.ar.linear import Linear
from arimage.pretrained import strict
from arimage.shapes import Float, Int
from arimage.slots import SlotTable

INIT_STD = 0.02  # modeling/rar.py init_weights
TABLE_BYTES = 2**30  # adaLN tables of a batch; above it they are made step by step


@strict
class RARConfig(GridConfig):
    """Sizes of a RAR transformer."""

    model_type = "arimage_rar"
    orders: ClassVar[tuple[str, ...]] = ("raster", "random")

    mlp_hidden: int = 512
    norm_eps: float = 1e-6


@dataclass(frozen=True)
class RARContext(Context):
    """prefix (r, 2, width); row (r,): which of the k distinct classes; classes (k, width).

    tables: adaLN of every position and distinct class, (positions, k, 6 width) for each block and
    (positions, k, 2 width) before the head; None where they take more than ``TABLE_BYTES``.
    """

    row: Tensor
    classes: Tensor
    tables: tuple[Tensor, ...] | None

    def rows(self, count: int) -> "RARContext":
        """The first ``count`` rows; what belongs to distinct classes is shared."""
        return dataclasses.replace(self, prefix=self.prefix[:count], row=self.row[:count])


class Block(GradientCheckpointingLayer):
    """x + gate * f(norm(x) * (1 + scale) + shift) for attention, then for the MLP."""

    def __init__(self, config: RARConfig, layer: int) -> None:
        super().__init__()
        width, head_dim, eps = config.width, config.head_dim, config.norm_eps
        self.layer, self.heads = layer, config.num_heads
        self.attention_norm = nn.LayerNorm(width, eps)
        self.qkv = Linear(width, 3 * width)
        self.query_norm, self.key_norm = nn.LayerNorm(head_dim, eps), nn.LayerNorm(head_dim, eps)
        self.project = Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, config.mlp_hidden, gelu="none")
        self.dropout = ResidualDropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "r m width"],
        table: Float[Tensor, "r m sixwidth"],
        step: Step,
        cache: Cache | None,
    ) -> Float[Tensor, "r m width"]:
        """``table``: shift, scale, gate of the attention, then of the MLP, for each position."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = table.chunk(6, dim=-1)
        h = modulate(self.attention_norm(x), scale_a, shift_a)
        x = torch.addcmul(x, gate_a, self.dropout(self.attention(h, step, cache)))
        h = modulate(self.mlp_norm(x), scale_m, shift_m)
        return torch.addcmul(x, gate_m, self.dropout(self.mlp(h)))

    def attention(
        self, x: Float[Tensor, "r m width"], step: Step, cache: Cache | None
    ) -> Float[Tensor, "r m width"]:
        """Self-attention; queries and keys are normalised per head."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = self.query_norm(q), self.key_norm(k)
        return self.project(attend(q, k, v, step, cache, self.layer))


class RARModel(Backbone):
    """Predicts the next token, in raster order or in any other."""

    config_class = RARConfig
    config: RARConfig
    prefix_length: ClassVar[int] = 2
    unused_draws: ClassVar[int] = 1  # modeling/rar.py preprocess_condition: labels to drop, none
    _no_split_modules: ClassVar[list[str]] = ["Block", "Modulation"]

    def __init__(self, config: RARConfig) -> None:
        super().__init__(config)
        width, slots = config.width, self.slots.num_slots
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Embedding(self.prefix_length + slots, width)
        self.target_embedding = nn.Embedding(slots, width)
        self.step_embedding = nn.Embedding(self.num_positions, width)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        self.modulations = nn.ModuleList(Modulation(width, 6 * width) for _ in range(config.depth))
        self.out_modulation = Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, config.norm_eps, elementwise_affine=False)
        self.output = Linear(width, config.vocab_size)
        initialize(self)
        self.post_init()

    @property
    def slots(self) -> SlotTable:
        """The cells of the grid."""
        return self.config.slots

    @property
    def num_positions(self) -> int:
        """Sequence positions: the last token is never fed back."""
        return self.prefix_length - 1 + self.slots.num_slots

    @property
    def table_bytes(self) -> tuple[int, int]:
        """Bytes of the adaLN tables of one class, and the most for all of them."""
        values = (6 * self.config.depth + 2) * self.config.width
        return self.num_positions * values * self.dtype.itemsize, TABLE_BYTES

    def prepare(self, class_labels: Int[Tensor, " r"]) -> RARContext:
        """The prefix, and the adaLN tables of the distinct classes if they fit."""
        distinct, row = class_labels.unique(return_inverse=True)
        classes, tables = self.class_embedding(distinct), None
        one, most = self.table_bytes
        if self.keeps_tables and one * len(distinct) <= most:
            tables = tuple(self.modulated(classes, self.step_embedding.weight))
        start = self.start.expand(len(row), -1, -1)
        prefix = torch.cat([start, classes[row].unsqueeze(1)], dim=1)
        return RARContext(prefix, row, classes, tables)

    def settled(self, context: RARContext) -> RARContext:
        """Room for as many distinct classes as there can be among so many rows."""
        one, most = self.table_bytes
        room = min(len(context.row), self.config.num_classes + 1)
        if context.tables is not None:
            room = min(room, most // one)
        more = room - len(context.classes)
        tables = context.tables and tuple(F.pad(t, (0, 0, 0, more)) for t in context.tables)
        classes = F.pad(context.classes, (0, 0, 0, more))
        return dataclasses.replace(context, classes=classes, tables=tables)

    def modulated(
        self, classes: Float[Tensor, "k width"], places: Float[Tensor, "m width"]
    ) -> Iterator[Float[Tensor, "m k values"]]:
        """adaLN of places in the sequence and each class: of the blocks, then before the head."""
        condition = places.unsqueeze(1) + classes
        active = F.silu(condition)
        return (linear(active) for linear in (*self.modulations, self.out_modulation))

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """``inputs`` (r, m): token ids of the slots that ``step`` holds."""
        assert isinstance(context, RARContext)
        parts = [] if step.start else [context.prefix]
        if inputs is not None:
            parts.append(self.token_embedding(inputs))
        x = torch.cat(parts, dim=1)  # (r, m, width)
        x = x + self.positions(step)
        if context.tables is None:
            places = step.take(self.step_embedding.weight)
            tables = self.modulated(context.classes, places)
        else:
            tables = (step.take(table) for table in context.tables)
        tables = (table[:, context.row].transpose(0, 1) for table in tables)
        for block in self.blocks:
            x = block(x, next(tables), step, cache)
        scale, shift = step.read(next(tables)).chunk(2, dim=-1)
        return modulate(self.norm(step.read(x)), scale, shift)

    def positions(self, step: Step) -> Float[Tensor, "*r m width"]:
        """Embeddings of the slot that each position has, and of the slot that it predicts."""
        rows = torch.where(step.holds < 0, step.positions, step.holds + self.prefix_length)
        targets = self.target_embedding(step.slots)
        without = len(step.positions) - step.predicts  # they come first and predict nothing
        return self.position_embedding(rows) + F.pad(targets, (0, 0, without, 0))

    def head(self, hidden: Float[Tensor, "r n width"]) -> Float[Tensor, "r n vocab"]:
        """A linear layer."""
        return self.output(hidden)


@torch.no_grad()
def initialize(model: RARModel) -> None:
    """The reference's start: std 0.02, biases zero, adaLN zero, so that no block does anything."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for modulation in (*model.modulations, model.out_modulation):
        nn.init.zeros_(modulation.weight)
