"""TiTok: an image as a line of tokens that are tied to no place in it (arXiv 2406.07550).

A vision transformer reads the patches of an image and a few latent tokens, whose outputs are
quantized; another reads these and a query per patch, whose outputs become the image: pixels
directly, or a distribution over the codes of MaskGIT's tokenizer, whose decoder then draws the
image from the mean code (the published two-stage models). The token map is 1 x ``num_tokens``.
Behaviour: bytedance/1d-tokenizer@942a96f modeling/titok.py, modeling/modules/blocks.py.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.pretrained import strict
from arimage.shapes import Float
from arimage.tokenizers.base import FULL_MAPS, nearest_multiple_error
from arimage.tokenizers.conv import NETWORKS, Decoder, Stack
from arimage.tokenizers.vq import (
    Grids,
    QuantizedConfig,
    VQTokenizer,
    decode_in_pieces,
    repeated,
    to_map,
    to_rows,
)

MLP_RATIO = 4  # of every size
NORM_GROUPS = 32  # of the pixel decoder, as every convolutional network here
TOKEN_ROWS = 20  # of the width of a transformer that are alive at once for each of its positions


@strict
class TiTokConfig(QuantizedConfig):
    """Sizes of the two transformers; ``downsample_factor`` is the side of a patch.

    ``pixel_codes`` is 0 where the decoder draws pixels itself; otherwise the number of codes, of
    ``pixel_code_dim`` numbers each, between it and a convolutional decoder of ``channels``,
    ``channel_multipliers`` and ``num_res_blocks`` (as in ``VQTokenizerConfig``).
    """

    model_type = "arimage_titok"
    positive: ClassVar[tuple[str, ...]] = (
        *QuantizedConfig.positive,
        *("num_tokens", "encoder_width", "encoder_layers", "encoder_heads"),
        *("decoder_width", "decoder_layers", "decoder_heads"),
        *("pixel_code_dim", "channels", "num_res_blocks"),
    )
    newer: ClassVar[tuple[str, ...]] = ()

    image_size: int = 32
    downsample_factor: int = 8
    vocab_size: int = 256
    code_dim: int = 12
    num_tokens: int = 8
    encoder_width: int = 64
    encoder_layers: int = 2
    encoder_heads: int = 4
    decoder_width: int = 64
    decoder_layers: int = 2
    decoder_heads: int = 4
    pixel_codes: int = 0
    pixel_code_dim: int = 16
    channels: int = 32
    channel_multipliers: list[int] | tuple[int, ...] = (1, 1, 2, 2)
    num_res_blocks: int = 1
    quantizer: str = "vq_ema"
    levels: list[int] | None = None
    depth: int = 1

    @property
    def grids(self) -> Grids:
        """One row of tokens (``depth`` times), whatever the image size."""
        return repeated(((1, self.num_tokens),), self.depth)

    def validate_heads(self) -> None:
        """Widths are multiples of their heads."""
        for side in ("encoder", "decoder"):
            width, heads = getattr(self, f"{side}_width"), getattr(self, f"{side}_heads")
            if width % heads:
                raise ValueError(
                    f"{side}_width {width} is not a multiple of {side}_heads {heads}; change one"
                )

    def validate_sizes(self) -> None:
        """The image size is a multiple of the patch; so much do the pixel decoder's levels add."""
        factor, levels = self.downsample_factor, len(self.channel_multipliers)
        if self.image_size % factor or self.image_size < factor:
            raise ValueError(nearest_multiple_error(self.image_size, factor))
        if self.pixel_codes < 0:
            raise ValueError(f"got pixel_codes {self.pixel_codes}; expected 0 for none, or more")
        if self.pixel_codes and factor != 2 ** (levels - 1):
            raise ValueError(
                f"got downsample_factor {factor} with {levels} channel_multipliers, which give "
                f"{2 ** (levels - 1)}"
            )


