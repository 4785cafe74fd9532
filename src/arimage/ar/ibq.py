"""IBQ's transformer: Llama's blocks with adaLN from the class (arXiv 2412.02692).

Behaviour of TencentARC/SEED-Voken@b9a17ea src/IBQ/modules/transformer/llama.py. The adaLN is the
same at every position, so it is made once for each row. Published models share none of it between
blocks (``shared_aln``), so that this one has no such setting.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.ar.base import Cache, Context, Step
from arimage.ar.layers import Modulation, modulate, split_heads
from arimage.ar.linear import Linear
from arimage.ar.llama import INIT_STD, Block, LlamaConfig, LlamaModel
from arimage.pretrained import strict
from arimage.shapes import Float, Int

# initalize_weights of the same file; alng of configs/IBQ/gpu/imagenet_conditional_llama_B.yaml
MODULATION_INIT, GATE_INIT = 0.5, 1e-3


@strict
class IBQConfig(LlamaConfig):
    """Sizes of an IBQ transformer."""

    model_type = "arimage_ibq"
    orders: ClassVar[tuple[str, ...]] = ("raster",)


@dataclass(frozen=True)
class IBQContext(Context):
    """prefix (r, 1, width); blocks (r, depth, 6, width); out (r, 2, width): adaLN."""

    blocks: Tensor
    out: Tensor

    @property
    def tables(self) -> Iterator[Float[Tensor, "r 6 1 width"]]:
        """Of each block."""
        return iter(self.blocks.unsqueeze(3).unbind(1))


class ModulatedBlock(Block):
    """x + gate * f(norm(x) * (1 + scale) + shift) for attention, then for the MLP.

    ``table`` rows: gate, gate, scale, scale, shift, shift (attention, MLP).
    """

    def forward(
        self,
        x: Float[Tensor, "r m width"],
        table: Float[Tensor, "*r m half 2"],
        step: Step,
        cache: Cache | None,
        modulation: Float[Tensor, "r 6 1 width"],
    ) -> Float[Tensor, "r m width"]:
        """``table``: as Llama's."""
        h = self.attention(self.modulated(x, modulation), table, step, cache)
        return self.gated(x, h, modulation)

    def started(
        self, x: Float[Tensor, "r 1 width"], modulation: Float[Tensor, "r 6 1 width"]
    ) -> tuple[Float[Tensor, "r 1 width"], Float[Tensor, "r h 1 d"]]:
        """The block over the class alone, which sees itself alone; and its value."""
        value = self.values(self.modulated(x, modulation))
        return self.gated(x, value, modulation), split_heads(value, self.heads)

    def modulated(
        self, x: Float[Tensor, "r m width"], table: Float[Tensor, "r 6 1 width"]
    ) -> Float[Tensor, "r m width"]:
        """What attention reads."""
        return modulate(self.attention_norm(x), table[:, 2], table[:, 4])

    def gated(
        self,
        x: Float[Tensor, "r m width"],
        attended: Float[Tensor, "r m width"],
        table: Float[Tensor, "r 6 1 width"],
    ) -> Float[Tensor, "r m width"]:
        """What follows attention."""
        x = torch.addcmul(x, table[:, 0], self.dropout(self.project(attended)))
        h = modulate(self.mlp_norm(x), table[:, 3], table[:, 5])
        return torch.addcmul(x, table[:, 1], self.dropout(self.mlp(h)))


class IBQModel(LlamaModel):
    """Predicts the next token."""

    config_class = IBQConfig
    config: IBQConfig
    block: ClassVar[type[Block]] = ModulatedBlock
    _no_split_modules: ClassVar[list[str]] = ["ModulatedBlock", "Modulation"]

    def add_condition(self, config: IBQConfig) -> None:
        """The class, and adaLN of it."""
        super().add_condition(config)
        width = config.width
        self.modulations = nn.ModuleList(Modulation(width, 6 * width) for _ in range(config.depth))
        self.out_modulation = Linear(width, 2 * width)

    def initialize(self) -> None:
        """Llama's start, with small gates, half of the other adaLN, and no biases."""
        super().initialize()
        for modulation in (*self.modulations, self.out_modulation):
            nn.init.normal_(modulation.weight, std=INIT_STD * MODULATION_INIT)
            nn.init.zeros_(modulation.bias)
        gates = 2 * self.config.width
        for modulation in self.modulations:
            nn.init.normal_(modulation.weight[:gates], std=INIT_STD * GATE_INIT)

    def prepare(self, class_labels: Int[Tensor, " r"]) -> IBQContext:
        """The class token and the adaLN of every block."""
        condition = self.class_embedding(class_labels)
        active, width = F.silu(condition), self.config.width
        blocks = [linear(active).unflatten(-1, (6, width)) for linear in self.modulations]
        out = self.out_modulation(active).unflatten(-1, (2, width))
        return IBQContext(condition.unsqueeze(1), torch.stack(blocks, dim=1), out)

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """``inputs`` (r, m): token ids; None for the class alone."""
        assert isinstance(context, IBQContext)
        parts = [] if step.start else [context.prefix]
        if inputs is not None:
            parts.append(self.embed(inputs, step))
        x = self.dropout(torch.cat(parts, dim=1))  # (r, m, width)
        table = self.rotary(step)
        for block, modulation in zip(self.blocks, context.tables, strict=True):
            if inputs is not None:
                x = block(x, table, step, cache, modulation)
                continue
            x, value = block.started(x, modulation)
            if cache is not None:
                cache.update(block.layer, step, torch.zeros_like(value), value)
        scale, shift = context.out.unsqueeze(2).unbind(1)
        return modulate(self.norm(step.read(x)), scale, shift)
