"""Editing: a mask image says which tokens of an image are kept, and the order keeps them.

A mask is True (white) where the image is drawn anew and covers the image whatever its resolution.
Two steps lead from it to slots:

1. Cells of the last token map: one is kept if more than half of its area is kept. Where there is
   one token map, this is all.
2. Coarser maps of a multi-scale tokenizer: the kept cells, as 0 and 1, resized bilinearly; kept
   above a half. Maps of at most three cells are kept whole, whatever the mask says.

Behaviour of the second step: FoundationVision/VAR@78b9539 demo_zero_shot_edit.ipynb, float32 too:
an exact half is drawn, except where rounding lifts it (some cells of the 13 x 13 map).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from arimage.ar.base import Known
from arimage.images import open_image
from arimage.shapes import Bool, Float, Int, UInt8
from arimage.slots import SlotTable

KEPT_WHOLE = 3  # cells; the notebook named above
BLACK, WHITE = 0, 255


def kept_cells(draw: Bool[np.ndarray, "h w"], grid: tuple[int, int]) -> Bool[np.ndarray, "y x"]:
    """The cells of ``grid`` of which more than half the area is kept (False in ``draw``).

    Exact for any two resolutions: areas are counted in whole units, so a half is a half.
    """
    height, width = draw.shape
    kept = overlaps(height, grid[0]) @ (~draw).astype(np.float64) @ overlaps(width, grid[1]).T
    return 2 * kept > height * width


def overlaps(pixels: int, cells: int) -> Float[np.ndarray, "cells pixels"]:
    """Length that each cell shares with each pixel of a side, of which a cell has ``pixels``."""
    cell, pixel = np.arange(cells)[:, None] * pixels, np.arange(pixels) * cells
    shared = np.minimum(cell + pixels, pixel + cells) - np.maximum(cell, pixel)
    return shared.clip(0).astype(np.float64)


def kept_slots(draw: Bool[np.ndarray, "h w"], slots: SlotTable) -> Bool[Tensor, " slots"]:
    """The slots that a mask keeps, by the rule of this file."""
    cells = torch.from_numpy(kept_cells(draw, slots.grids[-1]))
    if slots.num_scales == 1:
        return cells.flatten()
    maps = []
    for grid in slots.grids:
        soft = F.interpolate(cells.float()[None, None], grid, mode="bilinear")
        whole = math.prod(grid) <= KEPT_WHOLE
        maps.append((soft > 0.5).flatten() | whole)
    return torch.cat(maps)


def known_tokens(
    ids: Int[Tensor, "b slots"], draws: Sequence[Bool[np.ndarray, "_ _"]], slots: SlotTable
) -> Known:
    """``ids`` of whole images, given where each image's mask keeps them."""
    kept = torch.stack([kept_slots(draw, slots) for draw in draws])
    return Known(ids, kept.to(ids.device))


def check_known(known: Known, vocab_size: int) -> None:
    """Raises ValueError unless the given ids are inside the vocabulary."""
    given = known.ids[known.mask]
    if len(given) and not 0 <= int(given.min()) <= int(given.max()) < vocab_size:
        raise ValueError(
            f"got known ids from {int(given.min())} to {int(given.max())}; expected 0 to "
            f"{vocab_size - 1}"
        )


def paste_kept(
    pixels: UInt8[np.ndarray, "b h w 3"],
    originals: UInt8[np.ndarray, "b h w 3"],
    draws: Sequence[Bool[np.ndarray, "_ _"]],
) -> UInt8[np.ndarray, "b h w 3"]:
    """``pixels`` with the originals' pixels wherever the mask keeps them."""
    kept = np.stack([kept_cells(draw, pixels.shape[1:3]) for draw in draws])
    return np.where(kept[..., None], originals, pixels)


