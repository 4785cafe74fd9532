"""Images for training: opened, cropped and put into batches in an order that a seed names.

``open_images(ImageData(path=..., size=256)).batches(batch_size=16)`` is an endless iterator. Images
that can be opened by index (folders, parquet, webdataset and hub data sets) come in this order:
position p = 0, 1, 2, ... is image ``permutation(seed, p // n)[p % n]``, and step s of ``world``
processes with ``batch_size`` images each has the next batch_size * world positions, a slice each.
So two processes see what one with twice the batch sees, and a run goes on with its step alone.
Streamed data (``streams.py``) go on with the state that each batch carries.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from arimage.images import to_rgb
from arimage.registry import unknown_name
from arimage.shapes import Int, UInt8
from arimage.training.crops import CROP, CROPS, ORDER, crop_pixels, random_stream
from arimage.training.image_files import (
    FolderFiles,
    ImageFiles,
    TableFiles,
    find_shards,
    read_dataset,
    saved_by_datasets,
)
from arimage.training.workers import decoded

MAX_SEED = 2**63  # the same as for generated images
BROKEN_IN_A_ROW = 100  # more than that is a lost disk or the wrong folder, not a few torn files


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Which images to train on, and how they become squares.

    Attributes:
        path: a folder of images, with or without a sub-folder per class; a parquet file, a
            webdataset shard (.tar), or a folder of either; a folder that ``datasets`` saved; the id
            of a data set of the hub.
        split: of a saved folder or a hub data set; None takes "train", or the only one.
        size: pixels per side.
        crop: a name in ``crops.CROPS``: "center", "random", "random_place", "random_zoom",
            "random_resized".
        flip: share of images that are mirrored.
        streaming: read shards and hub data sets in order, without a copy on this machine. A folder
            of images is opened by index in any case.
        buffer: images of a stream that are shuffled together.
        strict: a broken image is an error; else the next readable one takes its place.
        workers: processes that decode; 0 decodes in the one that trains.
        seed: of order, crops and flips.
    """

    path: str | Path
    split: str | None = None
    size: int
    crop: str = "random"
    flip: float = 0.0
    streaming: bool = False
    buffer: int = 1000  # markweberdev/maskbit@5ea3d73 data/webdataset_reader.py
    strict: bool = False
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(unknown_name("crop", self.crop, CROPS))
        for name, least in (("size", 1), ("buffer", 1), ("workers", 0), ("seed", 0)):
            if not least <= getattr(self, name) < MAX_SEED:
                raise ValueError(
                    f"got {name} {getattr(self, name)}; expected a whole number from {least} on"
                )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"got flip {self.flip}; expected a share from 0 to 1")


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Images of one step of one process.

    Attributes:
        pixels: as cropped.
        index: which images of the data set; with the seed and the epoch it names their draws.
        labels: their classes, or None.
        epoch: of the first of them.
        skipped: what was wrong with images that others replaced, each text beginning with a name.
        state: of streamed data: gives what follows this batch; fit for JSON, one per process.
    """

    pixels: UInt8[Tensor, "b h w 3"]
    index: Int[Tensor, " b"]
    labels: Int[Tensor, " b"] | None
    epoch: int
    skipped: tuple[str, ...] = ()
    state: dict[str, Any] | None = None


class TrainingImages(ABC):
    """A data set to train on; made by ``open_images``.

    Attributes:
        data: as asked for.
        count: images in the data set, broken ones included; None where it is streamed.
        class_names: one per class, or None.
        identity: equal for the same data set, also after it was moved; cheap.
        skipped: broken images that this process has met so far, each once, with what is wrong.
    """

    data: ImageData
    count: int | None
    class_names: tuple[str, ...] | None
    identity: str
    skipped: list[str]

    @abstractmethod
    def batches(
        self,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        state: dict[str, Any] | None = None,
    ) -> Iterator[ImageBatch]:
        """Endless batches from step ``start`` on.

        Args:
            batch_size: images per batch, of this process.
            rank: which of ``world`` processes this is.
            state: what the last batch of this process carried; needed for streamed data if
                ``start`` is not 0, of no use for others.

        Raises:
            ValueError: fewer images than a step takes; a broken image if strict, and if far too
                many in a row are; a state that does not fit. RuntimeError: a worker was killed.
        """

    @abstractmethod
    def resume_note(self) -> str:
        """One sentence: what a resumed run sees."""

    def note(self, skipped: tuple[str, ...]) -> None:
        """Remembers broken images."""
        self.skipped += [text for text in dict.fromkeys(skipped) if text not in self.skipped]


def open_images(data: ImageData) -> TrainingImages:
    """The images that ``data`` names.

    Raises:
        FileNotFoundError, NotADirectoryError: nothing there, or no network. ValueError: no image.
    """
    path = Path(data.path)
    if path.is_dir() and not saved_by_datasets(path):
        try:
            return IndexedImages(FolderFiles(path), data)
        except ValueError:  # no image: shards, then?
            if not find_shards(path):
                raise
    text = str(data.path)
    if not path.exists() and (text.startswith((".", "/", "~")) or text.count("/") > 1):
        raise NotADirectoryError(f"{text} is not a folder and no file; give a folder of images")
    dataset = read_dataset(text, data.split, data.streaming)
    if hasattr(dataset, "__len__"):
        return IndexedImages(TableFiles(dataset, text), data)
    from arimage.training.streams import StreamedImages

    return StreamedImages(dataset, data)


class IndexedImages(TrainingImages):
    """Images that can be opened by index."""

    def __init__(self, files: ImageFiles, data: ImageData) -> None:
        self.files, self.data, self.skipped = files, data, []
        self.count, self.class_names = len(files), files.class_names
        self.identity = files.identity

    def batches(
        self,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        state: dict[str, Any] | None = None,
    ) -> Iterator[ImageBatch]:
        """See the base class."""
        check_share(batch_size, rank, world, start)
        if len(self.files) < batch_size * world:
            raise ValueError(
                f"{self.data.path} has {len(self.files)} images and a step takes "
                f"{batch_size * world} ({batch_size} for each of {world}); lower the batch size or "
                "give more images"
            )
        return self._batches(Order(len(self.files), self.data.seed, batch_size, rank, world, start))

    def _batches(self, order: "Order") -> Iterator[ImageBatch]:
        labels = self.files.labels
        for epoch, pixels, index, skipped in decoded(
            Decoder(self.files, self.data), order, self.data.workers
        ):
            self.note(skipped)
            yield ImageBatch(
                torch.from_numpy(pixels),
                torch.from_numpy(index),
                None if labels is None else torch.from_numpy(labels[index]),
                epoch,
                skipped,
            )

    def resume_note(self) -> str:
        """See the base class."""
        return "the run goes on with the images that it would have seen next"


@dataclass(frozen=True)
class Order:
    """Endless lists of (epoch, image), one for each step of one process; see the module."""

    count: int
    seed: int
    batch_size: int
    rank: int
    world: int
    start: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start
        while True:
            first = (step * self.world + self.rank) * self.batch_size
            places = (divmod(p, self.count) for p in range(first, first + self.batch_size))
            yield [(epoch, int(order_of(self.count, self.seed, epoch)[p])) for epoch, p in places]
            step += 1


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def order_of(count: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """The order of an epoch: a permutation of 0..count-1 that seed and epoch name."""
    return random_stream(seed, epoch, 0, ORDER).permutation(count)


class Decoder(Dataset):
    """Turns a list of (epoch, image) into pixels; what a worker holds.

    An item is (epoch of the first, pixels (b, size, size, 3), indices (b,), skipped), or the
    ValueError that ends the training.
    """

    def __init__(self, files: ImageFiles, data: ImageData) -> None:
        self.files, self.data = files, data

    def __getitem__(self, keys: list[tuple[int, int]]) -> Any:
        pixels, index, skipped = [], [], []
        try:
            for epoch, wanted in keys:
                square, found = self._readable(epoch, wanted, skipped)
                pixels.append(square)
                index.append(found)
        except ValueError as error:
            return error
        return keys[0][0], np.stack(pixels), np.array(index, dtype=np.int64), tuple(skipped)

    def _readable(self, epoch: int, wanted: int, skipped: list[str]) -> tuple[np.ndarray, int]:
        """The image, or the next one that can be read, and which it is."""
        count = len(self.files)
        tries = min(count, BROKEN_IN_A_ROW + 1)
        for index in ((wanted + i) % count for i in range(tries)):
            try:
                image = to_rgb(self.files.open(index), self.files.title(index))
            except (FileNotFoundError, ValueError) as error:
                if self.data.strict:
                    raise ValueError(str(error)) from error
                skipped.append(str(error))
                continue
            return self._square(image, epoch, index), index
        raise ValueError(too_many_broken(tries, skipped[-1]))

    def _square(self, image: Any, epoch: int, index: int) -> np.ndarray:
        draw = random_stream(self.data.seed, epoch, index, CROP).random
        return crop_pixels(image, self.data.size, self.data.crop, self.data.flip, draw)


def too_many_broken(count: int, last: str) -> str:
    """The sentence that ends a training on nothing but broken images."""
    return (
        f"{count} images in a row cannot be used, the last since {last}; check the folder and the "
        "disk it is on"
    )


def check_share(batch_size: int, rank: int, world: int, start: int) -> None:
    """Raises ValueError unless the arguments of ``batches`` make sense."""
    if batch_size < 1 or start < 0 or not 0 <= rank < world:
        raise ValueError(
            f"got batch_size {batch_size}, rank {rank} of {world} and start {start}; expected a "
            "batch of at least 1, a rank below the number of processes, and a step from 0 on"
        )
