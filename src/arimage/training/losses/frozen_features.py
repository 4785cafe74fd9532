"""``frozen_features``: small trained heads on the features of a frozen vision transformer.

Projected GANs (arXiv 2111.01007), StyleGAN-T (arXiv 2301.09515, section 4.2) and, for tokenizers,
FoundationVision/vaex@c08db77 models/dino.py, the nearest public kin of VAR's tokenizer training,
whose heads and depths are reproduced. Left out are its augmentations and its random crops (images
are always resized); batch statistics are of all processes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from arimage.shapes import Float
from arimage.training.losses.base import exactly
from arimage.training.losses.batch_norm import SharedBatchNorm
from arimage.training.losses.frozen import SIDE, imagenet_normalised, load_frozen

HEADS = 5  # before the first block and after each quarter of them; vaex models/dino.py
NORM_EPS = 1e-6  # vaex models/dino.py


class FrozenFeatures(nn.Module):
    """A head at each depth of the network; the heads alone are trained.

    Args:
        model: a folder or hub id of a vision transformer (DINO, DINOv2, ViT) for images of 224 px.
        kernel: of the heads' wider convolution along the patches, which wraps around; odd.

    Raises:
        FileNotFoundError: no such model here and no network.
    """

    def __init__(self, *, model: str = "facebook/dino-vits16", kernel: int = 9) -> None:
        from transformers import AutoModel

        super().__init__()
        self.vision = load_frozen(
            AutoModel,
            model,
            need="the critic 'frozen_features' needs",
            instead="name it as model of the critic; or train with --set adversarial=null",
            unread=("pooler.",),
        )
        width = self.vision.network.config.hidden_size
        self.heads = nn.ModuleList(Head(width, kernel) for _ in range(HEADS))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """Images in [-1, 1] to a logit per patch and depth, greater for real ones."""
        with exactly(images):
            states = self.vision(_resized(images), output_hidden_states=True).hidden_states
        blocks, patches = len(states) - 1, self._patches()
        logits = []
        for k, head in enumerate(self.heads):
            state = states[blocks * k // (HEADS - 1)]
            read = state[:, -patches:] + state[:, :1]  # the class token goes to all patches
            logits.append(head(read.transpose(1, 2)))
        return torch.cat(logits, dim=1)

    def _patches(self) -> int:
        return (SIDE // self.vision.network.config.patch_size) ** 2


class Head(nn.Module):
    """One-by-one, a residual block along the patches, a logit for each of them."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.first, self.second = block(width, 1), block(width, kernel)
        self.last = spectral_norm(nn.Conv1d(width, 1, 1))

    def forward(self, features: Float[Tensor, "b c n"]) -> Float[Tensor, "b n"]:
        """Features of the patches to their logits."""
        x = self.first(features)
        x = (self.second(x) + x) / 2**0.5
        return self.last(x)[:, 0]


def block(width: int, kernel: int) -> nn.Sequential:
    """A spectrally normalised convolution (arXiv 1802.05957), a batch norm, a leaky ReLU."""
    convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2, padding_mode="circular")
    return nn.Sequential(
        spectral_norm(convolution), SharedBatchNorm(width, eps=NORM_EPS), nn.LeakyReLU(0.2)
    )


def _resized(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 side side"]:
    """By means of pixels where they are larger, else bicubic; vaex models/dino.py."""
    mode = "area" if images.shape[2] > SIDE else "bicubic"
    return imagenet_normalised(F.interpolate(images.float(), (SIDE, SIDE), mode=mode))
