"""LlamaGen's tokenizer files: ``vq_ds16_c2i.pt``, ``vq_ds8_c2i.pt``, ``vq_ds16_t2i.pt``.

Keys and shapes: FoundationVision/LlamaGen@ce98ec4 tokenizer/tokenizer_image/vq_model.py.
"""

from typing import ClassVar

from arimage.checkpoint import Weights
from arimage.tokenizers.convert.conv import Names, SingleScaleLayout

FLEXVAR_CODE_DIM = 32  # jiaosiyu1999/FlexVAR@04462cb models/__init__.py; LlamaGen's is 8


class LlamaGenTokenizerLayout(SingleScaleLayout):
    """VQ-16 and VQ-8; the decoder's levels begin with the lowest resolution."""

    name = "LlamaGen tokenizer"
    anchors = (*SingleScaleLayout.anchors, "encoder.conv_blocks.0.res.0.conv1.weight")
    names = Names(
        encoder="conv_blocks.{}",
        decoder="conv_blocks.{}",
        low_first=True,
        block="res",
        middle=("mid.0", "mid.1", "mid.2"),
    )
    flexible: ClassVar[bool] = False
    droppable: ClassVar[dict[str, str]] = {
        r"quantize\.codebook_used": "which codes were used last while training",
    }

    def recognizes(self, weights: Weights) -> bool:
        """The anchors, and codes that are not FlexVAR's, which has the same keys."""
        codes = weights.get("quantize.embedding.weight")
        flexible = codes is not None and codes.shape[1] == FLEXVAR_CODE_DIM
        return super().recognizes(weights) and flexible == self.flexible

    def codebook(self, weights: Weights) -> tuple[str, str]:
        """Normalised where it is read: ``codebook_l2_norm`` of every published model."""
        return "vq_learned_cosine", "quantize.embedding.weight"
