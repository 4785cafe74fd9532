"""FlexVAR's tokenizer file ``FlexVAE.pth``.

Keys and shapes: jiaosiyu1999/FlexVAR@04462cb models/vq_llama.py, which are LlamaGen's. Only the
dimension of the codes tells them apart: 32 here, 8 in LlamaGen's published files.
"""

from typing import Any

from arimage.checkpoint import Weights
from arimage.tokenizers.convert.llamagen import LlamaGenTokenizerLayout
from arimage.tokenizers.flexible_vq import FlexibleVQConfig, FlexibleVQTokenizer
from arimage.zoo_relatives import FLEXVAR_SCALES


class FlexVARTokenizerLayout(LlamaGenTokenizerLayout):
    """As LlamaGen's; the sides of the token maps are the transformer's."""

    name = "FlexVAR tokenizer"
    model = FlexibleVQTokenizer
    flexible = True

    def config(self, weights: Weights, **hints: Any) -> FlexibleVQConfig:
        """From shapes; the hint ``scales`` is the schedule, ``image_size`` its last map's.

        Raises:
            ValueError: a size that the published schedule does not end with.
        """
        sizes = self.sizes(weights)
        quantizer, codes = self.codebook(weights)
        vocab_size, code_dim = weights[codes].shape
        scales, factor = hints.get("scales") or FLEXVAR_SCALES, sizes["downsample_factor"]
        return FlexibleVQConfig(
            image_size=hints.get("image_size") or scales[-1] * factor,
            vocab_size=vocab_size,
            code_dim=code_dim,
            quantizer=quantizer,
            scales=tuple(scales),
            **sizes,
        )
