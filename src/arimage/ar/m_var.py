"""M-VAR: attention within a token map, a recurrence across them (arXiv 2411.10433).

Behaviour of OliverRensu/MVAR@80768a1 models/basic_mvar.py: VAR's blocks, where a Mamba-2 layer over
all positions so far follows the attention. That code runs it over the whole history at each map;
here a state is kept. (CVL-UESTC's MVAR is another system, mvar.py.)
"""

from typing import ClassVar

import torch
from torch import Tensor

from arimage.ar.base import Cache, Step
from arimage.ar.layers import modulate
from arimage.ar.mamba import EXPAND, HEAD, Mamba2, ScanState
from arimage.ar.var import Block, VARConfig, VARModel
from arimage.pretrained import strict
from arimage.shapes import Float


@strict
class MambaVARConfig(VARConfig):
    """VAR's sizes; those of the recurrence are fixed (mamba.py)."""

    model_type = "arimage_m_var"
    orders: ClassVar[tuple[str, ...]] = ("within_scale",)

    order: str = "within_scale"

    def validate_recurrence(self) -> None:
        """The width gives whole heads; modulation is not shared, which M-VAR's code cannot."""
        if EXPAND * self.width % HEAD:
            raise ValueError(
                f"got width {self.width}; the recurrence takes multiples of {HEAD // EXPAND}"
            )
        if self.shared_adaln:
            raise ValueError("got shared_adaln, which M-VAR does not have; leave it out")


class MambaBlock(Block):
    """x + gate * f(norm(x) * (1 + scale) + shift) for attention, the recurrence, the MLP."""

    def __init__(self, config: MambaVARConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.mamba = Mamba2(config.width)

    def forward(
        self,
        x: Float[Tensor, "r m width"],
        table: Float[Tensor, "r 9 width"],
        bias: Float[Tensor, " threewidth"] | None,
        step: Step,
        cache: Cache | None,
    ) -> Float[Tensor, "r m width"]:
        """``table`` rows: three gates, three scales, three shifts, in that order of layers."""
        bias = self.bias() if bias is None else bias
        state = cache if isinstance(cache, ScanState) else None
        rows = table.unsqueeze(2).unbind(1)
        layers = (
            lambda h: self.attention(h, bias, step, None),
            lambda h: self.mamba(h, step, state, self.layer),
            self.mlp,
        )
        for i, layer in enumerate(layers):
            gate, scale, shift = rows[i::3]
            h = modulate(self.norm(x), scale, shift)
            x = torch.addcmul(x, gate, self.dropout(layer(h)))
        return x


class MambaVARModel(VARModel):
    """Predicts one token map per step from the canvas so far and a state of fixed size."""

    config_class = MambaVARConfig
    config: MambaVARConfig
    block_class = MambaBlock
    opening_width = 0  # what it remembers is a state of its own
    table_rows = 9
    _no_split_modules: ClassVar[list[str]] = ["MambaBlock", "Modulation"]

    def new_cache(self, rows: int, device: torch.device) -> ScanState:
        """The state of the recurrence."""
        config = self.config
        return ScanState.allocate(config.depth, config.width, rows, self.dtype, device)
