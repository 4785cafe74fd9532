"""The files that many images become: a PNG each, or one npz; each is there whole or not at all."""

import json
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arimage.eval.arrays import npz_member
from arimage.files import new_file
from arimage.images import write_png
from arimage.shapes import UInt8

ARRAYS = "samples.npz"
# PNG specification, third edition, 5.2 and 11.2.5: the signature, and the chunk that ends a file.
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True)
class ImageInfo:
    """What each image was asked by: labels or prompts (the other is empty), and seeds."""

    labels: list[int]
    prompts: list[str]
    seeds: list[int]

    def __len__(self) -> int:
        return len(self.seeds)

    def png_name(self, i: int) -> str:
        """The file of image ``i``; ``eval.sources`` reads the class from it."""
        label = f"_class{self.labels[i]}" if self.labels else ""
        return f"{i:06d}{label}_seed{self.seeds[i]}.png"

    def png_text(self, i: int, about: dict[str, Any]) -> dict[str, str]:
        """The text of image ``i``: ``about`` all images, and what is its own."""
        if self.labels:
            one: dict[str, Any] = {"class_label": self.labels[i]}
        else:
            one = {"prompt": self.prompts[i]} if self.prompts else {}
        return {"arimage": json.dumps(about | one | {"seed": self.seeds[i]})}


@dataclass(frozen=True)
class Files(ABC):
    """The files of a run, a batch at a time.

    Attributes:
        out: their folder.
        info: what each image was asked by.
        side: pixels per side.
        about: what a PNG says of all images.
    """

    out: Path
    info: ImageInfo
    side: int
    about: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether the last file of all is there, so that no batch is missing."""
        return False

    @abstractmethod
    def holds(self, batch: range) -> bool:
        """Whether all images of a batch are there, whole."""

    @abstractmethod
    def write(self, batch: range, pixels: UInt8[np.ndarray, "b h w 3"]) -> None:
        """Writes the images of a batch."""

    @abstractmethod
    def finish(self, batches: Sequence[range]) -> Path:
        """What remains when all batches are there; the path of the result."""

    def clean(self) -> None:
        """Removes what a kill left half-written; nobody else may be writing."""
        for path in self.out.glob(".*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix in (".png", ".npy", ".npz", ".json"):
                path.unlink(missing_ok=True)


class PngFiles(Files):
    """A PNG per image, with its settings in its text."""

    def holds(self, batch: range) -> bool:
        """Whether every file begins and ends as a PNG does."""
        return all(is_whole_png(self.out / self.info.png_name(i)) for i in batch)

    def write(self, batch: range, pixels: UInt8[np.ndarray, "b h w 3"]) -> None:
        """Each file appears whole; those that are there are written again."""
        for i, image in zip(batch, pixels, strict=True):
            text = self.info.png_text(i, self.about)
            write_png(self.out / self.info.png_name(i), image, text)

    def finish(self, batches: Sequence[range]) -> Path:
        """The folder."""
        return self.out


class NpzFile(Files):
    """One npz as ADM's evaluator takes it, put together from an array per batch.

    openai/guided-diffusion@22e0df8 evaluations/README.md and scripts/image_sample.py: ``arr_0``
    uint8 (n, H, W, 3), ``arr_1`` the labels. Not compressed, so that it can be mapped; never more
    than one batch in memory.
    """

    @property
    def result(self) -> Path:
        """The npz."""
        return self.out / ARRAYS

    @property
    def complete(self) -> bool:
        """Whether the npz is there, whole."""
        try:
            return npz_member(self.result, "arr_0").shape == self._shape(len(self.info))
        except (OSError, ValueError):
            return False

    def holds(self, batch: range) -> bool:
        """Whether the array of a batch is there, whole."""
        try:
            array = np.load(self._part(batch), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        return array.dtype == np.uint8 and array.shape == self._shape(len(batch))

    def write(self, batch: range, pixels: UInt8[np.ndarray, "b h w 3"]) -> None:
        """An array of its own, until all are there."""
        with new_file(self._part(batch)) as temporary:
            np.save(temporary, pixels, allow_pickle=False)

    def finish(self, batches: Sequence[range]) -> Path:
        """Puts the arrays into the npz and removes them; another process may do the same."""
        if not self.complete:
            try:
                self._assemble(batches)
            except FileNotFoundError:  # another process was quicker and has removed them
                if not self.complete:
                    raise
        for path in self.out.glob("batch-*.npy"):
            path.unlink(missing_ok=True)
        return self.result

    def _assemble(self, batches: Sequence[range]) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": self._shape(len(self.info))}
        with new_file(self.result) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with _member(archive, "arr_0") as member:
                np.lib.format.write_array_header_1_0(member, header)
                for batch in batches:
                    member.write(np.load(self._part(batch), allow_pickle=False).data)
            if self.info.labels:
                with _member(archive, "arr_1") as member:
                    np.lib.format.write_array(member, np.array(self.info.labels, np.int64))

    def _part(self, batch: range) -> Path:
        return self.out / f"batch-{batch.start:08d}.npy"

    def _shape(self, count: int) -> tuple[int, int, int, int]:
        return (count, self.side, self.side, 3)


FILES: dict[str, type[Files]] = {"png": PngFiles, "npz": NpzFile}


def is_whole_png(path: Path) -> bool:
    """Whether a file begins and ends as a PNG does; what lies between is not read."""
    try:
        with path.open("rb") as file:
            start = file.read(len(PNG_START))
            file.seek(-len(PNG_END), 2)
            return start == PNG_START and file.read() == PNG_END
    except OSError:
        return False


def _member(archive: zipfile.ZipFile, key: str) -> Any:
    """An open array of a npz; the time in it is always the same one."""
    return archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True)
