"""Halton-MaskGIT's files: ``ImageNet_256_tiny.pth``, ..., ``ImageNet_384_large.pth``.

Keys and shapes: valeoai/Halton-MaskGIT@f61b0a1 Network/transformer.py.
"""

import math
from typing import Any, ClassVar

import torch

from arimage.ar.halton import HaltonConfig, HaltonModel
from arimage.checkpoint import Layout, Weights
from arimage.zoo_masked import HALTON_SAMPLING

# Heads by width, which no shape says: transformer_size of Trainer/cls_trainer.py.
HEADS = {384: 6, 512: 6, 768: 12, 1024: 16, 1152: 16}
BLOCK = r"transformer\.layers\.(\d+)\."


class HaltonLayout(Layout):
    """Depth, width, grid and classes from the keys; ``num_heads`` is a hint for other widths."""

    name = "Halton-MaskGIT transformer"
    model = HaltonModel
    sampling = HALTON_SAMPLING
    anchors = ("reg_tokens.weight", "pos_emb.weight", "transformer.layers.0.mlp.1.weight")
    renames = (
        (r"cls_emb\.weight", "class_embedding.weight"),
        (r"tok_emb\.weight", "token_embedding.weight"),
        (r"pos_emb\.weight", "position_embedding.weight"),
        (r"reg_tokens\.weight", "register"),
        (BLOCK + r"mlp\.1\.(weight|bias)", r"modulations.\1.\2"),
        (BLOCK + r"ln1\.weight", r"blocks.\1.attention_norm.weight"),
        (BLOCK + r"ln2\.weight", r"blocks.\1.mlp_norm.weight"),
        (BLOCK + r"attn\.wq\.weight", r"blocks.\1.qkv.weight+0"),
        (BLOCK + r"attn\.wk\.weight", r"blocks.\1.qkv.weight+1"),
        (BLOCK + r"attn\.wv\.weight", r"blocks.\1.qkv.weight+2"),
        (BLOCK + r"attn\.wo\.weight", r"blocks.\1.project.weight"),
        (BLOCK + r"ff\.w1\.weight", r"blocks.\1.mlp.gate_up.weight+0"),
        (BLOCK + r"ff\.w3\.weight", r"blocks.\1.mlp.gate_up.weight+1"),
        (BLOCK + r"ff\.w2\.weight", r"blocks.\1.mlp.down.weight"),
        (r"last_norm\.norm_final\.weight", "norm.weight"),
        (r"last_norm\.norm_final\.bias", "norm_bias"),
        (r"last_norm\.mlp\.1\.(weight|bias)", r"out_modulation.\1"),
        (r"head\.bias", "output_bias"),
    )
    droppable: ClassVar[dict[str, str]] = {r"head\.weight": "the token embedding once more"}

    def config(self, weights: Weights, **hints: Any) -> HaltonConfig:
        """From shapes.

        Raises:
            ValueError: a grid that is no square, a width whose heads nobody says, a head that is
                not the token embedding.
        """
        tokens, width = weights["tok_emb.weight"].shape
        side = math.isqrt(len(weights["pos_emb.weight"]))
        if side * side != len(weights["pos_emb.weight"]):
            raise ValueError(
                f"the file's positions are {len(weights['pos_emb.weight'])}, no square; get the "
                "file again"
            )
        heads = hints.get("num_heads") or HEADS.get(width)
        if heads is None:
            raise ValueError(
                f"the file's width is {width} and nothing in it says how many heads that are; "
                "give num_heads"
            )
        check_tied(weights)
        blocks = {key.split(".")[2] for key in weights if key.startswith("transformer.layers.")}
        if hints.get("depth") not in (None, len(blocks)):
            raise ValueError(
                f"the file holds a {self.name} of depth {len(blocks)}, not {hints['depth']}; give "
                "the file or the variant of that depth"
            )
        return HaltonConfig(
            grid=(side, side),
            depth=len(blocks),
            width=width,
            num_heads=heads,
            mlp_hidden=len(weights["transformer.layers.0.ff.w1.weight"]),
            vocab_size=tokens - 1,
            num_classes=len(weights["cls_emb.weight"]) - 1,
        )


def check_tied(weights: Weights) -> None:
    """Raises ValueError unless the head is the token embedding, as the reference ties them."""
    head, tokens = weights["head.weight"], weights["tok_emb.weight"]
    if head.shape != tokens.shape or not (head.is_meta or torch.equal(head, tokens)):
        raise ValueError(
            "the file's head is not its token embedding, which are one tensor in this family; get "
            "the file again"
        )
