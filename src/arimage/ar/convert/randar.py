"""RandAR's transformer files: ``randar_0.3b_llamagen_360k_bs_1024_lr_0.0004.safetensors``, ...

Keys and shapes: ziqipang/RandAR@d374a72 RandAR/model/randar_gpt.py. LlamaGen's and one vector.
"""

from typing import Any

from arimage.ar.convert.llamagen import LlamaGenLayout
from arimage.ar.randar import RandARConfig, RandARModel
from arimage.checkpoint import Weights
from arimage.zoo_orders import RANDAR_SAMPLING


class RandARLayout(LlamaGenLayout):
    """As LlamaGen's, with the vector that queries are made of."""

    name = "RandAR transformer"
    model = RandARModel
    sampling = RANDAR_SAMPLING
    anchors = (*LlamaGenLayout.anchors, "pos_instruct_embeddings")
    renames = (("pos_instruct_embeddings", "position_instruction"), *LlamaGenLayout.renames)

    def config(self, weights: Weights, **hints: Any) -> RandARConfig:
        """As for LlamaGen."""
        classes = weights["cls_embedding.embedding_table.weight"].shape[0] - 1
        return RandARConfig(num_classes=classes, **self.sizes(weights, hints))
