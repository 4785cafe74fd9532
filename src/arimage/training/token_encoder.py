"""Images to tokens, each with its variants, in groups that do not depend on who encodes them."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from arimage.images import from_pixels
from arimage.pretrained import identity
from arimage.shapes import Int
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.image_files import FolderFiles, ImageFiles
from arimage.training.images import (
    BROKEN_IN_A_ROW,
    ImageData,
    IndexedImages,
    open_images,
    too_many_broken,
)
from arimage.training.tokens import TokenSet
from arimage.training.variants import Augmentation, Group, SquareDecoder
from arimage.training.workers import decoded

BATCH = 16  # squares that are encoded together


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokens of some images that follow each other in a data set.

    Attributes:
        ids: of those that can be read.
        index: which they are.
        skipped: what is wrong with the others.
    """

    ids: Int[np.ndarray, "n k slots"]
    index: Int[np.ndarray, " n"]
    skipped: list[str]


class Encoder:
    """Images to tokens, in groups that do not depend on who encodes them."""

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        images: IndexedImages,
        augmentation: Augmentation,
        batch_size: int = BATCH,
    ) -> None:
        self.tokenizer, self.images = tokenizer.eval(), images
        self.decoder = SquareDecoder(images.files, images.data.size, augmentation)
        self.group = max(1, batch_size // augmentation.variants)

    def encode(self, spans: list[range], workers: int = 0) -> Iterator[Encoded]:
        """Tokens of each range of images.

        Raises:
            ValueError: far too many broken images in a row.
        """
        groups = [list(self._groups(span)) for span in spans]
        flat = [group for several in groups for group in several]
        with closing(decoded(self.decoder, flat, workers)) as items:
            for several in groups:
                found: list[Group] = []
                ids: list[np.ndarray] = []
                for _ in several:
                    found.append(next(items))
                    ids.append(self._ids(found[-1].pixels))
                index = np.array([i for group in found for i in group.index], dtype=np.int64)
                skipped = [text for group in found for text in group.skipped]
                check_gaps(index, range(several[0].start, several[-1].stop), skipped)
                folder = f"{Path(self.images.data.path)}{os.sep}"
                skipped = [text.replace(folder, "") for text in skipped]
                yield Encoded(np.concatenate(ids), index, skipped)

    def _groups(self, span: range) -> Iterator[range]:
        for first in range(span.start, span.stop, self.group):
            yield range(first, min(span.stop, first + self.group))

    @torch.no_grad()
    def _ids(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (b, k, size, size, 3) to ids (b, k, slots)."""
        count, variants = pixels.shape[:2]
        slots = self.tokenizer.slots.num_slots
        if not count:
            return np.empty((0, variants, slots), dtype=np.int64)
        images = from_pixels(pixels.reshape(-1, *pixels.shape[2:])).to(self.tokenizer.device)
        return self.tokenizer.encode(images).cpu().numpy().reshape(count, variants, slots)


def check_gaps(index: Int[np.ndarray, " n"], span: range, skipped: list[str]) -> None:
    """Raises ValueError if more than ``BROKEN_IN_A_ROW`` images of a span are missing in a row."""
    edges = np.concatenate([[span.start - 1], index, [span.stop]])
    worst = int(np.diff(edges).max()) - 1
    if worst > BROKEN_IN_A_ROW:
        raise ValueError(too_many_broken(worst, skipped[-1]))


def encode_in_memory(
    tokenizer: ImageTokenizer, data: str | Path, augmentation: Augmentation
) -> TokenSet:
    """The tokens of a data set that is small, as ``load_tokens`` has them of a folder.

    Raises:
        ValueError, OSError: no image, no classes, a broken image.
    """
    images = open_indexed(str(data), tokenizer.config.image_size)
    labels, num_classes, names = classes_of(images.files, str(data))
    (tokens,) = Encoder(tokenizer, images, augmentation).encode([range(len(labels))])
    if tokens.skipped:
        raise ValueError(tokens.skipped[0])
    ids = torch.from_numpy(tokens.ids.reshape(-1, tokens.ids.shape[-1]))
    labels = labels.repeat(augmentation.variants)
    about = augmentation.describe()
    return TokenSet(ids, labels, num_classes, identity(tokenizer), names, about)


def open_indexed(data: str, size: int, split: str | None = None) -> IndexedImages:
    """A data set whose images are opened by index, cut to their centres."""
    images = open_images(ImageData(path=data, split=split, size=size, crop="center"))
    assert isinstance(images, IndexedImages)  # nothing else without streaming
    return images


def classes_of(files: ImageFiles, name: str) -> tuple[Int[np.ndarray, " n"], int, list[str] | None]:
    """(labels, number of classes, names) of a data set; one sub-folder is one class.

    Raises:
        ValueError: images without a class.
    """
    labels, names = files.labels, files.class_names
    if labels is None and isinstance(files, FolderFiles):
        folders = {file.rpartition("/")[0] for file in files.names}
        if len(folders) == 1 and all(folders):
            labels, names = np.zeros(len(files), dtype=np.int64), (folders.pop().split("/")[-1],)
    if labels is None:
        raise ValueError(
            f"the images of {name} have no classes; put those of each class into a sub-folder of "
            "its own, or give a data set with a column 'label'"
        )
    if labels.min() < 0:
        raise ValueError(
            f"{name} has class labels from {labels.min()} on; expected 0 or more: choose a split "
            "whose labels are known"
        )
    return labels, len(names) if names else int(labels.max()) + 1, list(names) if names else None
