"""Where images come from: folders, archives, arrays, data sets, each readable from any index.

A source that can be read from any index can be cached, resumed and shared among processes; a plain
iterable (``stream.py``) is read once, in order. Pixels are held a batch at a time.
"""

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from arimage.eval.arrays import load_npy, npz_member, open_zip
from arimage.images import IMAGE_SUFFIXES, center_crop, list_images, open_image, to_rgb
from arimage.shapes import Int, UInt8

CLASS_IN_NAME = re.compile(r"_class(\d+)[_.]")  # as `arimage generate` names its files


@dataclass(frozen=True, eq=False)
class Chunk:
    """Images start..stop-1 of a source: pixels of those that could be read, their indices in the
    source, and the names of the others with what was wrong."""

    pixels: UInt8[np.ndarray, "b h w 3"]
    kept: Int[np.ndarray, " b"]
    skipped: tuple[str, ...] = ()


@runtime_checkable
class ImageSource(Protocol):
    """Images that can be read from any index.

    Attributes:
        name: for reports.
        identity: changes when the images may have changed; cheap. Names a cache.
        labels: the class of each image, or None.
    """

    name: str
    identity: str
    labels: np.ndarray | None

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Chunk:
        """Images start..stop-1."""
        ...

    def sha256(self) -> str:
        """Hash of the content."""
        ...


def digest(*parts: object) -> str:
    """Sha256 of the texts of ``parts``."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


class ArraySource:
    """An array of uint8 pixels (n, h, w, 3), in memory or mapped from a file."""

    def __init__(self, pixels: np.ndarray, name: str, labels: np.ndarray | None = None) -> None:
        self.pixels, self.name, self.labels = pixels, name, labels

    @cached_property
    def identity(self) -> str:
        """The content's hash."""
        return self.sha256()

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, start: int, stop: int) -> Chunk:
        """A slice."""
        pixels = np.ascontiguousarray(self.pixels[start:stop])
        return Chunk(pixels, np.arange(start, start + len(pixels)))

    def sha256(self) -> str:
        """Of the pixels."""
        total = hashlib.sha256()
        for start in range(0, len(self.pixels), 256):
            total.update(np.ascontiguousarray(self.pixels[start : start + 256]).data)
        return total.hexdigest()


