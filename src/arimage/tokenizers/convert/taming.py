"""VQGAN files of taming-transformers: f16 with 1,024 or 16,384 codes, f8 with Gumbel codes.

Keys and shapes: CompVis/taming-transformers@3ba01b2 taming/models/vqgan.py and
taming/modules/vqvae/quantize.py; configs are beside the files, ``model.yaml``.
"""

from typing import ClassVar

from arimage.checkpoint import Weights
from arimage.tokenizers.convert.conv import SingleScaleLayout


class TamingTokenizerLayout(SingleScaleLayout):
    """Both quantizers; attention at the lowest resolution, where these models have it."""

    name = "taming VQGAN"
    anchors = (
        *SingleScaleLayout.anchors,
        "quant_conv.weight",
        "encoder.mid.block_1.conv1.weight",
    )
    renames = (
        *SingleScaleLayout.renames,
        (r"quantize\.embed\.weight", "quantizer.inner.embedding.weight"),
        (r"quantize\.proj\.(weight|bias)", r"quantizer.inner.projection.\1"),
    )
    droppable: ClassVar[dict[str, str]] = {
        r"loss\..*": "LPIPS and the discriminator, for training alone",
    }

    def recognizes(self, weights: Weights) -> bool:
        """VAR's and IBQ's tokenizers have these keys, too, and more."""
        more = any(key.startswith(("quantize.quant_resi.", "model_ema.")) for key in weights)
        return super().recognizes(weights) and not more

    def codebook(self, weights: Weights) -> tuple[str, str]:
        """By the projection, which the Gumbel quantizer has alone."""
        if "quantize.proj.weight" in weights:
            return "gumbel", "quantize.embed.weight"
        return super().codebook(weights)
