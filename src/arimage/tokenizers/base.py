"""The contract of an image tokenizer: images <-> token ids, slot by slot.

Ranges: images are float (b, 3, H, W) in [-1, 1]; ids are int64 (b, num_slots) in
[0, vocab_size), stored in the order of the slot table.
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from arimage.pretrained import ArimageConfig, ArimageModel
from arimage.publish import Publishable
from arimage.shapes import Float, Int
from arimage.slots import SlotTable

# Maps of full size alive at once, what convolutions reorder included: 7 to 11 measured on a CPU.
FULL_MAPS = 12


@dataclass(frozen=True)
class Encoding:
    """What ``quantize`` makes of latents.

    Attributes:
        codes: (b, c, h, w), as the decoder reads them.
        ids: (b, num_slots).
        loss: a scalar, of the quantizer.
        rows: (b, num_slots, c), the vectors that were quantized, without gradient: what the
            quantizer's ``start`` and ``update`` take, of all images in one.
    """

    codes: Tensor
    ids: Tensor
    loss: Tensor
    rows: Tensor


class TokenizerConfig(ArimageConfig):
    """Fields that every tokenizer has."""

    model_type = "arimage_tokenizer"
    positive: ClassVar[tuple[str, ...]] = (
        "image_size",
        "downsample_factor",
        "vocab_size",
        "code_dim",
    )

    image_size: int = 32
    downsample_factor: int = 8
    vocab_size: int = 256
    code_dim: int = 16

    @property
    def side(self) -> int:
        """Side of the latent map at the native image size."""
        return self.image_size // self.downsample_factor


class ImageTokenizer(Publishable, ArimageModel):
    """Base of all tokenizers; also the ``Fuser`` (arimage.slots) that an order is handed.

    Invariants, tested for every registered tokenizer: ``encode`` is deterministic in eval mode and
    independent of the batch; fusing all groups of ``encode(x)`` gives the encoder's quantised
    latents; ids -> codes -> ids is the identity.
    """

    main_input_name = "images"
    replaces: ClassVar[bool] = False  # token maps replace each other instead of adding up
    placed: ClassVar[bool] = True  # whether each token is of a place in the image
    config: TokenizerConfig

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> Any:
        """As every model's; ``ImageTokenizer`` itself also takes presets, generators' folders, hub
        ids and published files, and returns the class that the weights are of.

        Raises:
            ValueError, FileNotFoundError: as ``ArimageModel.from_pretrained``.
        """
        if cls is not ImageTokenizer:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        from arimage.tokenizers.load import load_tokenizer

        return load_tokenizer(pretrained_model_name_or_path, **kwargs)

    @property
    @abstractmethod
    def slots(self) -> SlotTable:
        """The slots of one image at the native size."""

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that it takes: of the last token map's cells."""
        height, width = self.slots.grids[-1]
        return height * self.config.downsample_factor, width * self.config.downsample_factor

    @property
    def full_channels(self) -> int:
        """Channels of the widest full-size map inside the networks; a guess unless overridden."""
        return 128

    @property
    def bytes_per_image(self) -> int:
        """Estimated peak while one image is encoded or decoded (weights not counted)."""
        height, width = self.image_shape
        return FULL_MAPS * self.full_channels * height * width * self.dtype.itemsize

    @abstractmethod
    def encode_latents(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Images in [-1, 1] to latents before quantization."""

    @abstractmethod
    def quantize(self, latents: Float[Tensor, "b c h w"]) -> Encoding:
        """Latents to codes and ids; changes nothing, also while training."""

    @abstractmethod
    def decode_canvas(self, canvas: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """A canvas (fused codes) to images; not clamped."""

    @abstractmethod
    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Code vectors of ids."""

    @abstractmethod
    def fuse(
        self,
        canvas: Float[Tensor, "b c h w"],
        scale: int,
        slots: Int[Tensor, "*b n"],
        codes: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b c h w"]:
        """The canvas after ``codes`` were chosen for ``slots`` of token map ``scale``."""

    @abstractmethod
    def view(self, canvas: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b n c"]:
        """The canvas as a model that predicts token map ``scale`` sees it."""

    def blank(self, batch: int) -> Float[Tensor, "b c h w"]:
        """The canvas before the first token: zeros, at the last token map's resolution."""
        height, width = self.slots.grids[-1]
        return torch.zeros(
            batch, self.config.code_dim, height, width, device=self.device, dtype=self.dtype
        )

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b slots"]:
        """Images in [-1, 1] of the native size to ids.

        Raises:
            ValueError: images of another size.
        """
        self.check_size(images.shape[-2], images.shape[-1])
        return self.quantize(self.encode_latents(images.to(self.dtype))).ids

    def canvas_of(self, ids: Int[Tensor, "b slots"]) -> Float[Tensor, "b c h w"]:
        """Fuses all groups of complete ids.

        Raises:
            ValueError: ids of another length or out of range.
        """
        self.check_ids(ids)
        canvas = self.blank(len(ids))
        for scale in range(self.slots.num_scales):
            start, stop = self.slots.span(scale)
            slots = torch.arange(start, stop, device=ids.device)
            canvas = self.fuse(canvas, scale, slots, self.lookup(ids[:, start:stop]))
        return canvas

    def decode(self, ids: Int[Tensor, "b slots"]) -> Float[Tensor, "b 3 h w"]:
        """Complete ids to images in [-1, 1] (clamped)."""
        return self.decode_canvas(self.canvas_of(ids)).clamp(-1, 1)

    def reconstruct(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """encode, then decode."""
        return self.decode(self.encode(images))

    def forward(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b 3 h w"], Encoding]:
        """One training pass: reconstructed images (not clamped) and the encoding."""
        encoding = self.quantize(self.encode_latents(images.to(self.dtype)))
        return self.decode_canvas(encoding.codes), encoding

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError unless the images have the size that the tokenizer takes."""
        rows, columns = self.image_shape
        if (height, width) != (rows, columns):
            raise ValueError(
                f"got images of {height} x {width} pixels; this tokenizer takes {rows} x {columns}"
                ": resize or crop them first"
            )

    def check_placed(self) -> None:
        """Raises ValueError where tokens have no place in the image, so that no mask keeps any."""
        if not self.placed:
            raise ValueError(
                f"the {self.slots.num_slots} tokens of this tokenizer lie on a line and have no "
                "place in the image, so a mask can keep none of them: edit with a model whose "
                "tokens lie on a grid"
            )

    def check_ids(self, ids: Int[Tensor, "b slots"]) -> None:
        """Raises ValueError unless ids are complete and inside the vocabulary."""
        if ids.shape[1] != self.slots.num_slots:
            raise ValueError(
                f"got {ids.shape[1]} ids per image; this tokenizer has {self.slots.num_slots} slots"
            )
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab_size):
            raise ValueError(
                f"got ids from {int(ids.min())} to {int(ids.max())}; expected 0 to "
                f"{self.config.vocab_size - 1}"
            )


def nearest_multiple_error(size: int, factor: int) -> str:
    """One sentence for an image size that the tokenizer cannot take."""
    low = max(factor, size // factor * factor)
    return (
        f"got image_size {size}, which is not a multiple of the downsample factor {factor}; "
        f"use {low} or {low + factor}"
    )
