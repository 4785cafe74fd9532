"""``equivariance``: smaller codes decode to the smaller image.

Skorokhodov et al. 2025, "Improving the Diffusability of Autoencoders" (arXiv 2502.14831): the
reconstruction loss (L2 and LPIPS) once more, on latents and images that are both made 2 or 4 times
smaller by bilinear interpolation; its weight there is 0.25. Applied to codes, so that a quantized
tokenizer's decoder learns it.
"""

import random

import torch.nn.functional as F
from torch import Tensor

from arimage.shapes import Float
from arimage.training.losses.base import Seen, TokenizerLoss
from arimage.training.losses.perceptual import frozen_lpips

FACTORS = (2, 4)


class EquivarianceLoss(TokenizerLoss):
    """Mean squared difference at a size drawn for each step.

    Args:
        perceptual: weight of LPIPS beside it; 0 needs no weights.

    Raises:
        FileNotFoundError: no weights of LPIPS.
    """

    def __init__(self, *, perceptual: float = 0.0) -> None:
        super().__init__()
        self.perceptual = perceptual
        instead = "set perceptual of the loss 'equivariance' to 0"
        self.lpips = frozen_lpips(instead=instead) if perceptual else None

    def forward(self, seen: Seen) -> Float[Tensor, ""]:
        """Mean over the batch.

        Raises:
            ValueError: codes whose sides are odd.
        """
        codes = seen.encoding.codes
        factor = drawn_factor(seen.seed, codes.shape[2], codes.shape[3])
        output = seen.tokenizer.decode_canvas(smaller(codes, factor)).float()
        target = smaller(seen.images, factor)
        loss = F.mse_loss(output, target)
        if self.lpips is not None:
            loss = loss + self.perceptual * self.lpips(output, target).mean()
        return loss


def drawn_factor(seed: int, height: int, width: int) -> int:
    """One of ``FACTORS`` that divides both sides.

    Raises:
        ValueError: there is none.
    """
    fitting = [f for f in FACTORS if height % f == 0 and width % f == 0]
    if not fitting:
        raise ValueError(
            f"got codes of {height} x {width}; the loss 'equivariance' makes them 2 or 4 times "
            "smaller: leave it out or choose an image size that gives even sides"
        )
    return random.Random(seed).choice(fitting)


def smaller(x: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b c h2 w2"]:
    """Both sides divided by ``factor``: bilinear with antialiasing, in float32."""
    size = (x.shape[2] // factor, x.shape[3] // factor)
    return F.interpolate(x.float(), size, mode="bilinear", antialias=True)
