"""Halton-MaskGIT: a bidirectional transformer with adaLN from the class (arXiv 2503.17076).

Behaviour of valeoai/Halton-MaskGIT@f61b0a1 Network/transformer.py: RMSNorm, SwiGLU, queries and
keys normalised over all heads at once, learned positions, one register token without a place, and
a head that is the token embedding. The mask token has a row there and so a logit.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from arimage.ar.base import Backbone, Cache, Context, Step
from arimage.ar.config import GridConfig
from arimage.ar.layers import (
    Modulation,
    ResidualDropout,
    RMSNorm,
    SwiGLU,
    attend,
    modulate,
    split_heads,
)
from arimage.ar.linear import Linear, linear
from arimage.pretrained import strict
from arimage.shapes import Float, Int
from arimage.slots import SlotTable

INIT_STD = 0.02  # Network/transformer.py initialize_weights


@strict
class HaltonConfig(GridConfig):
    """Sizes of a Halton-MaskGIT transformer; ``mask_schedule`` is that of its masks."""

    model_type = "arimage_halton"
    orders: ClassVar[tuple[str, ...]] = ("halton", "masked")

    order: str = "halton"
    mask_schedule: str = "arccos"
    norm_eps: float = 1e-5

    def validate_heads(self) -> None:
        """The published small size has heads of 85 for a width of 512: no heads are too many."""
        if self.num_heads > self.width:
            raise ValueError(
                f"width {self.width} is less than num_heads {self.num_heads}; change one of them"
            )


@dataclass(frozen=True)
class HaltonContext(Context):
    """prefix (r, 1, width): the register; tables (r, depth, 6 width): adaLN of each block; last
    (r, 2 width): before the head.
    """

    tables: Tensor
    last: Tensor


class Block(GradientCheckpointingLayer):
    """x + gate * f(norm(x) * (1 + scale) + shift) for attention, then for the MLP."""

    def __init__(self, config: HaltonConfig, layer: int) -> None:
        super().__init__()
        width, inner = config.width, config.num_heads * config.head_dim
        self.layer, self.heads, self.eps = layer, config.num_heads, config.norm_eps
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.qkv = Linear(width, 3 * inner, bias=False)
        self.project = Linear(inner, width, bias=False)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.mlp = SwiGLU(width, config.mlp_hidden)
        self.dropout = ResidualDropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "r m width"],
        table: Float[Tensor, "r sixwidth"],
        step: Step,
        cache: Cache | None,
        reads: bool = False,
    ) -> Float[Tensor, "r _ width"]:
        """``table``: shift, scale, gate of the attention, then of the MLP; ``reads``: only the
        positions that give logits come out.
        """
        parts = (part.unsqueeze(1) for part in table.chunk(6, dim=-1))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        q, k, v = self.qkv(modulate(self.attention_norm(x), scale_a, shift_a)).chunk(3, dim=-1)
        if reads:
            x, q = step.read(x), step.read(q)
        q, k = (F.rms_norm(t.float(), t.shape[-1:], eps=self.eps).to(v.dtype) for t in (q, k))
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))
        attended = self.project(attend(q, k, v, step, cache, self.layer))
        x = torch.addcmul(x, gate_a, self.dropout(attended))
        h = modulate(self.mlp_norm(x), scale_m, shift_m)
        return torch.addcmul(x, gate_m, self.dropout(self.mlp(h)))


class HaltonModel(Backbone):
    """Predicts all unknown tokens, or those that a step asks for."""

    config_class = HaltonConfig
    config: HaltonConfig
    _no_split_modules: ClassVar[list[str]] = ["Block", "Modulation"]

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__(config)
        width = config.width
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.token_embedding = nn.Embedding(config.vocab_size + 1, width)
        self.position_embedding = nn.Embedding(self.slots.num_slots, width)
        self.register = nn.Parameter(torch.zeros(1, width))
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        self.modulations = nn.ModuleList(Modulation(width, 6 * width) for _ in range(config.depth))
        self.norm = RMSNorm(width, config.norm_eps)
        self.norm_bias = nn.Parameter(torch.zeros(width))
        self.out_modulation = Linear(width, 2 * width)
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size + 1))
        initialize(self)
        self.post_init()

    @property
    def slots(self) -> SlotTable:
        """The cells of the grid."""
        return self.config.slots

    @property
    def num_choices(self) -> int:
        """The mask token is one of them."""
        return self.config.vocab_size + 1

    @property
    def order_options(self) -> dict[str, Any]:
        """The mask token and the schedule of masks."""
        return {"mask_id": self.config.vocab_size, "schedule": self.config.mask_schedule}

    def prepare(self, class_labels: Int[Tensor, " r"]) -> HaltonContext:
        """The register, and adaLN of all blocks, which depends on the class alone."""
        active = F.silu(self.class_embedding(class_labels))
        tables = torch.stack([modulation(active) for modulation in self.modulations], dim=1)
        register = self.register.expand(len(class_labels), 1, -1)
        return HaltonContext(register, tables, self.out_modulation(active))

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """``inputs`` (r, m): token ids, UNKNOWN for the mask token."""
        assert isinstance(context, HaltonContext)
        assert inputs is not None
        x = self.token_embedding(torch.where(inputs < 0, self.config.vocab_size, inputs))
        x = x + self.position_embedding(step.holds[..., -inputs.shape[1] :])
        if step.start == 0:
            x = torch.cat([context.prefix, x], dim=1)  # (r, m, width)
        for block, table in zip(self.blocks, context.tables.unbind(1), strict=True):
            x = block(x, table, step, cache, block is self.blocks[-1])
        shift, scale = context.last.unsqueeze(1).chunk(2, dim=-1)
        return modulate(self.norm(x) + self.norm_bias, scale, shift)

    def head(self, hidden: Float[Tensor, "r n width"]) -> Float[Tensor, "r n choices"]:
        """Products with the token embeddings."""
        return linear(hidden, self.token_embedding.weight, self.output_bias)


@torch.no_grad()
def initialize(model: HaltonModel) -> None:
    """The reference's start: Xavier, embeddings of std 0.02, adaLN zero in the blocks."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=INIT_STD)
    nn.init.normal_(model.register, std=INIT_STD)
    for modulation in model.modulations:
        nn.init.zeros_(modulation.weight)
