"""MaskBit's tokenizers: ``maskbit_tokenizer_10bit.bin``, ..., ``maskbit_tokenizer_18bit.bin``.

Keys and shapes: markweberdev/maskbit@5ea3d73 modeling/conv_vqgan.py, modules/autoencoder.py.
There the first latent is the lowest bit of an id, here the highest: the latents are turned round,
in the layer that makes them and in the one that reads them, and ids are the published ones.
"""

from typing import Any, ClassVar

from arimage.checkpoint import Weights
from arimage.tokenizers.convert.conv import Names, SingleScaleLayout

LATENT_AXES = {
    "encoder.conv_out.weight": 0,
    "encoder.conv_out.bias": 0,
    "decoder.conv_in.weight": 1,
    "quantize.bits_to_indices": 0,
}


class MaskBitTokenizerLayout(SingleScaleLayout):
    """MaskGIT's networks with strided convolutions; codes are signs, so there is no codebook."""

    name = "MaskBit tokenizer"
    network = "maskbit"
    anchors = (
        *SingleScaleLayout.anchors,
        "quantize.bits_to_indices",
        "encoder.down.0.down_conv.weight",
    )
    names = Names(
        low_first=True,
        block="res_blocks",
        down="down_conv",
        up="upsample_conv",
        middle=("mid.res_blocks.0", "mid.res_blocks.1"),
    )
    renames = ((r"quantize\.bits_to_indices", "quantizer.inner.mask"),)
    droppable: ClassVar[dict[str, str]] = {
        r"quantize\.codebook": "the signs of every id, which follow from it"
    }

    def codebook(self, weights: Weights) -> tuple[str, str]:
        """Signs; the published table of them has the sizes."""
        return "lfq", "quantize.codebook"

    def split(self, weights: Weights, config: Any) -> Weights:
        """Latents the other way round."""
        turned = {key: weights[key].flip(axis) for key, axis in LATENT_AXES.items()}
        turned["quantize.bits_to_indices"] = turned["quantize.bits_to_indices"].long()
        return weights | turned
