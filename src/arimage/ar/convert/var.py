"""VAR's transformer files: ``var_d16.pth`` to ``var_d36.pth``, trainer files, CCA, DDO.

Keys and shapes: FoundationVision/VAR@78b9539 models/var.py. Descendants have the same keys and more
(M-VAR), or the same keys and another training mask (MVAR): they have layouts of their own.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from arimage.ar.var import VARConfig, VARModel
from arimage.checkpoint import Layout, Weights
from arimage.zoo import VAR_SAMPLING
from arimage.zoo import VAR_SCHEDULES as SCHEDULES

HEAD_DIM = 64  # of every published model: models/__init__.py build_vae_var
MASK, MAMBA = "attn_bias_for_masking", "blocks.0.mamba.A_log"


class VARLayout(Layout):
    """Depth, width, heads, scales, classes, shared adaLN and normalised queries, from the keys."""

    name = "VAR transformer"
    model = VARModel
    sampling = VAR_SAMPLING
    anchors = (
        "pos_start",
        "pos_1LC",
        "lvl_embed.weight",
        "class_emb.weight",
        "word_embed.weight",
        "blocks.0.attn.mat_qkv.weight",
    )
    renames = (
        ("pos_start", "start"),
        ("pos_1LC", "position_embedding.weight"),
        (r"lvl_embed\.weight", "scale_embedding.weight"),
        (r"class_emb\.weight", "class_embedding.weight"),
        (r"word_embed\.(weight|bias)", r"code_embedding.\1"),
        (r"blocks\.(\d+)\.attn\.scale_mul_1H11", r"blocks.\1.log_scale"),
        (r"blocks\.(\d+)\.attn\.mat_qkv\.weight", r"blocks.\1.qkv.weight"),
        (r"blocks\.(\d+)\.attn\.([qv]_bias)", r"blocks.\1.\2"),
        (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"blocks.\1.project.\2"),
        (r"blocks\.(\d+)\.ffn\.fc1\.(weight|bias)", r"blocks.\1.mlp.up.\2"),
        (r"blocks\.(\d+)\.ffn\.fc2\.(weight|bias)", r"blocks.\1.mlp.down.\2"),
        (r"blocks\.(\d+)\.ada_lin\.1\.(weight|bias)", r"modulations.\1.\2"),
        (r"blocks\.(\d+)\.ada_gss", r"modulation[\1]"),
        (r"shared_ada_lin\.1\.(weight|bias)", r"shared_modulation.\1"),
        (r"head_nm\.ada_lin\.1\.(weight|bias)", r"out_modulation.\1"),
        (r"head\.(weight|bias)", r"output.\1"),
    )
    droppable: ClassVar[dict[str, str]] = {
        "lvl_1L": "the scale of each position, which follows from the scales",
        MASK: "the training mask, made from the order when it is needed",
        r"blocks\.\d+\.attn\.zero_k_bias": "zeros: keys have no bias",
    }

    def recognizes(self, weights: Weights) -> bool:
        """The keys, and neither Mamba's nor a mask that hides the token maps before."""
        other = MAMBA in weights or hides_other_scales(weights)
        return super().recognizes(weights) and not other

    def config(self, weights: Weights, **hints: Any) -> VARConfig:
        """From shapes; ``scales`` and ``depth`` are hints that must agree with the file."""
        scales = infer_scales(weights, hints.get("scales"))
        return VARConfig(scales=scales, **self.sizes(weights, hints))

    def sizes(self, weights: Weights, hints: dict[str, Any]) -> dict[str, Any]:
        """Fields of a config, but for the scales, that VAR's relatives have, too.

        Raises:
            ValueError: another depth than a hint says.
        """
        width = weights["blocks.0.attn.mat_qkv.weight"].shape[1]
        scale_mul = weights.get("blocks.0.attn.scale_mul_1H11")
        hidden = weights["blocks.0.ffn.fc1.weight"].shape[0]
        return {
            "depth": self.count_blocks(weights, hints.get("depth")),
            "width": width,
            "num_heads": max(width // HEAD_DIM, 1) if scale_mul is None else scale_mul.numel(),
            "mlp_ratio": hidden / width,
            "vocab_size": weights["head.weight"].shape[0],
            "code_dim": weights["word_embed.weight"].shape[1],
            "num_classes": weights["class_emb.weight"].shape[0] - 1,
            "qk_norm": scale_mul is not None,
            "shared_adaln": "shared_ada_lin.1.weight" in weights,
        }


def hides_other_scales(weights: Weights) -> bool:
    """Whether the training mask hides the first position from the second; False without values."""
    mask = weights.get(MASK)
    if mask is None or mask.is_meta or mask.shape[-1] < 2:
        return False
    return bool(mask[..., 1, 0].isinf().all())


def infer_scales(weights: Weights, wanted: Sequence[int] | None = None) -> tuple[int, ...]:
    """Sides of the token maps: as asked for, as ``lvl_1L`` counts them, or a published schedule.

    Raises:
        ValueError: a schedule of another length than the file's, or none that fits.
    """
    positions, count = weights["pos_1LC"].shape[-2], weights["lvl_embed.weight"].shape[0]
    candidates = (
        [tuple(wanted)] if wanted is not None else [*_counted(weights), *SCHEDULES.values()]
    )
    for scales in candidates:
        if len(scales) == count and sum(side * side for side in scales) == positions:
            return scales
    known = next((s for s in SCHEDULES.values() if sum(n * n for n in s) == positions), None)
    theirs = f"the schedule {', '.join(map(str, known))}" if known else "no published schedule"
    if wanted is not None:
        raise ValueError(
            f"got scales {', '.join(map(str, wanted))}, which have "
            f"{sum(side * side for side in wanted)} positions; the file has {positions} in {count} "
            f"scales, as {theirs} has: leave scales out or give those"
        )
    raise ValueError(
        f"the file has {positions} positions in {count} scales, which is {theirs}; give scales"
    )


def _counted(weights: Weights) -> list[tuple[int, ...]]:
    """The sides that ``lvl_1L`` implies; nothing without it or without its values."""
    levels = weights.get("lvl_1L")
    if levels is None or levels.is_meta:
        return []
    counts = torch.bincount(levels.flatten()).tolist()
    return [tuple(math.isqrt(n) for n in counts)]
