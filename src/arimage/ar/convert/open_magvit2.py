"""Open-MAGVIT2's transformer files: ``AR_256_B.ckpt`` and the like, with the tokenizer inside.

Keys and shapes: TencentARC/SEED-Voken@b9a17ea src/Open_MAGVIT2/modules/transformer/gpt.py, under
the name that src/Open_MAGVIT2/models/cond_transformer_gpt.py gives it.
"""

from typing import Any, ClassVar

from arimage.ar.convert.ibq import FIRST_STAGE, HEAD
from arimage.ar.convert.llamagen import SIDE, block_renames, side_of
from arimage.ar.open_magvit2 import OpenMAGVIT2Config, OpenMAGVIT2Model
from arimage.checkpoint import Layout, Weights
from arimage.zoo_voken import OPEN_MAGVIT2_SAMPLING


class OpenMAGVIT2Layout(Layout):
    """All sizes from the keys but the heads, which have 64 channels."""

    name = "Open-MAGVIT2 transformer"
    model = OpenMAGVIT2Model
    sampling = OPEN_MAGVIT2_SAMPLING
    anchors = (
        "transformer.pre_emb.weight",
        "transformer.post_emb.weight",
        "transformer.factorized_blocks.0.attention.wqkv.weight",
    )
    renames = (
        (r"transformer\.class_emb\.embedding_table\.weight", "class_embedding.weight"),
        (r"transformer\.pre_emb\.weight", "token_embedding.0.weight"),
        (r"transformer\.post_emb\.weight", "token_embedding.1.weight"),
        *block_renames(r"transformer\.spatial_blocks", "blocks"),
        *block_renames(r"transformer\.factorized_blocks", "inner_blocks"),
        (r"transformer\.norm\.weight", "norm.weight"),
        (r"transformer\.head\.(\d+)\.weight", r"output.\1.weight"),
    )
    droppable: ClassVar[dict[str, str]] = FIRST_STAGE

    def config(self, weights: Weights, **hints: Any) -> OpenMAGVIT2Config:
        """From shapes; ``scales`` (the side of the grid), ``num_heads`` and ``depth`` are hints."""
        first, width = weights["transformer.pre_emb.weight"].shape
        feed = weights["transformer.spatial_blocks.0.feed_forward.w1.weight"]
        side = side_of(hints.get("scales") or [SIDE])
        return OpenMAGVIT2Config(
            grid=(side, side),
            vocab_size=first * weights["transformer.post_emb.weight"].shape[0],
            num_classes=weights["transformer.class_emb.embedding_table.weight"].shape[0] - 1,
            depth=self.count_blocks(weights, hints.get("depth"), "transformer.spatial_blocks"),
            inner_depth=self.count_blocks(weights, None, "transformer.factorized_blocks"),
            first_part=first,
            width=width,
            num_heads=hints.get("num_heads") or width // HEAD,
            mlp_hidden=feed.shape[0],
        )
