"""Streamed data sets: shards read in order, without a copy on this machine.

An epoch deals its shards, in an order that (seed, epoch) names, to the *parts*: one for each worker
of each process. The shards that do not go round are read by all parts, each taking every n-th
image. A part fills a buffer, shuffles it, empties it, and fills it again, so its *place* is four
numbers: the epoch, the shard and the image where the buffer began, and how many were taken from it.
A resumed part goes to that shard, fills the buffer again and leaves out what was taken: nothing is
seen twice or missed. (``state_dict`` of ``datasets`` loses the images in its shuffle buffer.)
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tarfile import TarError
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from arimage.eval.sources import columns_of, digest, open_stored
from arimage.images import to_rgb
from arimage.training.crops import BUFFER, CROP, ORDER, crop_pixels, random_stream
from arimage.training.image_files import class_names, undecoded
from arimage.training.images import (
    BROKEN_IN_A_ROW,
    ImageBatch,
    ImageData,
    TrainingImages,
    check_share,
    too_many_broken,
)
from arimage.training.workers import decoded

WITHIN_SHARD = 32  # bits of an image's index that say where in its shard it is


class Place(NamedTuple):
    """Where a part is: its buffer began at image ``offset`` of its ``number``-th shard of the
    epoch, and ``used`` images were taken from it."""

    epoch: int = 0
    number: int = 0
    offset: int = 0
    used: int = 0


class StreamedImages(TrainingImages):
    """A streamed data set of ``datasets``.

    Raises:
        ValueError: no column of images.
    """

    def __init__(self, dataset: Any, data: ImageData) -> None:
        self.data, self.count, self.skipped = data, None, []
        name = str(data.path)
        features = dataset.features or dataset._resolve_features().features
        self.column, label = columns_of(features, name)
        whole = label is not None and "int" in str(getattr(features[label], "dtype", ""))
        self.label = label if whole else None
        self.class_names = class_names(features[label]) if whole else None
        columns = [self.column, self.label] if whole else [self.column]
        self.dataset, self.shards = undecoded(dataset, *columns), dataset.num_shards
        self.identity = digest(Path(name).name, data.split, self.shards, *features)

    def batches(
        self,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        state: dict[str, Any] | None = None,
    ) -> Iterator[ImageBatch]:
        """See the base class; ``start`` is not used where there is a state."""
        check_share(batch_size, rank, world, start)
        if start and state is None:
            raise ValueError(
                f"got start {start} without a state; streamed data go on with the state that the "
                "last batch carried, or begin at 0"
            )
        streams = max(1, self.data.workers)
        fresh = {"rank": rank, "parts": world * streams, "turn": 0, "places": [Place()] * streams}
        state = fresh if state is None else state
        if (state["rank"], state["parts"]) != (rank, world * streams):
            raise ValueError(
                f"got the state of process {state['rank']} and {state['parts']} parts (processes "
                f"times workers) for process {rank} and {world * streams}; go on with as many "
                "processes and workers, each with its own state, or begin a new run"
            )
        return self._batches(StreamReader(self, batch_size, state), state)

    def _batches(self, reader: "StreamReader", state: dict[str, Any]) -> Iterator[ImageBatch]:
        places = [tuple(place) for place in state["places"]]
        for stream, place, epoch, arrays, skipped in decoded(reader, None, self.data.workers):
            self.note(skipped)
            places[stream] = tuple(place)
            turn = (stream + 1) % len(places)
            pixels, index, labels = (None if a is None else torch.from_numpy(a) for a in arrays)
            after = {**state, "turn": turn, "places": [list(place) for place in places]}
            yield ImageBatch(pixels, index, labels, epoch, skipped, after)

    def resume_note(self) -> str:
        """See the base class."""
        return (
            "the run goes on at the recorded shards with the images that it would have seen next, "
            f"once up to {self.data.buffer} images are read again to fill each shuffle buffer; if "
            "the data set has changed meanwhile, images may repeat or be left out"
        )


class StreamReader(IterableDataset):
    """Batches of one part; what a worker holds.

    An item is (which stream of this process, the place after it, the epoch of the first image,
    (pixels, indices, labels), skipped), or the ValueError that ends the training.
    """

    def __init__(self, images: StreamedImages, batch_size: int, state: dict[str, Any]) -> None:
        self.images, self.data, self.batch_size = images, images.data, batch_size
        self.rank, self.parts, self.turn = state["rank"], state["parts"], state["turn"]
        self.places = [Place(*place) for place in state["places"]]

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        stream = (self.turn + (worker.id if worker else 0)) % len(self.places)
        part = self.rank * len(self.places) + stream
        rows, skipped, broken = [], [], 0
        try:
            for place, epoch, index, example in self._examples(part, self.places[stream]):
                try:
                    rows.append((epoch, index, *self._row(epoch, index, example)))
                    broken = 0
                except (FileNotFoundError, ValueError) as error:
                    skipped.append(str(error))
                    broken += 1
                    if self.data.strict or broken > BROKEN_IN_A_ROW:
                        text = str(error)
                        raise ValueError(
                            text if self.data.strict else too_many_broken(broken, text)
                        ) from error
                if len(rows) == self.batch_size:
                    yield stream, place, rows[0][0], _stacked(rows), tuple(skipped)
                    rows, skipped = [], []
        except ValueError as error:
            yield error

    def _row(self, epoch: int, index: int, example: dict[str, Any]) -> tuple[np.ndarray, Any]:
        shard, offset = divmod(index, 1 << WITHIN_SHARD)
        title = f"image {offset} of shard {shard} of {self.data.path}"
        image = to_rgb(open_stored(example[self.images.column], title), title)
        draw = random_stream(self.data.seed, epoch, index, CROP).random
        pixels = crop_pixels(image, self.data.size, self.data.crop, self.data.flip, draw)
        return pixels, example.get(self.images.label)

    def _examples(self, part: int, place: Place) -> Iterator[tuple[Place, int, int, dict]]:
        """(the place after it, epoch, index, example) of a part, epoch after epoch.

        Raises:
            ValueError: an epoch of fewer images than a batch.
        """
        while True:
            whole, seen = place == Place(place.epoch), 0  # whether the epoch is read from its start
            epoch, number, offset, used = place
            read = self._read(self._order(epoch, part), part, number, offset)
            while block := list(islice(read, self.data.buffer)):
                stream = random_stream(self.data.seed, epoch, block[0][1], BUFFER)
                shuffled = stream.permutation(len(block))
                for taken in range(used, len(block)):
                    _, index, example = block[shuffled[taken]]
                    yield Place(epoch, number, offset, taken + 1), epoch, index, example
                seen += len(block)
                number, last, used = block[-1][0], block[-1][1], 0
                offset = last % (1 << WITHIN_SHARD) + 1
            if whole and seen < self.batch_size:
                raise ValueError(
                    f"{self.data.path} has {seen} images for each of {self.parts} parts (processes "
                    f"times workers), fewer than the batch of {self.batch_size}; lower the batch "
                    "size or the workers, or give more images"
                )
            place = Place(epoch + 1)

    def _order(self, epoch: int, part: int) -> list[tuple[int, bool]]:
        """(shard, whether all parts share it) of one part in one epoch."""
        shards, parts = self.images.shards, self.parts
        order = random_stream(self.data.seed, epoch, 0, ORDER).permutation(shards).tolist()
        dealt = shards - shards % parts
        own = [(shard, False) for shard in order[part:dealt:parts]]
        return own + [(shard, True) for shard in order[dealt:]]

    def _read(
        self, order: list[tuple[int, bool]], part: int, first: int, offset: int
    ) -> Iterator[tuple[int, int, dict]]:
        """(number of the shard, index, example) from image ``offset`` of shard ``first`` on.

        Raises:
            ValueError: a torn shard.
        """
        for number in range(first, len(order)):
            shard, shared = order[number]
            try:
                for at, example in enumerate(self._rows(shard, offset), offset):
                    if not shared or at % self.parts == part:
                        yield number, (shard << WITHIN_SHARD) + at, example
            except (OSError, TarError, ValueError) as error:
                raise ValueError(
                    f"shard {shard} of {self.data.path} cannot be read to its end ({error}); fetch "
                    "it again, or leave it out"
                ) from error
            offset = 0

    def _rows(self, shard: int, offset: int) -> Iterator[dict]:
        dataset = self.images.dataset.shard(num_shards=self.images.shards, index=shard)
        for row in dataset.skip(offset).iter(batch_size=1):  # __iter__ would deal to workers itself
            yield {name: values[0] for name, values in row.items()}


def _stacked(rows: list[tuple]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(pixels, indices, labels) of a batch."""
    _, index, pixels, labels = zip(*rows, strict=True)
    known = None if None in labels else np.array(labels, dtype=np.int64)
    return np.stack(pixels), np.array(index, dtype=np.int64), known
