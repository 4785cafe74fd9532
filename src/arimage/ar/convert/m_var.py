"""M-VAR's transformer files: ``d16.pth`` to ``d32.pth``.

Keys and shapes: OliverRensu/MVAR@80768a1 models/mvar.py, models/basic_mvar.py. VAR's, with a
Mamba-2 layer in each block and modulation of three layers instead of two.
"""

import re
from typing import Any, ClassVar

from arimage.ar.convert.var import MAMBA, VARLayout, infer_scales
from arimage.ar.m_var import MambaVARConfig, MambaVARModel
from arimage.checkpoint import Layout, Weights

OURS = {
    "in_proj.weight": "enter.weight",
    "conv1d.weight": "kernel",
    "conv1d.bias": "kernel_bias",
    "dt_bias": "step_bias",
    "A_log": "log_decay",
    "D": "skip",
    "norm.weight": "norm",
    "out_proj.weight": "leave.weight",
}


class MambaVARLayout(VARLayout):
    """As VAR's; the sizes of the recurrence are those of all published files."""

    name = "M-VAR transformer"
    model = MambaVARModel
    anchors = (*VARLayout.anchors, MAMBA)
    renames = (
        *VARLayout.renames,
        *(
            (rf"blocks\.(\d+)\.mamba\.{re.escape(theirs)}", rf"blocks.\1.mamba.{ours}")
            for theirs, ours in OURS.items()
        ),
    )
    droppable: ClassVar[dict[str, str]] = {
        **VARLayout.droppable,
        r"blocks\.\d+\.attn\.patch_nums": "the sizes of the token maps, which follow from scales",
    }

    def recognizes(self, weights: Weights) -> bool:
        """VAR's keys and Mamba's."""
        return Layout.recognizes(self, weights)

    def config(self, weights: Weights, **hints: Any) -> MambaVARConfig:
        """As for VAR."""
        scales = infer_scales(weights, hints.get("scales"))
        return MambaVARConfig(scales=scales, **self.sizes(weights, hints))
