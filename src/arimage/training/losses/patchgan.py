"""``patchgan``: the critic of pix2pix (arXiv 1611.07004, section 3.2), which judges patches.

As VQGAN (CompVis/taming-transformers@3ba01b2 taming/modules/discriminator/model.py) and LlamaGen
use it: three layers of stride 2, 64 channels, patches of 70 x 70 pixels. Batch statistics are of
all processes; the references' are of each process.
"""

import itertools

from torch import Tensor, nn

from arimage.shapes import Float
from arimage.training.losses.batch_norm import SharedBatchNorm

WIDEST = 8  # times ``channels``
INIT_STD = 0.02  # of convolutions and, around 1, of norms' scales; discriminator/model.py


class PatchGAN(nn.Module):
    """Convolutions of 4 x 4 with leaky ReLUs, normalised but for the first and the last.

    Args:
        layers: of stride 2.
        channels: of the first; doubled at each layer, up to eight times.
    """

    def __init__(self, *, layers: int = 3, channels: int = 64) -> None:
        super().__init__()
        self.smallest = 3 * 2**layers
        widths = [channels * min(2**k, WIDEST) for k in range(layers + 1)]
        stack: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for k, (narrow, wide) in enumerate(itertools.pairwise(widths), 1):
            stride = 2 if k < layers else 1
            stack.append(nn.Conv2d(narrow, wide, 4, stride, 1, bias=False))
            stack += [SharedBatchNorm(wide), nn.LeakyReLU(0.2, inplace=True)]
        stack.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.stack = nn.Sequential(*stack).apply(_initialise)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h2 w2"]:
        """Images in [-1, 1] to a logit per patch, greater for real ones.

        Raises:
            ValueError: images smaller than a patch needs.
        """
        if min(images.shape[2:]) < self.smallest:
            raise ValueError(
                f"got images of {images.shape[2]} x {images.shape[3]} pixels; this critic needs at "
                f"least {self.smallest} x {self.smallest}: give it fewer layers"
            )
        return self.stack(images)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, INIT_STD)
    elif isinstance(module, SharedBatchNorm):
        nn.init.normal_(module.weight, 1.0, INIT_STD)
        nn.init.zeros_(module.bias)
