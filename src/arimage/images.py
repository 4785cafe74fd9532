"""The one home of pixel conventions: float images in [-1, 1] <-> uint8 pixels <-> files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from arimage.files import new_file
from arimage.shapes import Float, UInt8

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def to_pixels(images: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Float images in [-1, 1] (clamped) to uint8 pixels, rounded to the nearest level."""
    levels = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def from_pixels(pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Uint8 pixels to float32 images in [-1, 1]; ``to_pixels`` undoes it exactly."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return tensor.float().div(127.5).sub(1).contiguous()


def to_pil(pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Image.Image]:
    """One PIL image per row."""
    return [Image.fromarray(p) for p in pixels]


def list_images(folder: str | Path) -> list[Path]:
    """Image files below ``folder``, sorted by path; an empty folder is an error."""
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; give a folder of images")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"no image ({', '.join(IMAGE_SUFFIXES)}) found below {folder}")
    return paths


def read_image(path: str | Path, size: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a file as RGB; ``size`` crops the centre square and resizes it (Lanczos).

    Raises FileNotFoundError, or ValueError when the file is not a readable image.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image file at {path}")
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f"{path} is not a readable image; give a PNG, JPEG or WebP file"
        ) from error
    if size is not None:
        image = square(image, size)
    return np.asarray(image)


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
    pixels: UInt8[np.ndarray, "b h w 3"], columns: int, *, zoom: int = 1, gap: int = 2
) -> UInt8[np.ndarray, "height width 3"]:
    """Tiles images row by row on white, ``gap`` pixels apart; ``zoom`` repeats pixels."""
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    cell_h, cell_w = height * zoom + gap, width * zoom + gap
    sheet = np.full((rows * cell_h + gap, columns * cell_w + gap, 3), 255, dtype=np.uint8)
    for i, tile in enumerate(pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)):
        y, x = gap + i // columns * cell_h, gap + i % columns * cell_w
        sheet[y : y + height * zoom, x : x + width * zoom] = tile
    return sheet
