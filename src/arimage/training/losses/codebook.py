"""The quantizer's own loss: commitment, codebook, entropy, whatever its kind has."""

from torch import Tensor

from arimage.shapes import Float
from arimage.training.losses.base import Seen, TokenizerLoss


class CodebookLoss(TokenizerLoss):
    """Codebook and commitment terms (VQ-VAE, arXiv 1711.00937 eq. 3), computed by the quantizer."""

    def forward(self, seen: Seen) -> Float[Tensor, ""]:
        """``Encoding.loss``."""
        return seen.encoding.loss.float()
