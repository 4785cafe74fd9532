"""MVAR's transformer files: ``mvar-d16.pth``, ``mvar-finetune-d24.pth``.

VAR's keys and shapes (CVL-UESTC/MVAR@d0e035a models/mvar.py). What tells the two apart is what is
in the training mask of the file: MVAR's hides all other token maps.
"""

from typing import Any, ClassVar

from arimage.ar.convert.var import MAMBA, MASK, VARLayout, hides_other_scales, infer_scales
from arimage.ar.mvar import MVARConfig, MVARModel
from arimage.checkpoint import Layout, Weights
from arimage.zoo_relatives2 import MVAR_SAMPLING


class MVARLayout(VARLayout):
    """As VAR's; the file says nothing of windows, whose published sizes are the config's."""

    name = "MVAR transformer"
    model = MVARModel
    sampling: ClassVar[dict[str, Any]] = MVAR_SAMPLING
    anchors = (*VARLayout.anchors, MASK)

    def recognizes(self, weights: Weights) -> bool:
        """VAR's keys, no more, and a mask that hides the token maps before."""
        keys = Layout.recognizes(self, weights) and MAMBA not in weights
        return keys and hides_other_scales(weights)

    def config(self, weights: Weights, **hints: Any) -> MVARConfig:
        """As for VAR; ``window`` and ``window_from`` are hints."""
        windows = {name: hints[name] for name in ("window", "window_from") if name in hints}
        scales = infer_scales(weights, hints.get("scales"))
        return MVARConfig(scales=scales, **self.sizes(weights, hints), **windows)
