"""Sheets of pictures: rows with a name, so that a person sees what became of an image."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from arimage.images import grid
from arimage.shapes import UInt8

ACROSS = 8  # images side by side
TILE = 96  # smaller images are shown larger, each pixel a square
GAP, BLOCK_GAP, MARGIN = 4, 16, 8
FONT_SIZE = 14


def zoom_of(height: int) -> int:
    """How many times an image of so many rows is enlarged on a sheet."""
    return max(1, TILE // height)


def sheet(
    rows: Mapping[str, UInt8[np.ndarray, "n h w 3"]], across: int = ACROSS
) -> UInt8[np.ndarray, "height width 3"]:
    """The same images row above row, the row's name on the left; black on white.

    Args:
        rows: a name (it may have several lines) to pixels (n, h, w, 3), of one shape all.
        across: images side by side; more go into another block of rows below.

    Raises:
        ValueError: no image, rows of different shapes.
    """
    shapes = {pixels.shape for pixels in rows.values()}
    if len(shapes) != 1 or 0 in next(iter(shapes)):
        raise ValueError(
            f"got rows of shapes {sorted(shapes)}; expected one, and an image at least"
        )
    count, height, _, _ = next(iter(shapes))
    zoom = zoom_of(height)
    names = _names(list(rows), GAP + height * zoom)
    blocks: list[np.ndarray] = []
    for start in range(0, count, across):
        tiles = [pixels[start : start + across] for pixels in rows.values()]
        pictures = grid(np.concatenate(tiles), len(tiles[0]), zoom=zoom, gap=GAP)
        blocks += [np.concatenate([names, pictures], axis=1)]
    width = blocks[0].shape[1]
    padded = [
        _padded(block, width, BLOCK_GAP * (i + 1 < len(blocks))) for i, block in enumerate(blocks)
    ]
    return np.concatenate(padded)


def _padded(block: np.ndarray, width: int, below: int) -> np.ndarray:
    """White on the right up to ``width``, and ``below``."""
    return np.pad(block, ((0, below), (0, width - block.shape[1]), (0, 0)), constant_values=255)


def _names(names: list[str], pitch: int) -> np.ndarray:
    """The left margin: names, right-aligned, in the middle of rows that are ``pitch`` high."""
    font = ImageFont.load_default(size=FONT_SIZE)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [pen.multiline_textbbox((0, 0), name, font=font) for name in names]
    width = int(max(box[2] for box in boxes)) + 2 * MARGIN
    paper = Image.new("RGB", (width, GAP + pitch * len(names)), "white")
    pen = ImageDraw.Draw(paper)
    for i, name in enumerate(names):
        middle = (width - MARGIN, GAP + i * pitch + (pitch - GAP) // 2)
        pen.multiline_text(middle, name, "black", font=font, anchor="rm", align="right")
    return np.asarray(paper)
