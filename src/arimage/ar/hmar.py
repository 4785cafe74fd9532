"""HMAR: a next-scale transformer with a second branch that refines maps (arXiv 2506.04421).

Behaviour of NVlabs/HMAR@595a9df models/hmar.py: VAR's, but each token map sees itself alone, and
the last blocks and the head are there twice: for the pass that predicts a map, and for passes that
go over it again. The orders know which is which (orders/refined.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.ar.base import Cache, Context, Step
from arimage.ar.layers import modulate
from arimage.ar.linear import Linear
from arimage.ar.orders.refined import HIDDEN, SHOWN
from arimage.ar.var import VARConfig, VARContext, VARModel
from arimage.pretrained import strict
from arimage.shapes import Float, Int


@strict
class HMARConfig(VARConfig):
    """As VARConfig; refine_depth: how many of the last blocks the refining branch has anew."""

    model_type = "arimage_hmar"
    orders: ClassVar[tuple[str, ...]] = ("refined_scale",)
    positive: ClassVar[tuple[str, ...]] = (*VARConfig.positive, "refine_depth")

    order: str = "refined_scale"
    refine_depth: int = 1

    def validate_branches(self) -> None:
        """Not more than there are."""
        if self.refine_depth > self.depth:
            raise ValueError(
                f"got refine_depth {self.refine_depth} and depth {self.depth}; the refining branch "
                "has at most as many blocks: lower one or raise the other"
            )


@dataclass(frozen=True)
class HMARContext(VARContext):
    """refine_out (r, 2, width): the adaLN table before the other head."""

    refine_out: Tensor
    per_row: ClassVar[tuple[str, ...]] = (*VARContext.per_row, "refine_out")


class HMARModel(VARModel):
    """Predicts or refines one token map per step.

    Blocks 0 to depth - 1 predict; those that refine follow, and have 0 to depth - refine_depth - 1
    in common with them. There are two heads, so that ``forward`` gives logits already.
    """

    config_class = HMARConfig
    config: HMARConfig

    def make_more(self, config: VARConfig) -> None:
        """The mask token and the second head."""
        self.mask_embedding = nn.Parameter(torch.zeros(1, config.width))
        nn.init.trunc_normal_(self.mask_embedding, std=(config.width * 3) ** -0.5)
        self.refine_modulation = Linear(config.width, 2 * config.width)
        self.refine_output = Linear(config.width, config.vocab_size)

    @property
    def num_blocks(self) -> int:
        """Of both branches."""
        return self.config.depth + self.config.refine_depth

    @property
    def opening_width(self) -> int:  # type: ignore[override]
        """Steps give logits."""
        return self.config.vocab_size

    @property
    def modulated_heads(self) -> list[tuple[Linear, Linear]]:
        """Both."""
        return [*super().modulated_heads, (self.refine_modulation, self.refine_output)]

    def prepare(self, class_labels: Int[Tensor, " r"]) -> HMARContext:
        """VAR's, and the table before the other head."""
        made = super().prepare(class_labels)
        out = self.refine_modulation(F.silu(self.class_embedding(class_labels)))
        known = {field.name: getattr(made, field.name) for field in fields(made)}
        return HMARContext(**known, refine_out=out.unflatten(-1, (2, self.config.width)))

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n vocab"]:
        """Logits. ``inputs`` (r, m, code_dim) as VAR's, or (r, m, 2 code_dim + 1) as the order
        feeds them where maps are refined; in a lesson only rows with a mark are.
        """
        assert isinstance(context, HMARContext)
        if inputs is None or inputs.shape[-1] == self.config.code_dim:
            return self.output(super().forward(inputs, context, step, cache))
        depth, common = self.config.depth, self.config.depth - self.config.refine_depth
        refining = range(depth, self.num_blocks)
        x = self._embedded(inputs, context, step)
        x = self.through(range(common), x, context, step, cache)
        refined = self._read(refining, x, context, step, 1)
        if step.start:  # a pass of its own
            return refined
        plain = self._read(range(common, depth), x, context, step, 0)
        return torch.where((inputs[..., -1] > 0).any(1)[:, None, None], refined, plain)

    def _embedded(
        self, inputs: Float[Tensor, "r m channels"], context: HMARContext, step: Step
    ) -> Float[Tensor, "r n width"]:
        size = self.config.code_dim
        view, own, mark = inputs.to(self.class_embedding.weight.dtype).split([size, size, 1], -1)
        shown, hidden = (mark == SHOWN).to(own), (mark == HIDDEN).to(own)
        x = self.code_embedding(view + own * shown) + hidden * self.mask_embedding
        return self.placed(x if step.start else torch.cat([context.prefix, x], 1), context, step)

    def _read(
        self,
        layers: Iterable[int],
        x: Float[Tensor, "r m width"],
        context: HMARContext,
        step: Step,
        branch: int,
    ) -> Float[Tensor, "r n vocab"]:
        x = self.through(layers, x, context, step, None)
        scale, shift = (context.out, context.refine_out)[branch].unsqueeze(2).unbind(1)
        return self.modulated_heads[branch][1](modulate(self.norm(step.read(x)), scale, shift))

    def head(self, hidden: Float[Tensor, "r n vocab"]) -> Float[Tensor, "r n vocab"]:
        """Nothing: the head depends on the pass."""
        return hidden
