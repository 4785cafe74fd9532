"""A dozen real photographs that come inside scikit-image and scikit-learn; nothing is downloaded.

Ten are in colour, two grey. Licences: skimage/data/README.txt (public domain, CC0 or free for this
use) and sklearn/datasets/images/README.txt (CC BY).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from arimage.images import to_rgb, write_png
from arimage.shapes import UInt8

FILES = {
    "astronaut": "skimage.data:astronaut.png",
    "camera": "skimage.data:camera.png",
    "chelsea": "skimage.data:chelsea.png",
    "china": "sklearn.datasets.images:china.jpg",
    "coffee": "skimage.data:coffee.png",
    "coins": "skimage.data:coins.png",
    "flower": "sklearn.datasets.images:flower.jpg",
    "hubble": "skimage.data:hubble_deep_field.jpg",
    "ihc": "skimage.data:ihc.png",
    "motorcycle": "skimage.data:motorcycle_left.png",
    "retina": "skimage.data:retina.jpg",
    "rocket": "skimage.data:rocket.jpg",
}
HELD_OUT = 2  # photographs of each half that nothing is trained on


@dataclass(frozen=True)
class Half:
    """Names of photographs to train on, and of others to judge by."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def halves() -> tuple[Half, Half]:
    """Every other photograph by alphabet; the last two of a half are for test."""
    names = sorted(FILES)
    first, second = names[::2], names[1::2]
    return tuple(Half(tuple(n[:-HELD_OUT]), tuple(n[-HELD_OUT:])) for n in (first, second))


def photograph(name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph of that name, in RGB."""
    package, file = FILES[name].split(":")
    with (resources.files(package) / file).open("rb") as opened, Image.open(opened) as image:
        return np.asarray(to_rgb(image))


def random_crops(
    names: Sequence[str], size: int, count: int, seed: int
) -> UInt8[np.ndarray, "n size size 3"]:
    """Squares from anywhere in the photographs at their own resolution, each photograph in turn."""
    rng = np.random.default_rng(seed)
    pictures = [photograph(name) for name in names]
    crops = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        y, x = (rng.integers(side - size + 1) for side in picture.shape[:2])
        crops.append(picture[y : y + size, x : x + size])
    return np.stack(crops)


def write_crops(folder: Path, names: Sequence[str], size: int, count: int, seed: int) -> Path:
    """``random_crops`` as PNG files; returns the folder."""
    for i, pixels in enumerate(random_crops(names, size, count, seed)):
        write_png(folder / f"{i:05d}.png", pixels)
    return folder
