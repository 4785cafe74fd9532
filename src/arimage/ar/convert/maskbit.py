"""MaskBit's generators: ``maskbit_generator_10bit.bin``, ..., ``maskbit_generator_18bit.bin``.

Keys and shapes: markweberdev/maskbit@5ea3d73 modeling/bert.py LFQBert.
"""

import math
from typing import Any, ClassVar

from arimage.ar.maskbit import MaskBitConfig, MaskBitModel
from arimage.checkpoint import Layout, Weights
from arimage.zoo_masked import MASKBIT_SAMPLING

HEADS = 16  # of every published size, which no shape says: configs/generator/*.yaml
BLOCK = r"transformer\.layers\.(\d+)\."


class MaskBitLayout(Layout):
    """Depth, width, grid, bits and classes from the keys; ``num_heads`` is a hint."""

    name = "MaskBit transformer"
    model = MaskBitModel
    sampling = MASKBIT_SAMPLING
    anchors = ("bits_to_indices", "prediction_layer.weight", "first_layer.0.weight")
    renames = (
        (r"pos_emb", "position_embedding.weight"),
        (r"class_emb\.weight", "class_embedding.weight"),
        (
            r"(?:input_proj|token_emb)\.(weight|bias)",
            r"input_projection.\1",
        ),  # older files: the 2nd
        (r"first_layer\.0\.(weight|bias)", r"first_norm.\1"),
        (BLOCK + r"0\.mha\.in_proj_(weight|bias)", r"blocks.\1.qkv.\2"),
        (BLOCK + r"0\.mha\.out_proj\.(weight|bias)", r"blocks.\1.project.\2"),
        (BLOCK + r"0\.norm\.(weight|bias)", r"blocks.\1.attention_norm.\2"),
        (BLOCK + r"1\.net\.0\.(weight|bias)", r"blocks.\1.mlp.up.\2"),
        (BLOCK + r"1\.net\.2\.(weight|bias)", r"blocks.\1.mlp.down.\2"),
        (BLOCK + r"1\.norm\.(weight|bias)", r"blocks.\1.mlp_norm.\2"),
        (r"last_layer\.0\.(weight|bias)", r"last.\1"),
        (r"last_layer\.2\.(weight|bias)", r"last_norm.\1"),
        (r"prediction_layer\.(weight|bias)", r"output.\1"),
    )
    droppable: ClassVar[dict[str, str]] = {"bits_to_indices": "powers of 2"}

    def config(self, weights: Weights, **hints: Any) -> MaskBitConfig:
        """From shapes.

        Raises:
            ValueError: a grid that is no square, another depth than the hint.
        """
        slots, width = weights["pos_emb"].shape[-2] - 1, weights["pos_emb"].shape[-1]
        side = math.isqrt(slots)
        if side * side != slots:
            raise ValueError(f"the file has {slots} positions, no square; get the file again")
        depth = len({key.split(".")[2] for key in weights if key.startswith("transformer.")})
        if hints.get("depth") not in (None, depth):
            raise ValueError(
                f"the file holds a {self.name} of depth {depth}, not {hints['depth']}; give the "
                "file or the variant of that depth"
            )
        entry_bits = len(weights["bits_to_indices"])
        splits = len(weights["prediction_layer.bias"]) // 2**entry_bits
        return MaskBitConfig(
            grid=(side, side),
            depth=depth,
            width=width,
            num_heads=hints.get("num_heads") or HEADS,
            mlp_hidden=len(weights["transformer.layers.0.1.net.0.bias"]),
            vocab_size=2 ** (entry_bits * splits),
            splits=splits,
            num_classes=len(weights["class_emb.weight"]) - 1,
        )
