"""The convolutional encoder and decoder shared by the VQGAN family (arXiv 2012.09841).

Layout of LDM's ``vq-f16``, which VAR and LlamaGen follow: residual blocks, attention at the lowest
resolution, zero padding right and below before a strided convolution, nearest up-sampling.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.shapes import Float

NORM_EPS = 1e-6  # CompVis/taming-transformers@3ba01b2 taming/modules/diffusionmodules/model.py


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm with at most ``groups`` groups that divide ``channels``."""
    while channels % groups:
        groups //= 2
    return nn.GroupNorm(groups, channels, eps=NORM_EPS)


def silu(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """x * sigmoid(x), in the memory of ``x`` where no gradient needs it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3 conv, twice, plus a skip (1x1 conv where the width changes)."""

    def __init__(self, channels_in: int, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2 = group_norm(channels, groups)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        same = channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """(b, channels_in, h, w) -> (b, channels, h, w)."""
        h = self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
        return h + self.shortcut(x) if torch.is_grad_enabled() else h.add_(self.shortcut(x))


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, with a residual."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Same shape out."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, 1, channels, -1)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (b, 1, h*w, c)
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.project(out.transpose(-1, -2).reshape(batch, channels, height, width))


class Downsample(nn.Module):
    """Halves the resolution: one zero row right and below, then a strided 3x3 conv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """(b, c, h, w) -> (b, c, h/2, w/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the resolution: nearest neighbour, then a 3x3 conv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """(b, c, h, w) -> (b, c, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """Images (b, 3, H, W) to latents (b, latent_channels, H/f, W/f), f = 2 ** (levels - 1)."""

    def __init__(
        self,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        latent_channels: int,
        groups: int,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
        width = channels
        for level, out in enumerate(widths):
            lowest = level == len(widths) - 1
            for _ in range(blocks):
                layers.append(ResidualBlock(width, out, groups))
                width = out
                if lowest:
                    layers.append(AttentionBlock(width, groups))
            if not lowest:
                layers.append(Downsample(width))
        layers += middle(width, groups)
        layers += [group_norm(width, groups), nn.SiLU()]
        layers.append(nn.Conv2d(width, latent_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Images in [-1, 1] to latents."""
        return self.layers(images)


class Decoder(nn.Module):
    """Latents (b, latent_channels, h, w) to images (b, 3, f*h, f*w); not clamped."""

    def __init__(
        self,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        latent_channels: int,
        groups: int,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        width = widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, width, 3, padding=1)]
        layers += middle(width, groups)
        for level in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                layers.append(ResidualBlock(width, widths[level], groups))
                width = widths[level]
                if level == len(widths) - 1:
                    layers.append(AttentionBlock(width, groups))
            if level:
                layers.append(Upsample(width))
        layers += [group_norm(width, groups), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """Latents to images, nominally in [-1, 1]."""
        return self.layers(latents)


def middle(width: int, groups: int) -> list[nn.Module]:
    """The blocks between the two directions."""
    return [
        ResidualBlock(width, width, groups),
        AttentionBlock(width, groups),
        ResidualBlock(width, width, groups),
    ]
