"""The convolutional encoder and decoder shared by the VQGAN family (arXiv 2012.09841).

Residual blocks, nearest up-sampling, group norm. In what published families differ beyond sizes is
one record, ``Network``, chosen by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from arimage.shapes import Float

NORM_EPS = 1e-6  # CompVis/taming-transformers@3ba01b2 taming/modules/diffusionmodules/model.py


@dataclass(frozen=True, kw_only=True)
class Network:
    """In what the encoders and decoders of one family differ from those of others.

    Attributes:
        attention: behind every block at the lowest resolution, and in the middle.
        bias: of residual blocks and of the encoder's first convolution.
        late_shortcut: where the width changes, the skip reads what the second convolution made,
            not the block's input.
        strided: down by a convolution; otherwise by means of 2 x 2.
        padded: zeros that this convolution adds on the left and right (and above and below).
        deep_middle: as many blocks in the middle as at a level, not two.
        decoder_extra: blocks of a decoder's level beyond those of an encoder's.
        styled: the decoder sees its input's statistics at every level, and its up-sampling is a
            convolution to four times the channels, which become 2 x 2 cells.
        encoder_kernel: of the encoder's last convolution.
        quant_convs: between the networks and the quantizer.
        black: the pixel value that is -1 in this package; white is 1 in all of them.
    """

    attention: bool
    bias: bool
    late_shortcut: bool
    strided: bool
    padded: tuple[int, int] = (0, 1)
    deep_middle: bool = False
    decoder_extra: int
    styled: bool = False
    encoder_kernel: int
    quant_convs: bool
    black: int

    def read(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """From [-1, 1] to the range of the encoder."""
        return images if self.black == -1 else (images + 1) / 2

    def write(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """From the range of the decoder to [-1, 1]."""
        return images if self.black == -1 else images * 2 - 1


NETWORKS = {
    # CompVis/taming-transformers@3ba01b2 taming/modules/diffusionmodules/model.py; also VAR's,
    # and LlamaGen's (FoundationVision/LlamaGen@ce98ec4 tokenizer/tokenizer_image/vq_model.py).
    "ldm": Network(
        attention=True,
        bias=True,
        late_shortcut=False,
        strided=True,
        decoder_extra=1,
        encoder_kernel=3,
        quant_convs=True,
        black=-1,
    ),
    # bytedance/1d-tokenizer@942a96f modeling/modules/maskgit_vqgan.py, after MaskGIT's own in JAX.
    # Its TF padding is the usual one: every kernel is odd and has stride 1.
    "maskgit": Network(
        attention=False,
        bias=False,
        late_shortcut=True,
        strided=False,
        decoder_extra=0,
        encoder_kernel=1,
        quant_convs=False,
        black=0,
    ),
    # markweberdev/maskbit@5ea3d73 modeling/modules/autoencoder.py
    "maskbit": Network(
        attention=False,
        bias=False,
        late_shortcut=True,
        strided=True,
        decoder_extra=0,
        encoder_kernel=1,
        quant_convs=False,
        black=0,
    ),
    # TencentARC/SEED-Voken@b9a17ea src/Open_MAGVIT2/modules/diffusionmodules/improved_model.py,
    # after MAGVIT-v2 (arXiv 2310.05737).
    "magvit2": Network(
        attention=False,
        bias=False,
        late_shortcut=False,
        strided=True,
        padded=(1, 1),
        deep_middle=True,
        decoder_extra=0,
        styled=True,
        encoder_kernel=1,
        quant_convs=False,
        black=-1,
    ),
}


def group_norm(channels: int, groups: int, affine: bool = True) -> nn.GroupNorm:
    """GroupNorm with at most ``groups`` groups that divide ``channels``."""
    while channels % groups:
        groups //= 2
    return nn.GroupNorm(groups, channels, eps=NORM_EPS, affine=affine)


def silu(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """x * sigmoid(x), in the memory of ``x`` where no gradient needs it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3 conv, twice, plus a skip (1x1 conv where the width changes)."""

    def __init__(self, channels_in: int, channels: int, groups: int, network: Network) -> None:
        super().__init__()
        bias, same = network.bias, channels_in == channels
        self.norm1 = group_norm(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=bias)
        self.norm2 = group_norm(channels, groups)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.late = network.late_shortcut and not same
        skipped = channels if self.late else channels_in
        self.shortcut = nn.Identity() if same else nn.Conv2d(skipped, channels, 1, bias=bias)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """(b, channels_in, h, w) -> (b, channels, h, w)."""
        h = self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
        skip = self.shortcut(h if self.late else x)
        return h + skip if torch.is_grad_enabled() else h.add_(skip)


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
    """Halves the resolution: zeros around, then a strided 3x3 conv."""

    def __init__(self, channels: int, network: Network) -> None:
        super().__init__()
        self.padded = 2 * network.padded
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """(b, c, h, w) -> (b, c, h/2, w/2)."""
        return self.conv(F.pad(x, self.padded))


class Upsample(nn.Module):
    """Doubles the resolution: nearest neighbour, then a 3x3 conv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """(b, c, h, w) -> (b, c, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class DepthToSpace(nn.Module):
    """Doubles the resolution: a 3x3 conv to four times the channels, which become 2 x 2 cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """(b, c, h, w) -> (b, c, 2h, 2w); the cell is the slow index of the channels."""
        cells = self.conv(x).unflatten(1, (2, 2, -1))
        return cells.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


