"""``patchgan_blur``: the critic of VQGAN+ and MaskBit (arXiv 2409.16211, section 3).

Behaviour of markweberdev/maskbit@5ea3d73 modeling/modules/discriminator.py, NLayerDiscriminatorv2
with blur_resample: convolutions of stride 1 that a fixed blur makes smaller, group norms (nothing
depends on the batch), a logit for each of 16 x 16 places.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.shapes import Float

GROUPS = 32
SLOPE = 0.1  # of the leaky ReLUs
PLACES = 16  # of the map of logits, per side at most
KERNEL = (1.0, 3.0, 3.0, 1.0)  # of the blur (arXiv 1904.11486)


class BlurPatchGAN(nn.Module):
    """Five by five, then ``layers`` of three by three with a blur of stride 2 behind each.

    Args:
        layers: each halves the resolution.
        channels: of the first layer, a multiple of 32; doubled from the second on.

    Raises:
        ValueError: channels that are no multiple of 32.
    """

    def __init__(self, *, layers: int = 4, channels: int = 128) -> None:
        super().__init__()
        if channels < GROUPS or channels % GROUPS:
            raise ValueError(f"got channels {channels}; expected a multiple of {GROUPS}")
        stack: list[nn.Module] = [nn.Conv2d(3, channels, 5, padding=2), nn.LeakyReLU(SLOPE)]
        width = channels
        for k in range(layers):
            wide = channels * 2**k
            stack += [nn.Conv2d(width, wide, 3, padding=1), Blur()]
            stack += [nn.GroupNorm(GROUPS, wide), nn.LeakyReLU(SLOPE)]
            width = wide
        self.stack = nn.Sequential(*stack)
        self.to_logits = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.LeakyReLU(SLOPE), nn.Conv2d(width, 1, 5, padding=2)
        )

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h2 w2"]:
        """Images in [-1, 1] to a logit per place, greater for real ones."""
        maps = self.stack(images)
        places = (min(PLACES, maps.shape[2]), min(PLACES, maps.shape[3]))
        return self.to_logits(F.adaptive_max_pool2d(maps, places))


class Blur(nn.Module):
    """A fixed low-pass filter of stride 2; as many places as pairs of pixels, odd sides up."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor(KERNEL)
        kernel = line[:, None] * line
        self.kernel: Tensor
        self.register_buffer("kernel", (kernel / kernel.sum())[None, None], persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Zeros around, one more row or column behind an odd side."""
        height, width = x.shape[2:]
        x = F.pad(x, (1, 1 + width % 2, 1, 1 + height % 2))
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, stride=2, groups=x.shape[1])
