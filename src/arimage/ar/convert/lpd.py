"""LPD's transformer files: ``lpd_l_256.pth`` and the like, with its averaged weights or without.

Keys and shapes: mit-han-lab/lpd@f447b83 models/lpd.py.
"""

import math
from typing import Any, ClassVar

from arimage.ar.convert.llamagen import HEADS
from arimage.ar.lpd import LPDConfig, LPDModel
from arimage.checkpoint import Layout, Weights
from arimage.zoo_groups import LPD_SAMPLING

# of the published orders: scripts/eval; by the slots, and by the width where it is not 2
REPULSION, WIDE_REPULSION = {1024: 4}, {1536: 3}


class LPDLayout(Layout):
    """Depth, width, grid, feed-forward and classes from the keys; heads by the width."""

    name = "LPD transformer"
    model = LPDModel
    sampling = LPD_SAMPLING
    anchors = ("fake_latent", "mask_token", "z_proj_ln.weight", "token_emb.weight")
    renames = (
        (r"class_emb\.weight", "class_embedding.weight+0"),
        ("fake_latent", "class_embedding.weight+1"),
        (r"token_emb\.weight", "token_embedding.weight"),
        (r"pos_embed", "position_embedding.weight"),
        ("mask_token", "mask_token"),
        (r"z_proj_ln\.(weight|bias)", r"input_norm.\1"),
        (r"blocks\.(\d+)\.norm1\.(weight|bias)", r"blocks.\1.attention_norm.\2"),
        (r"blocks\.(\d+)\.norm2\.(weight|bias)", r"blocks.\1.mlp_norm.\2"),
        (r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"blocks.\1.qkv.\2"),
        (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"blocks.\1.project.\2"),
        (r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"blocks.\1.mlp.up.\2"),
        (r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"blocks.\1.mlp.down.\2"),
        (r"norm\.(weight|bias)", r"norm.\1"),
        (r"head\.weight", "output.weight"),
    )
    droppable: ClassVar[dict[str, str]] = {}

    def config(self, weights: Weights, **hints: Any) -> LPDConfig:
        """From shapes; ``num_heads``, ``depth`` and ``scales`` are hints, the last two checked.

        Raises:
            ValueError: another depth or side than a hint says, a grid that is no square, or a width
                whose heads are not known.
        """
        vocab_size, width = weights["token_emb.weight"].shape
        heads = hints.get("num_heads") or HEADS.get(width)
        if heads is None:
            raise ValueError(
                f"the file holds an LPD of width {width}, which is no published size, and no key "
                "says how many heads it has; convert it with num_heads (arimage convert "
                "--num-heads)"
            )
        slots = weights["pos_embed"].shape[1] - 1
        side, asked = math.isqrt(max(slots, 0)), hints.get("scales")
        if side * side != slots or slots < 1 or (asked and list(asked) != [side]):
            raise ValueError(
                f"the file holds an LPD of {slots} tokens and the scales asked for are "
                f"{list(asked) if asked else 'none'}; expected one square token map: leave scales "
                "out, or get the file again"
            )
        return LPDConfig(
            grid=(side, side),
            vocab_size=vocab_size,
            num_classes=weights["class_emb.weight"].shape[0],
            depth=self.count_blocks(weights, hints.get("depth")),
            width=width,
            num_heads=heads,
            mlp_hidden=weights["blocks.0.mlp.fc1.weight"].shape[0],
            repulsion=REPULSION.get(slots, WIDE_REPULSION.get(width, 2)),
        )

    def split(self, weights: Weights, config: Any) -> Weights:
        """Positions as rows of a table."""
        return {**weights, "pos_embed": weights["pos_embed"].flatten(0, 1).clone()}
