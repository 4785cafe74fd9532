"""Single-scale VQ tokenizer: one token per latent cell, look-up fuse (VQGAN, arXiv 2012.09841).

The next-token and masked families use this kind (LlamaGen, arXiv 2406.06525; RAR; MaskGIT). With
a depth it has as many maps of one size, which are added up (RQ-VAE, arXiv 2203.01941).
"""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.pretrained import strict
from arimage.registry import unknown_name
from arimage.shapes import Float, Int
from arimage.slots import SlotTable
from arimage.tokenizers.base import (
    Encoding,
    ImageTokenizer,
    TokenizerConfig,
    nearest_multiple_error,
)
from arimage.tokenizers.conv import NETWORKS, Decoder, Encoder
from arimage.tokenizers.derived import Derived
from arimage.tokenizers.registry import QUANTIZERS

T = TypeVar("T", bound="ConvTokenizer")
Grids = tuple[tuple[int, int], ...]


class QuantizedConfig(TokenizerConfig):
    """A quantizer by name.

    ``levels`` is for fsq alone; ``depth``, for residual_vq alone, is how many times each token map
    is repeated: each codes what those before left over.
    """

    model_type = "arimage_quantized"
    positive: ClassVar[tuple[str, ...]] = (*TokenizerConfig.positive, "depth")
    newer: ClassVar[tuple[str, ...]] = ("depth",)

    quantizer: str = "vq_ema"
    levels: list[int] | None = None
    depth: int = 1

    @property
    def grids(self) -> Grids:
        """(height, width) of the token maps at the native image size."""
        return repeated(((self.side, self.side),), self.depth)

    def validate_depth(self) -> None:
        """More than one map of a size, for quantizers of what is left over alone."""
        if self.depth > 1 and self.quantizer != "residual_vq":
            raise ValueError(
                f"got depth {self.depth} with quantizer {self.quantizer!r}; only 'residual_vq' "
                "has a depth: leave 1"
            )


@strict
class VQTokenizerConfig(QuantizedConfig):
    """Sizes of the convolutional networks and the quantizer by name.

    ``channel_multipliers`` has one entry per resolution; the downsample factor is
    2 ** (entries - 1). ``network`` names the family of the networks (conv.py).
    """

    model_type = "arimage_vq"
    positive: ClassVar[tuple[str, ...]] = (
        *QuantizedConfig.positive,
        "channels",
        "latent_channels",
        "norm_groups",
    )

    image_size: int = 32
    downsample_factor: int = 8
    vocab_size: int = 256
    code_dim: int = 16
    channels: int = 32
    channel_multipliers: list[int] | tuple[int, ...] = (1, 1, 2, 2)
    num_res_blocks: int = 1
    latent_channels: int = 32
    norm_groups: int = 32
    network: str = "ldm"
    quantizer: str = "vq_ema"
    levels: list[int] | None = None
    depth: int = 1

    def validate_network(self) -> None:
        """A known name; without convolutions around the quantizer its codes are the latents."""
        if self.network not in NETWORKS:
            raise ValueError(unknown_name("network", self.network, NETWORKS))
        if not NETWORKS[self.network].quant_convs and self.latent_channels != self.code_dim:
            raise ValueError(
                f"got latent_channels {self.latent_channels} and code_dim {self.code_dim}; the "
                f"network {self.network!r} needs them equal"
            )

    def validate_sizes(self) -> None:
        """The factor follows from the multipliers; the image size is a multiple of it."""
        factor = 2 ** (len(self.channel_multipliers) - 1)
        if self.downsample_factor != factor:
            raise ValueError(
                f"got downsample_factor {self.downsample_factor} with "
                f"{len(self.channel_multipliers)} channel_multipliers, which give {factor}"
            )
        if self.image_size % factor or self.image_size < factor:
            raise ValueError(nearest_multiple_error(self.image_size, factor))


def repeated(grids: Grids, depth: int) -> Grids:
    """Each map ``depth`` times."""
    return tuple(grid for grid in grids for _ in range(depth))


PIECE_PIXELS = 256 * 256  # one image of the published size


