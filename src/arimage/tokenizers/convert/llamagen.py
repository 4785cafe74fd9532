"""LlamaGen's tokenizer files: ``vq_ds16_c2i.pt``, ``vq_ds8_c2i.pt``, ``vq_ds16_t2i.pt``.

Keys and shapes: FoundationVision/LlamaGen@ce98ec4 tokenizer/tokenizer_image/vq_model.py.
"""

from typing import ClassVar

from arimage.checkpoint import Weights
from arimage.tokenizers.convert.conv import Names, SingleScaleLayout


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
    droppable: ClassVar[dict[str, str]] = {
        r"quantize\.codebook_used": "which codes were used last while training",
    }

    def codebook(self, weights: Weights) -> tuple[str, str]:
        """Normalised where it is read: ``codebook_l2_norm`` of every published model."""
        return "vq_learned_cosine", "quantize.embedding.weight"
