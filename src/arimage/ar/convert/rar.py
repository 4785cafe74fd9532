"""RAR's transformer files: ``rar_b.bin``, ``rar_l.bin``, ``rar_xl.bin``, ``rar_xxl.bin``.

Keys and shapes: bytedance/1d-tokenizer@942a96f modeling/rar.py.
"""

import math
from typing import Any, ClassVar

from arimage.ar.rar import RARConfig, RARModel
from arimage.checkpoint import Layout, Weights
from arimage.zoo import RAR_DEMO

PREFIX = RARModel.prefix_length
SPARE_POSITIONS, SPARE_STEPS = 1024, 100  # rows that the tables have beyond the tokens


class RARLayout(Layout):
    """Depth, width, heads, grid and classes, from the keys; tables are cut to what images use."""

    name = "RAR transformer"
    model = RARModel
    sampling = RAR_DEMO
    anchors = (
        "cls_token",
        "target_aware_pos_embed",
        "timesteps_embeddings",
        "blocks.0.attn.q_norm.weight",
    )
    renames = (
        ("cls_token", "start"),
        (r"embeddings\.weight\.tokens", "token_embedding.weight"),
        (r"embeddings\.weight\.classes", "class_embedding.weight"),
        (r"pos_embed\.used", "position_embedding.weight"),
        (r"target_aware_pos_embed\.used", "target_embedding.weight"),
        (r"timesteps_embeddings\.used", "step_embedding.weight"),
        (r"blocks\.(\d+)\.norm1\.(weight|bias)", r"blocks.\1.attention_norm.\2"),
        (r"blocks\.(\d+)\.norm2\.(weight|bias)", r"blocks.\1.mlp_norm.\2"),
        (r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"blocks.\1.qkv.\2"),
        (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"blocks.\1.project.\2"),
        (r"blocks\.(\d+)\.attn\.q_norm\.(weight|bias)", r"blocks.\1.query_norm.\2"),
        (r"blocks\.(\d+)\.attn\.k_norm\.(weight|bias)", r"blocks.\1.key_norm.\2"),
        (r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"blocks.\1.mlp.up.\2"),
        (r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"blocks.\1.mlp.down.\2"),
        (r"blocks\.(\d+)\.adaLN_modulation\.1\.(weight|bias)", r"modulations.\1.\2"),
        (r"adaln_before_head\.adaLN_modulation\.1\.(weight|bias)", r"out_modulation.\1"),
        (r"lm_head\.(weight|bias)", r"output.\1"),
    )
    droppable: ClassVar[dict[str, str]] = {
        r"embeddings\.weight\.mask": "the mask token, which is never fed",
        r"target_aware_pos_embed\.before": "the prefix, which nothing predicts",
        r"(pos_embed|target_aware_pos_embed|timesteps_embeddings)\.after": "beyond the last token",
        "attn_mask": "the causal mask, made from the order when it is needed",
    }

    def config(self, weights: Weights, **hints: Any) -> RARConfig:
        """From shapes; ``depth`` is a hint that must agree with the file."""
        vocab_size, width = weights["lm_head.weight"].shape
        side = infer_side(weights)
        return RARConfig(
            grid=(side, side),
            depth=self.count_blocks(weights, hints.get("depth")),
            width=width,
            num_heads=width // weights["blocks.0.attn.q_norm.weight"].shape[0],
            mlp_hidden=weights["blocks.0.mlp.fc1.weight"].shape[0],
            vocab_size=vocab_size,
            num_classes=weights["embeddings.weight"].shape[0] - vocab_size - 2,
        )

    def split(self, weights: Weights, config: Any) -> Weights:
        """The vocabulary is tokens, mask token, classes, "no class"; tables have spare rows."""
        slots, vocab = math.prod(config.grid), config.vocab_size
        cuts = {
            "embeddings.weight": (("tokens", "mask", "classes"), (vocab, vocab + 1)),
            "pos_embed": (("used", "after"), (PREFIX + slots,)),
            "target_aware_pos_embed": (("before", "used", "after"), (PREFIX, PREFIX + slots)),
            "timesteps_embeddings": (("used", "after"), (PREFIX - 1 + slots,)),
        }
        whole = {key: value for key, value in weights.items() if key not in cuts}
        for name, (parts, rows) in cuts.items():
            tables = weights[name].flatten(0, -2).tensor_split(rows)
            whole |= {f"{name}.{part}": t.clone() for part, t in zip(parts, tables, strict=True)}
        return whole


def infer_side(weights: Weights) -> int:
    """Side of the square token map, from the number of steps.

    Raises:
        ValueError: no square, or tables that are too short for it.
    """
    names = ("timesteps_embeddings", "pos_embed", "target_aware_pos_embed")
    steps, *positions = (weights[name].shape[1] for name in names)
    side = math.isqrt(max(steps - SPARE_STEPS, 0))
    slots = side * side
    if slots < 1 or slots + SPARE_STEPS != steps or min(positions) < PREFIX + slots:
        raise ValueError(
            f"the file's tables have {steps} steps and {positions[0]} and {positions[1]} "
            f"positions; a RAR for n tokens in a square has n + {SPARE_STEPS} steps and at least "
            f"n + {PREFIX} positions: the tables are too short for the grid; get the file again"
        )
    return side
