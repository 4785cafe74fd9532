"""VAR: a next-scale transformer with class-conditional adaLN (arXiv 2404.02905).

Behaviour of FoundationVision/VAR@78b9539 models/var.py and models/basic_var.py: adaLN from the
class embedding, q and k normalised with a learned scale per head, one learned position per slot
plus one embedding per scale.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from arimage.ar.base import Backbone, Cache, Context, Step
from arimage.ar.config import BackboneConfig
from arimage.ar.layers import MLP, Modulation, ResidualDropout, attend, modulate, split_heads
from arimage.ar.linear import Linear
from arimage.pretrained import strict
from arimage.shapes import Float, Int
from arimage.slots import SlotTable, square_grids

MAX_LOG_SCALE = math.log(100)  # FoundationVision/VAR@78b9539 models/basic_var.py, SelfAttention
START_SCALE = 4.0  # of exp(log_scale), the same class
PLAIN_SCALE = 0.25  # times head_dim ** -0.5 where q and k are not normalised, the same class
NORM_BOUND = 1e-12  # eps of F.normalize, which the same class calls
HEAD_INIT, MODULATION_INIT, GATE_INIT = 0.02, 0.5, 1e-3  # models/var.py init_weights, d16 recipe


@strict
class VARConfig(BackboneConfig):
    """Sizes of a next-scale transformer; published models have width = 64 * depth.

    scales: sides of the token maps; code_dim: of the tokenizer; qk_norm: normalise queries and
    keys; shared_adaln: one projection for all blocks plus an offset per block (the 512 px model).
    """

    model_type = "arimage_var"
    orders: ClassVar[tuple[str, ...]] = ("next_scale",)
    positive: ClassVar[tuple[str, ...]] = (*BackboneConfig.positive, "code_dim")

    order: str = "next_scale"
    scales: list[int] | tuple[int, ...] = (1, 2, 3, 4)
    code_dim: int = 16
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    qk_norm: bool = True
    shared_adaln: bool = False

    def validate_scales(self) -> None:
        """Scales grow from 1: the one class position predicts the first map."""
        scales = list(self.scales)
        if scales != sorted(set(scales)) or scales[:1] != [1]:
            raise ValueError(
                f"got scales {scales}; expected growing sides from 1, for example 1, 2, 3, 4"
            )


@dataclass(frozen=True)
class VARContext(Context):
    """prefix (r, 1, width); blocks (r, depth, 6 or so, width); out (r, 2, width): adaLN tables.

    biases (depth, 3 width): of q, k and v, of all rows alike; None where gradients are wanted,
    since parameters that are shared out (FSDP) are whole inside their block alone.
    """

    blocks: Tensor
    out: Tensor
    biases: Tensor | None
    per_row: ClassVar[tuple[str, ...]] = ("prefix", "blocks", "out")

    def rows(self, count: int) -> "VARContext":
        """The first ``count`` rows."""
        parts = {name: getattr(self, name)[:count] for name in self.per_row}
        return dataclasses.replace(self, **parts)


class Block(GradientCheckpointingLayer):
    """x + gate * f(norm(x) * (1 + scale) + shift) for attention, then for the MLP."""

    def __init__(self, config: VARConfig, layer: int) -> None:
        super().__init__()
        width = config.width
        self.layer, self.heads, self.qk_norm = layer, config.num_heads, config.qk_norm
        self.norm = nn.LayerNorm(width, config.norm_eps, elementwise_affine=False)
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        if config.qk_norm:
            start = torch.full((config.num_heads, 1, 1), math.log(START_SCALE))
            self.log_scale = nn.Parameter(start)
        self.project = Linear(width, width)
        self.mlp = MLP(width, round(config.mlp_ratio * width))
        self.dropout = ResidualDropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "r m width"],
        table: Float[Tensor, "r 6 width"],
        bias: Float[Tensor, " threewidth"] | None,
        step: Step,
        cache: Cache | None,
    ) -> Float[Tensor, "r m width"]:
        """``table`` rows: gate, gate, scale, scale, shift, shift (attention, MLP).

        ``bias``: what ``self.bias()`` makes, if it was made before.
        """
        bias = self.bias() if bias is None else bias
        gate_a, gate_m, scale_a, scale_m, shift_a, shift_m = table.unsqueeze(2).unbind(1)
        h = modulate(self.norm(x), scale_a, shift_a)
        x = torch.addcmul(x, gate_a, self.dropout(self.attention(h, bias, step, cache)))
        h = modulate(self.norm(x), scale_m, shift_m)
        return torch.addcmul(x, gate_m, self.dropout(self.mlp(h)))

    def bias(self) -> Float[Tensor, " threewidth"]:
        """Of q, k and v in one; keys have none."""
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def attention(
        self,
        x: Float[Tensor, "r m width"],
        bias: Float[Tensor, " threewidth"],
        step: Step,
        cache: Cache | None,
    ) -> Float[Tensor, "r m width"]:
        """Self-attention; ``bias`` is ``self.bias()``."""
        q, k, v = self.qkv(x, bias).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        scale = PLAIN_SCALE * q.shape[-1] ** -0.5
        if self.qk_norm:
            q = q * (self.log_scale.clamp_max(MAX_LOG_SCALE).exp() / norms(q)).to(q.dtype)
            k, scale = k / norms(k), 1.0
        q, k = q.to(v.dtype), k.to(v.dtype)
        return self.project(attend(q, k, v, step, cache, self.layer, scale, self.qk_norm))


class VARModel(Backbone):
    """Predicts one token map per step from the canvas so far."""

    config_class = VARConfig
    config: VARConfig
    block_class: ClassVar[type[Block]] = Block
    table_rows: ClassVar[int] = 6  # of a block's adaLN table
    _no_split_modules: ClassVar[list[str]] = ["Block", "Modulation"]

    def __init__(self, config: VARConfig) -> None:
        super().__init__(config)
        width = config.width
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.code_embedding = Linear(config.code_dim, width)
        self.make_places(config)
        count = self.num_blocks
        self.blocks = nn.ModuleList(self.block_class(config, i) for i in range(count))
        if config.shared_adaln:
            self.shared_modulation = Linear(width, 6 * width)
            self.modulation = nn.Parameter(torch.zeros(count, 6, width))
        else:
            self.modulations = nn.ModuleList(
                Modulation(width, self.table_rows * width) for _ in range(count)
            )
        self.out_modulation = Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, config.norm_eps, elementwise_affine=False)
        self.output = Linear(width, config.vocab_size)
        self.make_more(config)
        initialize(self)
        self.post_init()

    def make_places(self, config: VARConfig) -> None:
        """What tells positions apart: an embedding of each slot, and one of each scale."""
        self.position_embedding = nn.Embedding(self.slots.num_slots, config.width)
        self.scale_embedding = nn.Embedding(len(config.scales), config.width)

    def make_more(self, config: VARConfig) -> None:
        """What relatives have besides."""

    @property
    def num_blocks(self) -> int:
        """Blocks that there are; relatives do not run all of them in one pass."""
        return self.config.depth

    @property
    def modulated_heads(self) -> list[tuple[Linear, Linear]]:
        """Each head with the adaLN before it."""
        return [(self.out_modulation, self.output)]

    @property
    def slots(self) -> SlotTable:
        """One token map per scale."""
        return SlotTable(square_grids(self.config.scales))

    @property
    def code_dim(self) -> int:
        """As the config says."""
        return self.config.code_dim

    @property
    def opening_width(self) -> int:  # type: ignore[override]
        """The first step embeds the class alone."""
        return self.config.width

    def prepare(self, class_labels: Int[Tensor, " r"]) -> VARContext:
        """adaLN tables of every block, which depend on the class alone, and joined biases."""
        condition = self.class_embedding(class_labels)
        active = F.silu(condition)
        shape = (self.table_rows, self.config.width)
        if self.config.shared_adaln:
            shared = self.shared_modulation(active).unflatten(-1, shape)
            blocks = shared.unsqueeze(1) + self.modulation
        else:
            tables = [linear(active).unflatten(-1, shape) for linear in self.modulations]
            blocks = torch.stack(tables, dim=1)
        out = self.out_modulation(active).unflatten(-1, (2, self.config.width))
        made = not torch.is_grad_enabled()
        biases = torch.stack([block.bias() for block in self.blocks]) if made else None
        return VARContext(condition.unsqueeze(1) + self.start, blocks, out, biases)

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """``inputs`` (r, m, code_dim): the canvas at the size of the map(s) to predict."""
        assert isinstance(context, VARContext)
        parts = [] if step.start else [context.prefix]
        if inputs is not None:
            codes = inputs.to(context.prefix.dtype)  # the tokenizer may have another
            parts.append(self.code_embedding(codes))
        x = self.placed(torch.cat(parts, dim=1), context, step)  # (r, m, width)
        x = self.through(range(self.config.depth), x, context, step, cache)
        scale, shift = context.out.unsqueeze(2).unbind(1)
        return modulate(self.norm(step.read(x)), scale, shift)

    def placed(
        self, x: Float[Tensor, "r m width"], context: VARContext, step: Step
    ) -> Float[Tensor, "r m width"]:
        """Adds what tells positions apart."""
        scale = scale_of_slot(tuple(self.config.scales), x.device)[step.positions]
        return x + self.position_embedding(step.positions) + self.scale_embedding(scale)

    def through(
        self,
        layers: Iterable[int],
        x: Float[Tensor, "r m width"],
        context: VARContext,
        step: Step,
        cache: Cache | None,
    ) -> Float[Tensor, "r m width"]:
        """Some of the blocks, one after the other."""
        for layer in layers:
            bias = None if context.biases is None else context.biases[layer]
            x = self.blocks[layer](x, context.blocks[:, layer], bias, step, cache)
        return x

    def head(self, hidden: Float[Tensor, "r n width"]) -> Float[Tensor, "r n vocab"]:
        """A linear layer."""
        return self.output(hidden)


@lru_cache(maxsize=16)
def scale_of_slot(scales: tuple[int, ...], device: torch.device) -> Int[Tensor, " slots"]:
    """Token map of each slot."""
    with torch.inference_mode(False):  # a table made while sampling may serve training later
        return SlotTable(square_grids(scales)).scale.to(device)


def norms(x: Float[Tensor, "r h m d"]) -> Float[Tensor, "r h m 1"]:
    """Lengths of the last axis, not below ``F.normalize``'s bound."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(NORM_BOUND)


@torch.no_grad()
def initialize(model: VARModel, gate_init: float = GATE_INIT) -> None:
    """VAR's initialisation: std sqrt(1/(3 width)), small head and gates, scaled residuals.

    ``gate_init`` scales the gates; the published recipes lower it for deeper models.
    """
    config = model.config
    std = math.sqrt(1 / config.width / 3)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(model.start, std=std)
    for modulation, head in model.modulated_heads:
        head.weight.mul_(HEAD_INIT)
        modulation.weight.mul_(MODULATION_INIT)
    if config.shared_adaln:  # the shared projection itself is not scaled
        nn.init.normal_(model.modulation, std=config.width**-0.5)
        model.modulation[:, 2:].mul_(MODULATION_INIT)
        model.modulation[:, :2].mul_(gate_init)
    else:
        for modulation in model.modulations:
            modulation.weight[2 * config.width :].mul_(MODULATION_INIT)
            modulation.weight[: 2 * config.width].mul_(gate_init)
    for block in model.blocks:
        block.project.weight.div_(math.sqrt(2 * config.depth))
        block.mlp.down.weight.div_(math.sqrt(2 * config.depth))
