"""HMAR's transformer files: ``hmar-d16.pth`` to ``hmar-d30.pth``.

Keys and shapes: NVlabs/HMAR@595a9df models/hmar.py. VAR's; of the blocks, ``base_blocks`` are
those of both branches, ``ns_blocks`` predict maps and ``mask_blocks`` refine them.
"""

import re
from typing import Any, ClassVar

from arimage.ar.convert.var import VARLayout, infer_scales
from arimage.ar.hmar import HMARConfig, HMARModel
from arimage.checkpoint import Layout, Weights
from arimage.zoo_relatives import HMAR_SAMPLING

BLOCK = re.compile(r"(base|ns|mask)_blocks\.(\d+)\.(.+)")


class HMARLayout(VARLayout):
    """As VAR's, from the blocks that predict; the refining ones are counted."""

    name = "HMAR transformer"
    model = HMARModel
    sampling = HMAR_SAMPLING
    anchors = (
        "pos_1LC",
        "lvl_embed.weight",
        "word_embed_bias",
        "mask_embed.weight",
        "base_blocks.0.attn.mat_qkv.weight",
        "mask_blocks.0.attn.mat_qkv.weight",
    )
    renames = (
        ("word_embed_bias", "code_embedding.bias"),
        (r"mask_embed\.weight", "mask_embedding"),
        (r"ns_head_nm\.ada_lin\.1\.(weight|bias)", r"out_modulation.\1"),
        (r"ns_head\.(weight|bias)", r"output.\1"),
        (r"mask_head_nm\.ada_lin\.1\.(weight|bias)", r"refine_modulation.\1"),
        (r"mask_head\.(weight|bias)", r"refine_output.\1"),
        *VARLayout.renames,
    )
    droppable: ClassVar[dict[str, str]] = {
        **VARLayout.droppable,
        r"(base|ns|mask)_blocks\.\d+\.attn\.zero_k_bias": "zeros: keys have no bias",
    }

    def recognizes(self, weights: Weights) -> bool:
        """The anchors; the mask is that of MVAR, which VAR's layout leaves to its own."""
        return Layout.recognizes(self, weights)

    def config(self, weights: Weights, **hints: Any) -> HMARConfig:
        """As VAR's."""
        blocks = [match for key in weights if (match := BLOCK.fullmatch(key))]
        count = {
            kind: len({match[2] for match in blocks if match[1] == kind})
            for kind in ("base", "ns", "mask")
        }
        plain = {"head.weight": weights["ns_head.weight"]} | {
            f"blocks.{int(m[2]) + count['base'] * (m[1] == 'ns')}.{m[3]}": weights[m[0]]
            for m in blocks
            if m[1] != "mask"
        }
        sizes = self.sizes({**weights, **plain}, hints)
        scales = infer_scales(weights, hints.get("scales"))
        return HMARConfig(scales=scales, refine_depth=count["mask"], **sizes)

    def rename(self, key: str, config: Any) -> str | None:
        """As every layout's; the blocks of all kinds are one list."""
        match = BLOCK.fullmatch(key)
        if match is None:
            return super().rename(key, config)
        common = config.depth - config.refine_depth
        first = {"base": 0, "ns": common, "mask": config.depth}[match[1]]
        return super().rename(f"blocks.{first + int(match[2])}.{match[3]}", config)
