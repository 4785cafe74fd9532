"""Small data sets of images in the forms that ``datasets`` reads, written by the tests."""

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
from PIL import Image


def png(number: int, side: int = 12) -> bytes:
    """An image that its number names."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side - 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_tars(folder: Path, *sizes: int, broken: tuple[int, ...] = ()) -> Path:
    """Webdataset shards of so many images; the class of image i is i % 3."""
    folder.mkdir()
    first = 0
    for shard, size in enumerate(sizes):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as archive:
            for number in range(first, first + size):
                image = b"torn" if number in broken else png(number)
                add(archive, f"{number:05d}.png", image)
                add(archive, f"{number:05d}.cls", str(number % 3).encode())
        first += size
    return folder


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Puts a file into a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def table(numbers: range, broken: tuple[int, ...] = ()) -> datasets.Dataset:
    """Rows of an image and a class, i % 3, with names."""
    images = [{"bytes": b"torn" if i in broken else png(i), "path": None} for i in numbers]
    features = {
        "image": datasets.Image(),
        "caption": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["a", "b", "c"]),
    }
    rows = {
        "image": images,
        "caption": ["words"] * len(images),
        "label": [i % 3 for i in numbers],
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def write_parquet(folder: Path, *sizes: int, broken: tuple[int, ...] = ()) -> Path:
    """The same images as ``write_tars`` in parquet files."""
    folder.mkdir()
    first = 0
    for shard, size in enumerate(sizes):
        part = table(range(first, first + size), broken)
        part.to_parquet(folder / f"{shard:03d}.parquet")
        first += size
    return folder


WRITERS = {"parquet": write_parquet, "webdataset": write_tars}
