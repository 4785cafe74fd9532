"""From an image to the squares that are encoded of it, by name in ``VARIANTS``.

| name | squares | which |
|---|---|---|
| none | 1 | the centre, as in all evaluations here |
| flip | 2 | the centre, and it mirrored: LlamaGen's without ``--ten-crop`` |
| ten_crop | 10 | corners and centre of a square 1.1 times as large, and of its mirror image |
| twenty_crop | 20 | those, then ten of a square 1.05 times as large; half of all draws from each |

LlamaGen makes the second ten in a run of its own (``--crop-range 1.05``, a folder ``ten_crop_105``)
and its training takes one of the two with equal chances, then one of ten crops
(FoundationVision/LlamaGen@ce98ec4 dataset/imagenet.py): a uniform draw of the twenty.

Centres are ADM's (``images.center_crop``), as in LlamaGen (arXiv 2406.06525):
FoundationVision/LlamaGen@ce98ec4 autoregressive/train/extract_codes_c2i.py.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from arimage.images import center_crop, from_pixels, to_pixels, to_rgb
from arimage.registry import unknown_name
from arimage.shapes import UInt8
from arimage.training.augment import JITTER, jitter_images
from arimage.training.crops import JITTERED, random_stream
from arimage.training.image_files import ImageFiles

# FoundationVision/LlamaGen@ce98ec4: crop_range of autoregressive/train/extract_codes_c2i.py, and
# that of the folder ten_crop_105 in dataset/imagenet.py.
ZOOM, SECOND_ZOOM = 1.1, 1.05
Squares = UInt8[np.ndarray, "k size size 3"]


def _none(image: Image.Image, size: int) -> Squares:
    return np.asarray(center_crop(image, size))[None]


def _flip(image: Image.Image, size: int) -> Squares:
    pixels = np.asarray(center_crop(image, size))
    return np.stack([pixels, pixels[:, ::-1]])


def _ten_crop(image: Image.Image, size: int, zoom: float = ZOOM) -> Squares:
    """In the order of torchvision.transforms.TenCrop."""
    pixels = np.asarray(center_crop(image, int(size * zoom)))
    far = len(pixels) - size
    middle = round(far / 2)  # half to even, as torchvision's center_crop
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    sides = (pixels, pixels[:, ::-1])
    return np.stack([p[y : y + size, x : x + size] for p in sides for y, x in corners])


def _twenty_crop(image: Image.Image, size: int) -> Squares:
    return np.concatenate([_ten_crop(image, size), _ten_crop(image, size, SECOND_ZOOM)])


VARIANTS: dict[str, tuple[int, Callable[[Image.Image, int], Squares]]] = {
    "none": (1, _none),
    "flip": (2, _flip),
    "ten_crop": (10, _ten_crop),
    "twenty_crop": (20, _twenty_crop),
}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which squares of an image are encoded.

    Attributes:
        name: a name in ``VARIANTS``.
        jittered_copies: of the first square, to add: slightly turned, scaled and shifted.
        seed: of the jitter.
    """

    name: str = "none"
    jittered_copies: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in VARIANTS:
            raise ValueError(unknown_name("augmentation", self.name, VARIANTS))
        if self.jittered_copies < 0 or self.seed < 0:
            raise ValueError(
                f"got jittered_copies {self.jittered_copies} and seed {self.seed}; expected whole "
                "numbers from 0 on"
            )

    @property
    def variants(self) -> int:
        """Squares per image."""
        return VARIANTS[self.name][0] + self.jittered_copies

    def describe(self) -> dict[str, Any]:
        """What follows from it, for JSON."""
        about = {"name": self.name, "jittered_copies": self.jittered_copies}
        if self.jittered_copies:
            about |= {"jitter": asdict(JITTER), "seed": self.seed}
        return about

    def squares(self, image: Image.Image, size: int, index: int) -> Squares:
        """The squares of image ``index`` (RGB), which with the seed names the jitter."""
        squares = VARIANTS[self.name][1](image, size)
        if not self.jittered_copies:
            return squares
        draw = random_stream(self.seed, 0, index, JITTERED).random
        generator = torch.Generator().manual_seed(int(draw() * 2**53))
        copies = from_pixels(squares[:1]).repeat(self.jittered_copies, 1, 1, 1)
        return np.concatenate([squares, to_pixels(jitter_images(copies, JITTER, generator))])


class Group(NamedTuple):
    """Squares of some images: pixels (b, k, size, size, 3), which images, which were left out and
    why (each text begins with a name)."""

    pixels: np.ndarray
    index: list[int]
    skipped: list[str]


class SquareDecoder(Dataset):
    """Turns a range of images into a ``Group``; what a worker holds."""

    def __init__(self, files: ImageFiles, size: int, augmentation: Augmentation) -> None:
        self.files, self.size, self.augmentation = files, size, augmentation

    def __getitem__(self, wanted: range) -> Group:
        squares, index, skipped = [], [], []
        for i in wanted:
            try:
                image = to_rgb(self.files.open(i), self.files.title(i))
            except (FileNotFoundError, ValueError) as error:
                skipped.append(str(error))
                continue
            squares.append(self.augmentation.squares(image, self.size, i))
            index.append(i)
        blank = np.empty((0, self.augmentation.variants, self.size, self.size, 3), dtype=np.uint8)
        return Group(np.stack(squares) if squares else blank, index, skipped)