class ViTBlock(nn.Module):
    """Pre-norm attention over all positions and a feed-forward with GELU, each with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = (
            nn.Linear(width, MLP_RATIO * width),
            nn.Linear(MLP_RATIO * width, width),
        )

    def forward(self, x: Float[Tensor, "b m width"]) -> Float[Tensor, "b m width"]:
        """Same shape out."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (b, heads, m, d) each
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.project(seen)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class ViT(Stack):
    """Blocks between two norms; activations are kept or not as in convolutional stacks."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layers = nn.Sequential(*(ViTBlock(width, heads) for _ in range(layers)))

    def outputs(
        self, x: Float[Tensor, "b m width"], start: int, stop: int
    ) -> Float[Tensor, "b n width"]:
        """What positions start..stop-1 become."""
        return self.norm_out(self.run(self.norm_in(x))[:, start:stop])


class TokenEncoder(ViT):
    """Images to outputs of the latent tokens, as a map (b, width, 1, tokens).

    ``mixed``: the two-stage models read the outputs (tokens, width) in memory order as (width,
    tokens) and were trained so (blocks.py TiTokEncoder, ``is_legacy``).
    """

    def __init__(self, config: TiTokConfig) -> None:
        width, factor = config.encoder_width, config.downsample_factor
        super().__init__(width, config.encoder_layers, config.encoder_heads)
        self.mixed = bool(config.pixel_codes)
        self.patches = nn.Conv2d(3, width, factor, stride=factor)
        self.summary = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(config.side**2, width) * width**-0.5)
        self.latents = nn.Parameter(torch.randn(config.num_tokens, width) * width**-0.5)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b width 1 k"]:
        """Images in [-1, 1] to latents; the transformer reads [0, 1]."""
        patches = to_rows(self.patches((images + 1) / 2)) + self.positions
        fixed = torch.cat([self.summary, self.latents]).expand(len(images), -1, -1)
        tokens = len(self.latents)
        x = self.outputs(torch.cat([fixed, patches], dim=1), 1, 1 + tokens)
        if self.mixed:
            return x.reshape(len(x), -1, 1, tokens)
        return to_map(x, (1, tokens))


class TokenDecoder(ViT):
    """A map of embedded tokens (b, width, 1, k) to images in [-1, 1]; not clamped."""

    def __init__(self, config: TiTokConfig) -> None:
        width, factor = config.decoder_width, config.downsample_factor
        super().__init__(width, config.decoder_layers, config.decoder_heads)
        self.side, self.factor = config.side, factor
        self.queries = nn.Parameter(torch.randn(1 + config.side**2, width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(config.num_tokens, width) * width**-0.5)
        self.pixels: nn.Module
        if config.pixel_codes:
            self.head = nn.Sequential(
                nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, config.pixel_codes)
            )
            self.codes = nn.Parameter(torch.randn(config.pixel_codes, config.pixel_code_dim))
            self.pixels = Decoder(
                config.channels,
                config.channel_multipliers,
                config.num_res_blocks,
                config.pixel_code_dim,
                NORM_GROUPS,
                NETWORKS["maskgit"],
            )
        else:
            self.head = nn.Sequential(nn.Linear(width, 3 * factor**2))
            self.codes = None
            self.pixels = nn.Conv2d(3, 3, 3, padding=1)

    def patches(self, tokens: Float[Tensor, "b width 1 k"]) -> Float[Tensor, "b p v"]:
        """What the head says of each patch, row by row."""
        queries = self.queries.expand(len(tokens), -1, -1)
        x = torch.cat([queries, to_rows(tokens) + self.positions], dim=1)
        return self.head(self.outputs(x, 1, len(self.queries)))

    def forward(self, tokens: Float[Tensor, "b width 1 k"]) -> Float[Tensor, "b 3 h w"]:
        """As the class says."""
        said, size = self.patches(tokens), (self.side, self.side)
        if self.codes is not None:
            mean = to_map(said.softmax(-1) @ self.codes, size)
            return decode_in_pieces(self.pixels, mean, self.factor)
        patches = said.unflatten(-1, (self.factor, self.factor, 3)).unflatten(1, size)
        pixels = patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
        return self.pixels(pixels) * 2 - 1


class TiTokTokenizer(VQTokenizer):
    """Slot i is token i of the line."""

    placed = False
    config_class = TiTokConfig
    config: TiTokConfig

    def _build(self, config: TiTokConfig) -> None:
        self.encoder, self.decoder = TokenEncoder(config), TokenDecoder(config)
        self.pre_quant = nn.Conv2d(config.encoder_width, config.code_dim, 1)
        self.post_quant = nn.Conv2d(config.code_dim, config.decoder_width, 1)

    @property
    def image_shape(self) -> tuple[int, int]:
        """The one size that the tables of positions are for."""
        return self.config.image_size, self.config.image_size

    def check_grids(self, grids: Grids) -> None:
        """Raises ValueError: images of another size would need other tables of positions."""
        if grids != self.config.grids:
            raise ValueError(
                f"got grids {list(grids)}; this tokenizer is for images of {self.config.image_size}"
                f" pixels and has {list(self.config.grids)} alone: leave them out"
            )

    @property
    def full_channels(self) -> int:
        """Of the pixel decoder, or of pixels and what a convolution copies of them."""
        multipliers = self.config.channel_multipliers
        return self.config.channels * max(multipliers[:2]) if self.config.pixel_codes else 3

    @property
    def bytes_per_image(self) -> int:
        """As every tokenizer's; the transformers' activations are much of it."""
        config = self.config
        positions = 1 + config.side**2 + config.num_tokens
        rows = TOKEN_ROWS * positions * max(config.encoder_width, config.decoder_width)
        maps = FULL_MAPS * self.full_channels * config.image_size**2
        return max(rows, maps) * self.dtype.itemsize

    def _to_images(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        return self.decoder(latents)
