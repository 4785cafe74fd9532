"""From an image to a square for training: one function per published way, by name in ``CROPS``.

| name | as in | shorter side becomes | then |
|---|---|---|---|
| center | ADM, all evaluations here | size | the centre |
| random | VAR, also FlexVAR | 1.125 size (Lanczos) | any place |
| random_place | taming-transformers (VQGAN) | size (bilinear) | any place |
| random_zoom | LlamaGen, also XQGAN (RobustTok) | size to 1.25 size (ADM's resize) | any place |
| random_resized | MaskBit | | a part of 80 to 100 % of the area, resized (bilinear) |

Images smaller than the crop are enlarged. What is drawn follows from (seed, epoch, index) alone:
equal in every process, batch and resumed run. Only plain uniform numbers are drawn, whose stream
numpy keeps between its versions.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from arimage.images import center_crop, shorter_side
from arimage.shapes import UInt8

# What a stream of random numbers is for: the last counter of Philox.
ORDER, CROP, BUFFER, VARIANT, JITTERED = 0, 1, 2, 3, 4
MIDDLE = 1.125  # FoundationVision/VAR@e292a77 utils/data.py: mid_reso
NEAREST_ZOOM = 0.8  # FoundationVision/LlamaGen@ce98ec4 dataset/augmentation.py: min_crop_frac
SHARE = (0.8, 1.0)  # markweberdev/maskbit@5ea3d73 configs/tokenizer/*.yaml: min_scale
ASPECT = (3 / 4, 4 / 3)  # the same repository, data/webdataset_reader.py
TRIES = 10  # torchvision.transforms.RandomResizedCrop: then the centre

Draw = Callable[[], float]  # the next uniform number in [0, 1)


def random_stream(seed: int, epoch: int, index: int, use: int) -> np.random.Generator:
    """Random numbers that belong to one image of one epoch, or to (index 0) a whole epoch."""
    philox = np.random.Philox(key=(seed, epoch), counter=(0, 0, index, use))
    return np.random.Generator(philox)


def crop_pixels(
    image: Image.Image, size: int, crop: str, flip: float, draw: Draw
) -> UInt8[np.ndarray, "size size 3"]:
    """A square of an RGB image, mirrored with probability ``flip``.

    Args:
        crop: a name in ``CROPS``.
        draw: ``random_stream(...).random``.
    """
    square = CROPS[crop](image, size, draw)
    if draw() < flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(square)


def _whole(draw: Draw, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``, both included."""
    return low + int(draw() * (high - low + 1))


def _anywhere(image: Image.Image, size: int, draw: Draw) -> Image.Image:
    top, left = _whole(draw, 0, image.height - size), _whole(draw, 0, image.width - size)
    return image.crop((left, top, left + size, top + size))


def _center(image: Image.Image, size: int, draw: Draw) -> Image.Image:
    return center_crop(image, size)


def _random(image: Image.Image, size: int, draw: Draw) -> Image.Image:
    side = round(MIDDLE * size)
    shorter, longer = min(image.size), max(image.size)
    other = int(side * longer / shorter)  # torchvision.transforms.Resize cuts the fraction off
    sides = (side, other) if image.width <= image.height else (other, side)
    return _anywhere(image.resize(sides, Image.Resampling.LANCZOS), size, draw)


def _random_place(image: Image.Image, size: int, draw: Draw) -> Image.Image:
    """SmallestMaxSize and RandomCrop of albumentations (CompVis/taming-transformers@3ba01b2
    taming/data/base.py), whose bilinear resize does not average where it shrinks; this one does."""
    scale = size / min(image.size)
    sides = (round(image.width * scale), round(image.height * scale))
    return _anywhere(image.resize(sides, Image.Resampling.BILINEAR), size, draw)


def _random_zoom(image: Image.Image, size: int, draw: Draw) -> Image.Image:
    side = _whole(draw, size, math.ceil(size / NEAREST_ZOOM))
    return _anywhere(shorter_side(image, side), size, draw)


def _random_resized(image: Image.Image, size: int, draw: Draw) -> Image.Image:
    width, height = image.size
    low, high = (math.log(ratio) for ratio in ASPECT)
    for _ in range(TRIES):
        area = width * height * (SHARE[0] + (SHARE[1] - SHARE[0]) * draw())
        aspect = math.exp(low + (high - low) * draw())
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = _whole(draw, 0, width - w), _whole(draw, 0, height - h)
            break
    else:  # a narrow image: as much of its centre as the aspects allow
        w = min(width, round(height * ASPECT[1]))
        h = min(height, round(width / ASPECT[0]))
        left, top = (width - w) // 2, (height - h) // 2
    part = image.crop((left, top, left + w, top + h))
    return part.resize((size, size), Image.Resampling.BILINEAR)


CROPS: dict[str, Callable[[Image.Image, int, Draw], Image.Image]] = {
    "center": _center,
    "random": _random,
    "random_place": _random_place,
    "random_zoom": _random_zoom,
    "random_resized": _random_resized,
}
