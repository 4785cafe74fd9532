"""IBQ's transformer files: ``AR_256_B.ckpt`` and the like, which hold the tokenizer, too.

Keys and shapes: TencentARC/SEED-Voken@b9a17ea src/IBQ/modules/transformer/llama.py, under the
name that src/IBQ/models/cond_transformer_llama.py gives it.
"""

from typing import Any, ClassVar

from arimage.ar.convert.llamagen import SIDE, block_renames, side_of
from arimage.ar.ibq import IBQConfig, IBQModel
from arimage.checkpoint import Layout, Weights
from arimage.zoo_voken import IBQ_SAMPLING

HEAD = 64  # width of an attention head: configs/IBQ/gpu/imagenet_conditional_llama_*.yaml
FIRST_STAGE = {
    r"first_stage_model\..*": "the tokenizer, which has a file of its own",
    r"cond_stage_model\..*": "nothing that is learned",
    r"transformer\.\w*blocks\.\d+\.attention\.kv_cache\.[kv]_cache": "a cache that was saved",
}


class IBQLayout(Layout):
    """Depth, width and feed-forward from the keys; heads have 64 channels."""

    name = "IBQ transformer"
    model = IBQModel
    sampling = IBQ_SAMPLING
    anchors = (
        "transformer.tok_emb.weight",
        "transformer.blocks.0.ada_lin.1.weight",
        "transformer.head_nm.ada_lin.1.weight",
    )
    renames = (
        (r"transformer\.class_emb\.embedding_table\.weight", "class_embedding.weight"),
        (r"transformer\.tok_emb\.weight", "token_embedding.weight"),
        *block_renames(r"transformer\.blocks", "blocks"),
        (r"transformer\.blocks\.(\d+)\.ada_lin\.1\.(weight|bias)", r"modulations.\1.\2"),
        (r"transformer\.head_nm\.rmsnorm\.weight", "norm.weight"),
        (r"transformer\.head_nm\.ada_lin\.1\.(weight|bias)", r"out_modulation.\1"),
        (r"transformer\.head\.weight", "output.weight"),
    )
    droppable: ClassVar[dict[str, str]] = FIRST_STAGE

    def config(self, weights: Weights, **hints: Any) -> IBQConfig:
        """From shapes; ``scales`` (the side of the grid), ``num_heads`` and ``depth`` are hints."""
        vocab_size, width = weights["transformer.tok_emb.weight"].shape
        side = side_of(hints.get("scales") or [SIDE])
        return IBQConfig(
            grid=(side, side),
            vocab_size=vocab_size,
            num_classes=weights["transformer.class_emb.embedding_table.weight"].shape[0] - 1,
            depth=self.count_blocks(weights, hints.get("depth"), "transformer.blocks"),
            width=width,
            num_heads=hints.get("num_heads") or width // HEAD,
            mlp_hidden=weights["transformer.blocks.0.feed_forward.w1.weight"].shape[0],
        )
