"""The demo's data: 1,797 real handwritten digits that ship with scikit-learn, split once for all.

Source: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI (CC BY 4.0),
the copy inside scikit-learn (``sklearn.datasets.load_digits``).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from arimage.shapes import Int, UInt8

IMAGE_SIZE = 32  # four times the 8 x 8 originals: large enough for a person, small enough for a CPU
HELD_OUT = 0.2
SPLIT_SEED = 0


@dataclass(frozen=True)
class Split:
    """Pixels (n, 32, 32, 3) uint8 and class labels (n,) int64 in 0..9."""

    pixels: UInt8[np.ndarray, "n 32 32 3"]
    labels: Int[np.ndarray, " n"]


def load_digits() -> tuple[Split, Split]:
    """(train, held_out): 1,437 and 360 images, stratified by class, always the same."""
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    data = sklearn_digits()
    pixels = np.stack([_enlarge(image) for image in data.images])
    train, held_out = train_test_split(
        np.arange(len(pixels)),
        test_size=HELD_OUT,
        stratify=data.target,
        random_state=SPLIT_SEED,
    )
    labels = data.target.astype(np.int64)
    return Split(pixels[train], labels[train]), Split(pixels[held_out], labels[held_out])


def write_reference(path: str | Path) -> Path:
    """The reference that ships as "digits": the held-out images as the packaged classifier sees
    them; ``python -c "from arimage.demo.digits import write_reference as w; w('digits.npz')"``."""
    from arimage.eval.base import Reference
    from arimage.eval.references import save_reference

    held_out = load_digits()[1]
    seen = Reference.from_pixels("digits", held_out.pixels, "digits", held_out.labels)
    return save_reference(path, seen)


def _enlarge(image: np.ndarray) -> UInt8[np.ndarray, "32 32 3"]:
    """One 8 x 8 digit (levels 0..16) to 32 x 32 grey RGB pixels (bicubic)."""
    small = Image.fromarray((image * (255 / 16)).round().astype(np.uint8))
    large = small.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(large.convert("RGB"))