class Style(nn.Module):
    """Group norm whose scale and shift follow from the decoder's input: its deviation and mean."""

    def __init__(self, latent_channels: int, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups, affine=False)
        self.gamma = nn.Linear(latent_channels, channels)
        self.beta = nn.Linear(latent_channels, channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], latents: Float[Tensor, "b l h2 w2"]
    ) -> Float[Tensor, "b c h w"]:
        """Same shape out."""
        variance, mean = torch.var_mean(latents.flatten(2), dim=-1)
        scale, shift = self.gamma((variance + NORM_EPS).sqrt()), self.beta(mean)
        return torch.addcmul(shift[..., None, None], self.norm(x), scale[..., None, None])


class Stack(nn.Module):
    """Layers in a row, whose activations need not be kept while training.

    transformers sets the two attributes: whether to run layers again for their gradients, and the
    function that does it.
    """

    layers: nn.Sequential

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] = checkpoint

    def run(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """All layers; those that are styled see the first input, too."""
        again = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        first = (x,)
        for layer in self.layers:
            more = first if isinstance(layer, Style) else ()
            if again:
                x = self._gradient_checkpointing_func(layer.__call__, x, *more)
            else:
                x = layer(x, *more)
        return x


class Encoder(Stack):
    """Images (b, 3, H, W) to latents (b, latent_channels, H/f, W/f), f = 2 ** (levels - 1)."""

    def __init__(
        self,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        latent_channels: int,
        groups: int,
        network: Network,
    ) -> None:
        super().__init__()
        self.network = network
        widths = [channels * m for m in multipliers]
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=network.bias)]
        width = channels
        for level, out in enumerate(widths):
            lowest = level == len(widths) - 1
            for _ in range(blocks):
                layers += stage(width, out, groups, network, lowest)
                width = out
            if not lowest:
                layers.append(Downsample(width, network) if network.strided else nn.AvgPool2d(2))
        layers += middle(width, groups, network, blocks)
        layers += [group_norm(width, groups), nn.SiLU()]
        kernel = network.encoder_kernel
        layers.append(nn.Conv2d(width, latent_channels, kernel, padding=kernel // 2))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Images in [-1, 1] to latents."""
        return self.run(self.network.read(images))


class Decoder(Stack):
    """Latents (b, latent_channels, h, w) to images (b, 3, f*h, f*w); not clamped."""

    def __init__(
        self,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        latent_channels: int,
        groups: int,
        network: Network,
    ) -> None:
        super().__init__()
        self.network = network
        widths = [channels * m for m in multipliers]
        width = widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, width, 3, padding=1)]
        layers += middle(width, groups, network, blocks)
        for level in reversed(range(len(widths))):
            layers += [Style(latent_channels, width, groups)] if network.styled else []
            for _ in range(blocks + network.decoder_extra):
                lowest = level == len(widths) - 1
                layers += stage(width, widths[level], groups, network, lowest)
                width = widths[level]
            if level:
                layers.append((DepthToSpace if network.styled else Upsample)(width))
        layers += [group_norm(width, groups), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """Latents to images, nominally in [-1, 1]."""
        return self.network.write(self.run(latents))


def stage(
    width_in: int, width: int, groups: int, network: Network, lowest: bool
) -> list[nn.Module]:
    """A residual block, with attention at the lowest resolution if the family has any."""
    block = ResidualBlock(width_in, width, groups, network)
    return [block, AttentionBlock(width, groups)] if lowest and network.attention else [block]


def middle(width: int, groups: int, network: Network, blocks: int) -> list[nn.Module]:
    """The blocks between the two directions: residual, attention if any, residual, perhaps more."""
    first = stage(width, width, groups, network, lowest=True)
    more = blocks - 1 if network.deep_middle else 1
    return [*first, *(ResidualBlock(width, width, groups, network) for _ in range(more))]
