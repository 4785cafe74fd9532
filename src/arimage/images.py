"""The one home of pixel conventions: float images in [-1, 1] <-> uint8 pixels <-> files."""

import os
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from arimage.files import new_file
from arimage.shapes import Float, UInt8

# What Pillow raises for files that are no images, torn ones, and ones too large to be real.
BROKEN = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


Rounding = Literal["nearest", "down"]


def to_pixels(
    images: Float[Tensor, "b 3 h w"], rounding: Rounding = "nearest"
) -> UInt8[np.ndarray, "b h w 3"]:
    """Float images in [-1, 1] (clamped) to uint8 pixels, rounded to the nearest level.

    ``rounding="down"`` is half a level darker: what code does that truncates 255 x, RAR's for
    example (bytedance/1d-tokenizer@942a96f demo_util.py); for repeating its scores alone.
    """
    return to_levels(images, rounding).cpu().numpy()


def to_levels(
    images: Float[Tensor, "b 3 h w"], rounding: Rounding = "nearest"
) -> UInt8[Tensor, "b h w 3"]:
    """``to_pixels`` in a tensor, where the images live."""
    levels = images.detach().float().clamp(-1, 1).add(1).mul(127.5)
    levels = levels.round() if rounding == "nearest" else levels.floor()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_pixels(pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Uint8 pixels to float32 images in [-1, 1]; ``to_pixels`` undoes it exactly."""
    return scaled(torch.from_numpy(np.array(pixels, order="C")))


def scaled(pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """``from_pixels`` for pixels in a tensor, where they live."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def to_pil(pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Image.Image]:
    """One PIL image per row."""
    return [Image.fromarray(p) for p in pixels]


def image_names(folder: str | Path) -> list[str]:
    """Names of the image files below ``folder``, as "sub/folder/name.png", sorted by path; plain
    texts, since a data set may have millions.

    Raises NotADirectoryError, or ValueError when there is no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; give a folder of images")
    names = []
    for base, _, files in os.walk(folder):
        inner = Path(base).relative_to(folder).as_posix()
        before = "" if inner == "." else f"{inner}/"
        names += [before + f for f in files if os.path.splitext(f)[1].lower() in IMAGE_SUFFIXES]
    if not names:
        raise ValueError(f"no image ({', '.join(IMAGE_SUFFIXES)}) found below {folder}")
    return sorted(names, key=lambda name: name.split("/"))


def list_images(folder: str | Path) -> list[Path]:
    """Image files below ``folder``, sorted by path; an empty folder is an error."""
    return [Path(folder) / name for name in image_names(folder)]


def open_image(file: str | Path | BytesIO, name: object = None) -> Image.Image:
    """Reads a file, in the mode that it has; ``name`` is what messages call an open one.

    Raises FileNotFoundError, or ValueError when the file is not a readable image.
    """
    if isinstance(file, str | Path):
        file = name = Path(file)
        if not file.is_file():
            raise FileNotFoundError(f"no image file at {file}")
    try:
        with Image.open(file) as opened:
            opened.info["deep"] = any(";16" in str(tile) for tile in opened.tile)
            opened.load()  # keeps the upper 8 of 16 bits of a colour image, without a word
            return opened
    except BROKEN as error:
        raise ValueError(
            f"{name} is not a readable image; give a PNG, JPEG or WebP file"
        ) from error


def read_image(path: str | Path, size: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a file as RGB; ``size`` crops the centre square and resizes it (Lanczos).

    Raises FileNotFoundError, or ValueError when the file is not a readable image.
    """
    image = open_image(path).convert("RGB")
    return np.asarray(image if size is None else square(image, size))


def native_pixels(
    images: Any, size: int
) -> tuple[UInt8[np.ndarray, "n size size 3"], list[tuple[int, int]]]:
    """Images of any kind as pixels of a model's size, and the (height, width) each came with.

    Args:
        images: one or several. PIL images and files are cut to the centred square and resized
            (``square``). Arrays have the size already: uint8 (H, W, 3) or (n, H, W, 3), or a
            float tensor (n, 3, H, W) in [-1, 1].
        size: pixels per side.

    Raises:
        ValueError: no image, an array of another size or dtype, an unreadable file. TypeError:
            something else than an image. FileNotFoundError.
    """
    if isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point():
        images = to_pixels(images)
    one = isinstance(images, str | Path | Image.Image) or getattr(images, "ndim", 4) == 3
    found = [_native(image, size) for image in ([images] if one else images)]
    if not found:
        raise ValueError("got no image; give at least one")
    return np.stack([pixels for pixels, _ in found]), [came for _, came in found]


def _native(image: Any, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    if isinstance(image, str | Path):
        image = open_image(image)
    if isinstance(image, Image.Image):
        return np.asarray(square(image.convert("RGB"), size)), (image.height, image.width)
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"got an image of type {type(image).__name__}; expected PIL images, paths, a uint8 "
            "array (n, H, W, 3) or a float tensor (n, 3, H, W)"
        )
    if image.dtype != np.uint8 or image.shape != (size, size, 3):
        raise ValueError(
            f"got an array of {image.dtype} and shape {image.shape} as an image; expected uint8 "
            f"and {(size, size, 3)}: resize it first, or pass a PIL image, which is resized"
        )
    return image, (size, size)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The centred square that ImageNet references are made of: ``shorter_side``, then cut.

    Behaviour of openai/guided-diffusion@22e0df8 guided_diffusion/image_datasets.py,
    center_crop_arr.
    """
    image = shorter_side(image, size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def shorter_side(image: Image.Image, side: int) -> Image.Image:
    """``image`` with a shorter side of ``side`` pixels, as ADM resizes: halved by boxes while it is
    twice as large, then bicubic (the same file of guided-diffusion)."""
    while min(image.size) >= 2 * side:
        halved = (image.width // 2, image.height // 2)
        image = image.resize(halved, Image.Resampling.BOX)
    scale = side / min(image.size)
    sides = (round(image.width * scale), round(image.height * scale))
    return image.resize(sides, Image.Resampling.BICUBIC)


def resized(images: Float[Tensor, "b 3 h w"], size: int) -> Float[Tensor, "b 3 h2 w2"]:
    """Float images at ``size`` pixels per side: bicubic, without antialiasing, not clamped.

    So the 384 px samples of LlamaGen are scored (FoundationVision/LlamaGen@ce98ec4
    autoregressive/sample/sample_c2i_ddp.py).
    """
    if images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(images.float(), size=(size, size), mode="bicubic")


def to_rgb(image: Image.Image, name: object = "the image") -> Image.Image:
    """8-bit RGB: grey, palette and CMYK images are converted, an opaque alpha channel is dropped.

    Raises:
        ValueError: transparency, or more than 8 bits, which no conversion keeps unambiguously.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;") or image.info.get("deep"):
        raise ValueError(
            f"{name} has more than 8 bits per channel (mode {image.mode}); 8-bit images are "
            "expected: convert it first, so that it is known how"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise ValueError(
                f"{name} is transparent in places; put it on a background first, so that it is "
                "known which"
            )
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square of ``image``, resized to ``size`` pixels (Lanczos)."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cut = image.crop((left, top, left + side, top + side))  # resize's own box would let others in
    return cut.resize((size, size), Image.Resampling.LANCZOS)


def write_png(
    path: str | Path, pixels: UInt8[np.ndarray, "h w 3"], settings: dict[str, str] | None = None
) -> Path:
    """Writes a PNG through a temporary file, with ``settings`` in its text chunks."""
    info = PngImagePlugin.PngInfo()
    for key, value in (settings or {}).items():
        info.add_text(key, value)
    with new_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)
    return Path(path)


def grid(
    pixels: UInt8[np.ndarray, "b h w 3"],
    columns: int,
    *,
    zoom: int = 1,
    gap: int = 2,
    paper: int = 255,
) -> UInt8[np.ndarray, "height width 3"]:
    """Tiles images row by row, ``gap`` pixels of ``paper`` apart; ``zoom`` repeats pixels."""
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    cell_h, cell_w = height * zoom + gap, width * zoom + gap
    sheet = np.full((rows * cell_h + gap, columns * cell_w + gap, 3), paper, dtype=np.uint8)
    for i, tile in enumerate(pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)):
        y, x = gap + i // columns * cell_h, gap + i % columns * cell_w
        sheet[y : y + height * zoom, x : x + width * zoom] = tile
    return sheet
