"""Distances of pixels: ``l1`` and ``l2``, of images in [-1, 1].

A weight published for images in [0, 1] is twice as large for l1 and four times for l2.
"""

import torch.nn.functional as F
from torch import Tensor

from arimage.shapes import Float
from arimage.training.losses.base import Seen, TokenizerLoss


class L1Loss(TokenizerLoss):
    """Mean absolute difference; VQGAN's (arXiv 2012.09841) and pix2pix' (arXiv 1611.07004 eq. 3)
    reconstruction loss.
    """

    def forward(self, seen: Seen) -> Float[Tensor, ""]:
        """Mean over all values of the batch."""
        return F.l1_loss(seen.output.float(), seen.images.float())


class L2Loss(TokenizerLoss):
    """Mean squared difference, the reconstruction loss of VQ-VAE (arXiv 1711.00937 eq. 3)."""

    def forward(self, seen: Seen) -> Float[Tensor, ""]:
        """Mean over all values of the batch."""
        return F.mse_loss(seen.output.float(), seen.images.float())