class ConvTokenizer(ImageTokenizer):
    """The convolutional shell: encoder, decoder, quantizer; subclasses say how tokens fuse."""

    config: VQTokenizerConfig
    kernel = 1  # of the convolutions around the quantizer
    supports_gradient_checkpointing = True

    def __init__(self, config: QuantizedConfig) -> None:
        super().__init__(config)
        self._build(config)
        self.quantizer = QUANTIZERS[config.quantizer](
            config.vocab_size, config.code_dim, config.levels
        )
        self._set_grids(config.grids)
        self.post_init()

    def _build(self, config: VQTokenizerConfig) -> None:
        """The networks on both sides of the quantizer."""
        network = NETWORKS[config.network]
        sizes = (
            config.channels,
            config.channel_multipliers,
            config.num_res_blocks,
            config.latent_channels,
            config.norm_groups,
            network,
        )
        self.encoder, self.decoder = Encoder(*sizes), Decoder(*sizes)
        self.pre_quant = self.post_quant = nn.Identity()
        if network.quant_convs:
            ends, pad = (config.latent_channels, config.code_dim), self.kernel // 2
            self.pre_quant = nn.Conv2d(*ends, self.kernel, padding=pad)
            self.post_quant = nn.Conv2d(*ends[::-1], self.kernel, padding=pad)

    @property
    def slots(self) -> SlotTable:
        """The token maps, coarse to fine."""
        return SlotTable(self._grids)

    def at(self: T, grids: Sequence[tuple[int, int]]) -> T:
        """The same weights over other token maps, (height, width) each: images of another size.

        The result shares everything and is not for saving.

        Raises:
            ValueError: maps that this kind of tokenizer cannot have.
        """
        maps = tuple((int(height), int(width)) for height, width in grids)
        self.check_grids(maps)
        other = copy.copy(self)
        other._set_grids(maps)
        return other

    def check_grids(self, grids: Grids) -> None:
        """Raises ValueError unless there is one map (``depth`` times) of at least one cell."""
        depth = self.config.depth
        if len(grids) != depth or len(set(grids)) != 1 or min(grids[0]) < 1:
            times = f" {depth} times" if depth > 1 else ""
            raise ValueError(
                f"got grids {list(grids)}; this tokenizer has one token map{times}: give one "
                f"(height, width), which is the image size divided by "
                f"{self.config.downsample_factor}{times and ',' + times}"
            )

    def _set_grids(self, grids: Grids) -> None:
        self._grids = grids

    @property
    def full_channels(self) -> int:
        """The decoder's last up-sampling still has the width of the level below."""
        return self.config.channels * max(self.config.channel_multipliers[:2])

    def encode_latents(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """(b, 3, H, W) -> (b, code_dim, H/f, W/f)."""
        return self.pre_quant(self.encoder(images))

    def decode_canvas(self, canvas: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """(b, code_dim, h, w) -> (b, 3, f*h, f*w), not clamped.

        Without gradients in channels-last layout and, on a CPU, no more than ``PIECE_PIXELS`` at
        once: the whole decoder is faster so (docs/performance.md).
        """
        return self._to_images(self.post_quant(canvas))

    def _to_images(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        return decode_in_pieces(self.decoder, latents, self.config.downsample_factor)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Code vectors of ids."""
        return self.quantizer.lookup(ids).to(self.dtype)

    def quantize(self, latents: Float[Tensor, "b c h w"]) -> Encoding:
        """As every tokenizer's; in the weights' precision, also under autocast."""
        with torch.autocast(latents.device.type, enabled=False):
            return self._quantize(latents.to(self.dtype))

    def _quantize(self, latents: Float[Tensor, "b c h w"]) -> Encoding:
        """Codes what is left over, map by map; loss as in VAR's training forward.

        Per map: commitment * mse(sg(f_hat), f) + mse(f_hat, sg(f)), averaged over maps, which is
        RQ-VAE's commitment (arXiv 2203.01941 eq. 9), too. Codes that are learned by gradient get
        theirs from the second term.
        """
        target, canvas = latents.detach(), torch.zeros_like(latents)
        rows, ids, losses = [], [], []
        for scale in range(self.slots.num_scales):
            start, stop = self.slots.span(scale)
            rows.append(self.view(latents - canvas.detach(), scale))
            ids.append(self.quantizer.nearest(rows[-1]))
            slots = torch.arange(start, stop, device=latents.device)
            canvas = self.fuse(canvas, scale, slots, self.lookup(ids[-1]))
            committed = self.quantizer.commitment * F.mse_loss(canvas.detach(), latents)
            losses.append(committed + F.mse_loss(canvas, target))
        left = torch.cat(rows, dim=1)
        loss = torch.stack(losses).mean() + self.quantizer.regularization(left)
        if self.training:
            codes = self.quantizer.through(to_rows(latents), to_rows(canvas))
            canvas = to_map(codes, latents.shape[-2:])
        return Encoding(canvas, torch.cat(ids, dim=1), loss, left.detach())

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """transformers' own, which calls it deprecated from 5.24 on: activations inside the layers
        of encoder and decoder are not kept while training; each layer is run again for its
        gradient. Takes the options of ``torch.utils.checkpoint.checkpoint``."""
        options = {"use_reentrant": False} | (gradient_checkpointing_kwargs or {})
        base = super()
        enable = getattr(base, "_activation_checkpointing_enable", None)
        (enable or base.gradient_checkpointing_enable)(options, **kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Undoes ``gradient_checkpointing_enable``."""
        base = super()
        disable = getattr(base, "_activation_checkpointing_disable", None)
        (disable or base.gradient_checkpointing_disable)()


class VQTokenizer(ConvTokenizer):
    """Single-scale: slot i is latent cell i, row by row."""

    config_class = VQTokenizerConfig

    def __init__(self, config: QuantizedConfig) -> None:
        super().__init__(config)
        self.decoder_codes = Derived()

    def decode(self, ids: Int[Tensor, "b slots"]) -> Float[Tensor, "b 3 h w"]:
        """As every tokenizer's. Without gradients a learned codebook and the convolution behind it
        are one table, which changes nothing beyond rounding."""
        folds = self.quantizer.learned and not isinstance(self.post_quant, nn.Identity)
        if self.training or torch.is_grad_enabled() or not folds:
            return super().decode(ids)
        self.check_ids(ids)
        sources = [*self.quantizer.parameters(), *self.post_quant.parameters()]
        rows = self.decoder_codes.get(self._decoder_codes, *sources)[ids]
        return self._to_images(to_map(rows, self.slots.grids[-1])).clamp(-1, 1)

    def _decoder_codes(self) -> Float[Tensor, "v c"]:
        """What the decoder reads for each id."""
        ids = torch.arange(self.config.vocab_size, device=self.device)
        codes = to_map(self.lookup(ids[None]), (len(ids), 1))
        return to_rows(self.post_quant(codes))[0]

    def _quantize(self, latents: Float[Tensor, "b c h w"]) -> Encoding:
        """Every cell on its own."""
        if self.config.depth > 1:
            return super()._quantize(latents)
        rows = to_rows(latents)
        codes, ids, loss = self.quantizer(rows)
        return Encoding(to_map(codes, latents.shape[-2:]), ids, loss, rows.detach())

    def fuse(
        self,
        canvas: Float[Tensor, "b c h w"],
        scale: int,
        slots: Int[Tensor, "*b n"],
        codes: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b c h w"]:
        """Look-up: writes each code into its cell, or adds it where there are several maps."""
        rows = to_rows(canvas)
        index = slots.expand(codes.shape[:2]).unsqueeze(-1).expand_as(codes)
        if self.config.depth > 1:
            rows = rows.scatter_add(1, index % rows.shape[1], codes)
        else:
            rows = rows.scatter(1, index, codes)
        return to_map(rows, canvas.shape[-2:])

    def view(self, canvas: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b n c"]:
        """All cells, row by row."""
        return to_rows(canvas)


def decode_in_pieces(
    decoder: nn.Module, latents: Float[Tensor, "b c h w"], factor: int
) -> Float[Tensor, "b 3 h2 w2"]:
    """A convolutional decoder's images, ``factor`` times as large as latents.

    Without gradients in channels-last layout and, on a CPU, no more than ``PIECE_PIXELS`` at once.
    """
    if torch.is_grad_enabled():
        return decoder(latents)
    latents = latents.contiguous(memory_format=torch.channels_last)
    if latents.device.type != "cpu":
        return decoder(latents)
    size = max(1, PIECE_PIXELS // (latents.shape[2] * latents.shape[3] * factor**2))
    return torch.cat([decoder(piece) for piece in latents.split(size)])


def to_rows(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """(b, c, h, w) -> (b, h*w, c)."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Float[Tensor, "b n c"], size: torch.Size | tuple[int, int]) -> Tensor:
    """(b, h*w, c) -> (b, c, h, w), contiguous."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *size)