class FilesSource:
    """Image files, one at a time; what cannot be read is skipped, named and counted.

    Args:
        names: for messages, and in the identity.
        open_one: the image with an index. ValueError: it is broken.
        name, identity, labels: as in ``ImageSource``.
        size: side of the square that each image is cut to (``images.center_crop``); None leaves
            them as they are, and then all must be of one size.
        strict: a broken image is an error.
    """

    def __init__(
        self,
        names: Sequence[str],
        open_one: Callable[[int], Image.Image],
        *,
        name: str,
        identity: str,
        labels: np.ndarray | None = None,
        size: int | None = None,
        strict: bool = False,
    ) -> None:
        self.names, self.open_one, self.labels = names, open_one, labels
        self.name, self.size, self.strict = name, size, strict
        self.identity = digest(identity, size)
        self.enlarged: set[int] = set()  # images that were read and are smaller than ``size``

    def __len__(self) -> int:
        return len(self.names)

    def read(self, start: int, stop: int) -> Chunk:
        """Images start..stop-1, as RGB.

        Raises:
            ValueError: two sizes, more than 8 bits, transparency; a broken image if ``strict``.
        """
        found: dict[int, np.ndarray] = {}
        skipped = []
        for i in range(start, min(stop, len(self))):
            try:
                image = self.open_one(i)
            except ValueError as error:
                if self.strict:
                    raise
                skipped.append(str(error))
                continue
            image = to_rgb(image, self.names[i])
            if self.size is not None and min(image.size) < self.size:
                self.enlarged.add(i)
            found[i] = np.asarray(image if self.size is None else center_crop(image, self.size))
        self._check_sizes(found)
        pixels = np.stack(list(found.values())) if found else np.empty((0, 1, 1, 3), np.uint8)
        return Chunk(pixels, np.fromiter(found, np.int64, len(found)), tuple(skipped))

    def _check_sizes(self, found: dict[int, np.ndarray]) -> None:
        first = next(iter(found), None)
        for i, pixels in found.items():
            if pixels.shape != found[first].shape:
                raise ValueError(
                    f"{self.names[i]} is {pixels.shape[1]} x {pixels.shape[0]} pixels, "
                    f"{self.names[first]} is {found[first].shape[1]} x {found[first].shape[0]}; "
                    "bring all images to one size, or give a size to cut them to"
                )

    def sha256(self) -> str:
        """Of the pixels as they are read."""
        total = hashlib.sha256()
        for start in range(0, len(self), 64):
            total.update(self.read(start, start + 64).pixels.data)
        return total.hexdigest()


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files are read: ``size`` and ``strict`` of ``FilesSource``; ``split`` of a data set."""

    size: int | None = None
    strict: bool = False
    split: str | None = None

    def for_files(self) -> dict[str, Any]:
        """What ``FilesSource`` takes."""
        return {"size": self.size, "strict": self.strict}


def folder_source(folder: Path, options: ReadOptions) -> ImageSource:
    """Image files below a folder, sorted by path; classes are sub-folders or in the names."""
    paths = list_images(folder)
    names = [str(path.relative_to(folder)) for path in paths]
    stats = [path.stat() for path in paths]
    facts = [(s.st_size, s.st_mtime_ns) for s in stats]
    return FilesSource(
        [str(path) for path in paths],
        lambda i: open_image(paths[i]),
        name=folder.resolve().name,
        identity=digest(folder.resolve(), names, facts),
        labels=labels_of(names),
        **options.for_files(),
    )


def labels_of(names: Sequence[str]) -> np.ndarray | None:
    """Class labels where every image is in a sub-folder, or where every name holds one, as those of
    `arimage generate` do; None otherwise. Folders named by numbers are those classes, others are
    numbered in sorted order (as ImageNet's are)."""
    folders = [name.split("/")[-2] if "/" in name else "" for name in names]
    if all(folders) and len(set(folders)) > 1:
        if all(folder.isdigit() for folder in folders):
            return np.array([int(folder) for folder in folders])
        order = {folder: i for i, folder in enumerate(sorted(set(folders)))}
        return np.array([order[folder] for folder in folders])
    found = [CLASS_IN_NAME.search(name) for name in names]
    return np.array([int(match[1]) for match in found]) if all(found) else None


def zip_source(path: Path, options: ReadOptions) -> ImageSource:
    """Image files in a zip, sorted by name."""
    archive = open_zip(path)
    suffixes = IMAGE_SUFFIXES
    names = sorted(n for n in archive.namelist() if n.lower().endswith(suffixes))
    if not names:
        raise ValueError(f"no image ({', '.join(suffixes)}) found in {path}")

    def open_one(i: int) -> Image.Image:
        try:
            data = io.BytesIO(archive.read(names[i]))
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
            raise ValueError(f"{path}:{names[i]} is damaged or locked ({error})") from error
        return open_image(data, f"{path}:{names[i]}")

    facts = [(info.filename, info.CRC) for info in archive.infolist()]
    return FilesSource(
        [f"{path}:{name}" for name in names],
        open_one,
        name=path.name,
        identity=digest(facts),
        labels=labels_of(names),
        **options.for_files(),
    )


def npz_source(path: Path, options: ReadOptions) -> ImageSource:
    """``arr_0`` of a npz as the published evaluator takes it, or a npy; labels in ``arr_1``."""
    if path.suffix == ".npy":
        pixels, labels = load_npy(path), None
    else:
        members = open_zip(path).namelist()
        if "mu.npy" in members:
            raise ValueError(
                f"{path} holds statistics (mu): it is a reference, not samples; give it as such"
            )
        pixels = npz_member(path, "arr_0")
        labels = npz_member(path, "arr_1") if "arr_1.npy" in members else None
        labels = labels if labels is not None and labels.ndim == 1 else None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(
            f"{path} holds {pixels.dtype} of shape {pixels.shape}; expected uint8 pixels "
            "(n, h, w, 3) in arr_0"
        )
    if options.size not in (None, *pixels.shape[1:3]) or not len(pixels):
        raise ValueError(
            f"{path} holds {len(pixels)} images of {pixels.shape[2]} x {pixels.shape[1]} pixels; "
            f"expected at least one{f' of {options.size}' if options.size else ''}: arrays are not "
            "cut, give image files"
        )
    source = ArraySource(pixels, path.name, labels)
    facts = path.stat()
    source.identity = digest(path.resolve(), facts.st_size, facts.st_mtime_ns)
    return source


def dataset_source(dataset: Any, name: str, options: ReadOptions) -> ImageSource:
    """A data set of ``datasets`` with a column of images and perhaps one of labels.

    Raises:
        ValueError: no column of images.
    """
    column, classes = columns_of(dataset.features, name)

    import datasets

    plain = dataset.cast_column(column, datasets.Image(decode=False))  # files as they are

    def open_one(i: int) -> Image.Image:
        return open_stored(plain[i][column], f"image {i} of {name}")

    return FilesSource(
        [f"{name}[{i}]" for i in range(len(dataset))],
        open_one,
        name=name,
        identity=digest(dataset._fingerprint),
        labels=np.asarray(dataset[classes]) if classes else None,
        **options.for_files(),
    )


def columns_of(features: Any, name: str) -> tuple[str, str | None]:
    """The column of images and that of class labels, or None, among the features of a data set.

    Raises:
        ValueError: no column of images.
    """
    columns = [c for c, kind in features.items() if type(kind).__name__ == "Image"]
    if not columns:
        raise ValueError(f"{name} has no column of images; it has {', '.join(features)}")
    classes = [c for c, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    classes += [c for c in ("label", "labels", "cls") if c in features]
    return columns[0], classes[0] if classes else None


def open_stored(stored: Any, title: str) -> Image.Image:
    """An image as ``datasets.Image(decode=False)`` hands it out: its bytes or its path.

    Raises:
        FileNotFoundError, ValueError: it is missing or broken.
    """
    if stored is None or (stored["bytes"] is None and stored["path"] is None):
        raise ValueError(f"{title} is empty; its row holds no image")
    return open_image(
        stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"]), title
    )


def load_dataset(name: str, options: ReadOptions) -> ImageSource:
    """A data set by hub id ("owner/name", "owner/name:split"), parquet file or folder that
    ``datasets`` saved.

    Raises:
        ValueError: several splits and none chosen. FileNotFoundError: it cannot be had.
    """
    import datasets

    path, split = Path(name), options.split
    if not path.exists() and ":" in name:
        name, _, split = name.partition(":")
    try:
        if path.is_dir():
            found = datasets.load_from_disk(str(path))
        elif path.suffix == ".parquet":
            found = datasets.load_dataset("parquet", data_files=str(path), split="train")
        else:
            found = datasets.load_dataset(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"cannot load the data set {name!r} ({reason}); check the name and the network, or "
            "give a folder, a zip, a npz or a parquet file"
        ) from error
    if isinstance(found, dict):
        splits = list(found)
        split = split or (splits[0] if len(splits) == 1 else None)
        if split not in splits:
            raise ValueError(
                f"{name} has the splits {', '.join(splits)}; got {split}: write {name}:{splits[0]}"
            )
        found = found[split]
    return dataset_source(found, name, options)


def open_path(path: str | Path, options: ReadOptions | None = None) -> ImageSource:
    """The source that a path or a data set's name means.

    Raises:
        FileNotFoundError, NotADirectoryError: nothing there. ValueError: a file of another kind.
    """
    options, path, text = options or ReadOptions(), Path(path), str(path)
    if path.is_dir() and any((path / n).is_file() for n in ("state.json", "dataset_dict.json")):
        return load_dataset(text, options)
    if path.is_dir():
        return folder_source(path, options)
    opens = {".zip": zip_source, ".npz": npz_source, ".npy": npz_source}
    if path.is_file() and path.suffix.lower() in opens:
        return opens[path.suffix.lower()](path, options)
    if path.is_file() and path.suffix.lower() != ".parquet":
        raise ValueError(f"{path} is not a folder, .zip, .npz, .npy or .parquet file of images")
    if path.is_file() or (text.count("/") == 1 and not text.startswith((".", "/", "~"))):
        return load_dataset(text, options)
    raise NotADirectoryError(
        f"{path} is not a folder{' and no file' if path.suffix else ''}; give a folder of images, "
        "a npz or a zip"
    )
