"""PAR's transformer files: ``PAR-XL-4x.pt`` and the like.

Keys and shapes: Epiphqny/PAR@d96acea autoregressive/models/gpt.py. LlamaGen's, and a table of
special tokens, which says the number of regions.
"""

from typing import Any

from arimage.ar.convert.llamagen import LlamaGenLayout
from arimage.ar.par import PARConfig, PARModel
from arimage.checkpoint import Weights
from arimage.zoo_orders import PAR_SAMPLING

SPECIAL = "spe_tok_embeddings.special_embeddings.weight"


class PARLayout(LlamaGenLayout):
    """As LlamaGen's; the special tokens follow the vocabulary."""

    name = "PAR transformer"
    model = PARModel
    sampling = PAR_SAMPLING
    anchors = (*LlamaGenLayout.anchors, SPECIAL)
    renames = (
        (r"tok_embeddings\.weight", "token_embedding.weight+0"),
        (SPECIAL.replace(".", r"\."), "token_embedding.weight+1"),
        *LlamaGenLayout.renames,
    )

    def config(self, weights: Weights, **hints: Any) -> PARConfig:
        """As for LlamaGen; regions from the number of special tokens."""
        classes = weights["cls_embedding.embedding_table.weight"].shape[0] - 1
        regions = len(weights[SPECIAL]) + 1
        return PARConfig(num_classes=classes, regions=regions, **self.sizes(weights, hints))
