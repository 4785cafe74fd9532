"""Images for training, held in memory: a folder with one sub-folder per class."""

from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from arimage.images import list_images, read_image
from arimage.shapes import Int, UInt8


def load_folder(
    folder: str | Path, size: int, progress: bool = True
) -> tuple[UInt8[np.ndarray, "n h w 3"], Int[np.ndarray, " n"], list[str]]:
    """(pixels, class labels, class names); names are the sub-folders in sorted order.

    Images are centre-cropped to a square and resized to ``size`` (Lanczos).

    Raises:
        NotADirectoryError, ValueError: no folder, no sub-folder, no image, an unreadable image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; give one with a sub-folder per class")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise ValueError(f"no sub-folder in {folder}; put the images of each class into its own")
    paths = [(path, label) for label, c in enumerate(classes) for path in list_images(c)]
    bar = tqdm(paths, desc="reading images", disable=not progress, mininterval=0.5)
    pixels = np.stack([read_image(path, size) for path, _ in bar])
    labels = np.array([label for _, label in paths], dtype=np.int64)
    return pixels, labels, [c.name for c in classes]
