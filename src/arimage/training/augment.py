"""Small random turns, scalings and shifts of images."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arimage.images import from_pixels, to_pixels
from arimage.shapes import Float, Int, UInt8


@dataclass(frozen=True)
class Jitter:
    """Half-widths of uniform draws: radians, relative size, share of the image side."""

    rotation: float
    scale: float
    shift: float


JITTER = Jitter(rotation=0.1, scale=0.05, shift=0.03)  # found on digits; docs/log.md


def jitter_images(
    images: Float[Tensor, "b c h w"], jitter: Jitter, generator: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """Each image turned, scaled and shifted a little; what comes in repeats the border."""
    count = len(images)
    turn, grow, *shift = torch.rand(4, count, generator=generator) * 2 - 1
    angle, size = turn * jitter.rotation, 1 + grow * jitter.scale
    cosine, sine = size * angle.cos(), size * angle.sin()
    x, y = (2 * jitter.shift * part for part in shift)  # affine_grid's images are 2 wide
    maps = torch.stack([cosine, -sine, x, sine, cosine, y], dim=1).view(count, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def with_jittered_copies(
    pixels: UInt8[np.ndarray, "n h w 3"],
    labels: Int[np.ndarray, " n"],
    jitter: Jitter,
    copies: int,
    seed: int,
) -> tuple[UInt8[np.ndarray, "m h w 3"], Int[np.ndarray, " m"]]:
    """The images and ``copies`` jittered versions of each, with their labels."""
    generator = torch.Generator().manual_seed(seed)
    images = from_pixels(pixels)
    more = [to_pixels(jitter_images(images, jitter, generator)) for _ in range(copies)]
    return np.concatenate([pixels, *more]), np.tile(labels, copies + 1)