def mask_pixels(
    draws: Sequence[Bool[np.ndarray, "_ _"]], size: int
) -> UInt8[np.ndarray, "b size size 3"]:
    """Masks as pictures of ``size`` pixels per side: black is kept, white is drawn anew."""
    kept = np.stack([kept_cells(draw, (size, size)) for draw in draws])
    return np.where(kept, BLACK, WHITE).astype(np.uint8)[..., None].repeat(3, axis=-1)


def read_masks(masks: Any, sizes: Sequence[tuple[int, int]]) -> list[Bool[np.ndarray, "_ _"]]:
    """Masks of any kind as bool arrays, True where drawn anew, one per image.

    Args:
        masks: one for all images or one per image: PIL images or files of mode 1, L, P or RGB,
            bool arrays, uint8 arrays; an array (n, h, w) is n masks. White, True and 255 are
            drawn anew.
        sizes: (height, width) of each image as it came. A mask has any resolution and the shape of
            its image, and is cut to the centred square as the image is.

    Raises:
        ValueError: no mask, another number than images, another shape, values between black and
            white. TypeError: something else than an image or array. FileNotFoundError.
    """
    found = [read_mask(mask) for mask in listed(masks)]
    if not found:
        raise ValueError("got no mask; pass one per image or one for all")
    if len(found) == 1:
        found = found * len(sizes)
    if len(found) != len(sizes):
        raise ValueError(
            f"got {len(found)} masks for {len(sizes)} images; pass one per image or one for all"
        )
    return [centre_square(mask, size) for mask, size in zip(found, sizes, strict=True)]


def listed(masks: Any) -> list[Any]:
    """One mask, an array of masks or a sequence of masks, as a list."""
    if isinstance(masks, str | Path | Image.Image):
        return [masks]
    if isinstance(masks, np.ndarray | Tensor):
        if masks.ndim not in (2, 3):
            raise ValueError(
                f"got masks of shape {tuple(masks.shape)}; expected (h, w) for all images or "
                "(n, h, w) for one each"
            )
        return [masks] if masks.ndim == 2 else list(masks)
    return list(masks)


def read_mask(mask: Any) -> Bool[np.ndarray, "h w"]:
    """One mask as a bool array, True where drawn anew; ``read_masks`` says what it may be."""
    if isinstance(mask, str | Path):
        mask = open_image(mask)
    if isinstance(mask, Image.Image):
        if mask.mode not in ("1", "L", "P", "RGB"):
            raise ValueError(
                f"got a mask of mode {mask.mode!r}; expected black and white: convert it to 'L'"
            )
        mask = np.asarray(mask.convert("L"))
    elif isinstance(mask, Tensor):
        mask = mask.cpu().numpy()
    if not isinstance(mask, np.ndarray):
        raise TypeError(
            f"got a mask of type {type(mask).__name__}; expected a PIL image, a path or an array"
        )
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"got a mask of shape {mask.shape}; expected (height, width)")
    if mask.dtype == np.bool_:
        return mask
    if mask.dtype != np.uint8:
        raise ValueError(
            f"got a mask of dtype {mask.dtype}; expected bool (True is drawn anew), or uint8 with "
            "the values 0 and 255"
        )
    between = mask[(mask != BLACK) & (mask != WHITE)]
    if between.size:
        raise ValueError(
            f"got mask value {between[0]}; expected only 0 (kept) and 255 (drawn anew): pass "
            "mask > threshold, a bool array"
        )
    return mask == WHITE


def centre_square(mask: Bool[np.ndarray, "_ _"], size: tuple[int, int]) -> Bool[np.ndarray, "_ _"]:
    """The centred square of a mask whose image came with ``size`` (height, width).

    Raises:
        ValueError: a mask that is not the image's shape, up to rounding a resized side.
    """
    height, width = mask.shape
    if (height, width) != size and 2 * abs(height * size[1] - width * size[0]) >= sum(size):
        raise ValueError(
            f"got a mask of {height} x {width} pixels for an image of {size[0]} x {size[1]}; any "
            "resolution will do, but it must have the shape of the image"
        )
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return mask[top : top + side, left : left + side]
