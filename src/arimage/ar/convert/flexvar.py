"""FlexVAR's transformer files: ``FlexVARd16-epo179.pth`` and the like, and trainers' files.

Keys and shapes: jiaosiyu1999/FlexVAR@04462cb models/flexvar.py. VAR's without an embedding of
scales; positions are one map. No key says the token maps: the hint does, or VAR's for 256 px.
"""

from typing import Any

from arimage.ar.convert.var import VARLayout
from arimage.ar.flexvar import FlexVARConfig, FlexVARModel
from arimage.checkpoint import Weights
from arimage.zoo_relatives import FLEXVAR_SAMPLING, FLEXVAR_SCALES

SCALE_EMBEDDING = "lvl_embed.weight"  # which VAR and its other relatives have


class FlexVARLayout(VARLayout):
    """As VAR's; ``scales`` is a hint."""

    name = "FlexVAR transformer"
    model = FlexVARModel
    sampling = FLEXVAR_SAMPLING
    anchors = tuple(key for key in VARLayout.anchors if key != SCALE_EMBEDDING)
    renames = (("pos_1LC", "position_embedding"), *VARLayout.renames)

    def split(self, weights: Weights, config: Any) -> Weights:
        """The map of positions, row by row."""
        return weights | {"pos_1LC": weights["pos_1LC"][0].flatten(1).T.contiguous()}

    def recognizes(self, weights: Weights) -> bool:
        """The anchors, and no embedding of scales."""
        return super().recognizes(weights) and SCALE_EMBEDDING not in weights

    def config(self, weights: Weights, **hints: Any) -> FlexVARConfig:
        """As VAR's; the side of the positions from their shape."""
        return FlexVARConfig(
            scales=tuple(hints.get("scales") or FLEXVAR_SCALES),
            table=weights["pos_1LC"].shape[-1],
            **self.sizes(weights, hints),
        )
