"""Tokens of a data set on disk: read by row, never all at once.

A folder that ``arimage tokens`` made:

index.json                 whose tokens of what, classes, counts, the shards and what was left out
shard-00000.safetensors    ids (images, variants, slots) in uint16 or int32, labels, index: which
                           image of the data set each row is; slots as in the tokenizer's slot
                           table, all token maps in order
image_tokenizer/           the tokenizer

Folders of one tokens.safetensors (``tokens.save_tokens``) are read alike, as one shard.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from arimage.eval.sources import digest
from arimage.files import read_json
from arimage.generator import TOKENIZER, load_part
from arimage.pretrained import identity
from arimage.shapes import Int
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.registry import TOKENIZERS
from arimage.training.crops import VARIANT, random_stream
from arimage.training.images import Order, check_share

INDEX, TOKENS = "index.json", "tokens.safetensors"
FORMAT, FORMAT_OF_ONE = "arimage tokens 2", "arimage tokens 1"
AGAIN = "run the same arimage tokens again, which makes what is missing"


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Tokens of one step of one process.

    Attributes:
        ids: int64.
        labels: their classes, int64.
        index: which images of the tokens.
        epoch: of the first of them.
    """

    ids: Int[Tensor, "b slots"]
    labels: Int[Tensor, " b"]
    index: Int[Tensor, " b"]
    epoch: int


class TokenData:
    """The tokens in a folder; shards are mapped into memory, labels are read.

    An example is an image. Where it has several variants (crops), ``batches`` draws one for each
    image of each epoch.

    Attributes:
        identity: equal for equal tokens, wherever they are.
        tokenizer: ``identity`` of the tokenizer that made them.
        num_classes: labels are below it.
        class_names: one per class, or None.
        variants: per image.
        num_slots, vocab_size: ids per variant, which are below ``vocab_size``.
        augmentation: how the variants were made.
        labels: classes of all images, int64.
        skipped: images that could not be read when the tokens were made, and why.
        dataset: what the tokens are of, a hub id whole, other data by name; None in old folders.

    Raises:
        FileNotFoundError: no such folder, or one without tokens. ValueError: a broken one, or one
            that is not complete.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        about = read_index(self.folder)
        self.tokenizer: str = about["tokenizer"]
        self.num_classes: int = about["num_classes"]
        self.class_names: list[str] | None = about["class_names"]
        self.augmentation: dict[str, Any] = about["augmentation"]
        self.variants: int = about["variants"]
        self.skipped: list[str] = about["skipped"]
        self.dataset: str | None = about.get("data", {}).get("name")
        self.num_slots, self.vocab_size = about["num_slots"], about["vocab_size"]
        shards = [Shard.open(self.folder / entry["file"], entry) for entry in about["shards"]]
        self._ids = [shard.ids for shard in shards]
        self._first = np.cumsum([0, *(shard.count for shard in shards)])
        self.labels = np.concatenate([shard.labels for shard in shards])
        hashes = [entry["sha256"] for entry in about["shards"]]
        self.identity = digest(self.tokenizer, self.num_classes, *hashes)
        self._check(about)

    def _check(self, about: dict[str, Any]) -> None:
        found = (len(self.labels), self.variants, self.num_slots)
        shapes = {tuple(ids.get_shape())[1:] for ids in self._ids}
        if found[0] != about["images"] or not shapes <= {found[1:], found[2:]}:
            raise ValueError(
                f"{self.folder} holds tokens of {found[0]} images of shape {sorted(shapes)}, not "
                f"{about['images']} of {found[1:]} as it says; make them again by arimage tokens"
            )
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < self.num_classes:
            raise ValueError(
                f"{self.folder} has class labels from {self.labels.min()} to {self.labels.max()}; "
                f"expected 0 to {self.num_classes - 1}: make the tokens again by arimage tokens"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def rows(
        self, index: Int[Tensor, " b"], variants: Int[Tensor, " b"] | None = None
    ) -> tuple[Int[Tensor, "b slots"], Int[Tensor, " b"]]:
        """(ids, labels), int64, of some images, in this order.

        Args:
            variants: which of each; None takes the first, the plain one of "none" and "flip".

        Raises:
            IndexError: an image or variant that is not there. ValueError: ids that are damaged.
        """
        images = index.numpy()
        chosen = np.zeros_like(images) if variants is None else variants.numpy()
        for name, values, count in (
            ("image", images, len(self)),
            ("variant", chosen, self.variants),
        ):
            if len(values) and not 0 <= values.min() <= values.max() < count:
                raise IndexError(
                    f"got {name} {values.min()} to {values.max()}; the tokens have 0 to {count - 1}"
                )
        ids = torch.from_numpy(self._gather(images, chosen))
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ValueError(
                f"{self.folder} has ids up to {int(ids.max())} for a vocabulary of "
                f"{self.vocab_size}; it is damaged: make the tokens again by arimage tokens"
            )
        return ids, torch.from_numpy(self.labels[images])

    def _gather(self, images: np.ndarray, variants: np.ndarray) -> np.ndarray:
        found = np.empty((len(images), self.num_slots), dtype=np.int64)
        shards = np.searchsorted(self._first, images, side="right") - 1
        for row, shard in enumerate(shards.tolist()):
            ids, place = self._ids[shard], int(images[row] - self._first[shard])
            several = len(ids.get_shape()) == 3
            found[row] = ids[place, int(variants[row])] if several else ids[place]
        return found

    def batches(
        self, batch_size: int, rank: int = 0, world: int = 1, start: int = 0, seed: int = 0
    ) -> Iterator[TokenBatch]:
        """Endless batches from step ``start`` on, in the order of ``training.images``: so a run
        goes on with its step alone, and two processes see what one with twice the batch sees.

        Args:
            batch_size: images per batch, of this process.
            rank: which of ``world`` processes this is.
            seed: of the order and of the variants, which follow from (seed, epoch, image).

        Raises:
            ValueError: fewer images than a step takes.
        """
        check_share(batch_size, rank, world, start)
        if len(self) < batch_size * world:
            raise ValueError(
                f"{self.folder} has tokens of {len(self)} images and a step takes "
                f"{batch_size * world} ({batch_size} for each of {world}); lower the batch size or "
                "give more images"
            )
        return self._batches(Order(len(self), seed, batch_size, rank, world, start))

    def _batches(self, order: Order) -> Iterator[TokenBatch]:
        for keys in order:
            index = torch.tensor([image for _, image in keys])
            drawn = (variants_of(len(self), self.variants, order.seed, e)[i] for e, i in keys)
            ids, labels = self.rows(index, torch.tensor([int(variant) for variant in drawn]))
            yield TokenBatch(ids, labels, index, keys[0][0])

    def check(self, tokenizer: ImageTokenizer) -> None:
        """Raises ValueError unless ``tokenizer`` made these tokens."""
        check_identity(self.tokenizer, tokenizer)
        size = (tokenizer.slots.num_slots, tokenizer.config.vocab_size)
        if size != (self.num_slots, self.vocab_size):
            raise ValueError(
                f"{self.folder} says {self.num_slots} slots and a vocabulary of {self.vocab_size}, "
                f"its tokenizer has {size[0]} and {size[1]}; make the tokens again by arimage "
                "tokens"
            )

    def check_classes(self, num_classes: int | None = None) -> None:
        """See the function; ``num_classes`` of the model, those of the tokens by default."""
        check_classes(self.labels, num_classes or self.num_classes, self.class_names)

    def load_tokenizer(self) -> ImageTokenizer:
        """The tokenizer that is in the folder.

        Raises:
            FileNotFoundError, ValueError: none, a broken one, or not the one of the tokens.
        """
        tokenizer = load_part(self.folder, TOKENIZER, TOKENIZERS, torch.float32)
        self.check(tokenizer)
        return tokenizer

    def describe(self) -> dict[str, Any]:
        """Everything but the tokens, for the record of a run."""
        return {
            "dataset": self.dataset,
            "name": self.folder.name,
            "identity": self.identity,
            "images": len(self),
            "variants": self.variants,
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "tokenizer": self.tokenizer,
            "augmentation": self.augmentation,
        }


@dataclass(frozen=True, eq=False)
class Shard:
    """One open file: ids that are read by row, and labels (n,) of its ``count`` images."""

    ids: Any
    labels: np.ndarray
    count: int

    @classmethod
    def open(cls, path: Path, entry: dict[str, Any]) -> "Shard":
        """Maps a file.

        Raises:
            ValueError: it is gone, torn, or not the file that the index means.
        """
        try:
            opened = safe_open(path, "np")
            sha256 = json.loads(opened.metadata()["arimage"]).get("sha256", entry["sha256"])
            ids, labels = opened.get_slice("ids"), opened.get_tensor(entry["labels"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is missing or cannot be read ({error}); {AGAIN}") from error
        found = (sha256, len(labels), ids.get_shape()[0])
        if found != (entry["sha256"], entry["images"], entry["images"]):
            raise ValueError(f"{path} is not the file that {INDEX} means; {AGAIN}")
        return cls(ids, labels.astype(np.int64), len(labels))


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def variants_of(count: int, variants: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """Which variant of each image an epoch has: uniform, named by seed, epoch and image."""
    drawn = random_stream(seed, epoch, 0, VARIANT).random(count)
    return (drawn * variants).astype(np.int16)


def read_index(folder: Path) -> dict[str, Any]:
    """What a folder says of its tokens; one made of a tokens.safetensors where that is all.

    Raises:
        FileNotFoundError: no tokens. ValueError: not complete, or of another form.
    """
    if (folder / INDEX).is_file():
        about = read_json(folder / INDEX)
        if about.get("format") != FORMAT:
            raise ValueError(
                f"{folder / INDEX} was not made by arimage tokens; make it with that command"
            )
        return about
    if any(folder.glob("shard-*.safetensors")):
        raise ValueError(f"the tokens in {folder} are not complete; {AGAIN}")
    if not (folder / TOKENS).is_file():
        raise FileNotFoundError(
            f"no {INDEX} and no {TOKENS} in {folder}; give a folder made by arimage tokens"
        )
    return _index_of_one(folder)


def _index_of_one(folder: Path) -> dict[str, Any]:
    path = folder / TOKENS
    try:
        with safe_open(path, "np") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT_OF_ONE:
                raise ValueError(
                    f"{path} was not made by arimage tokens; make it with that command"
                )
            about = json.loads(metadata["arimage"])
            num_slots = opened.get_slice("ids").get_shape()[1]
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}); make the tokens again") from error
    config = read_json(folder / TOKENIZER / "config.json")
    entry = {"file": TOKENS, "images": about["images"], "labels": "class_labels"}
    entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    more = {"variants": 1, "num_slots": num_slots, "vocab_size": config["vocab_size"]}
    return {**about, **more, "skipped": [], "shards": [entry]}


def check_identity(made_by: str, tokenizer: ImageTokenizer) -> None:
    """Raises ValueError unless tokens that were ``made_by`` an identity are ``tokenizer``'s."""
    theirs = identity(tokenizer)
    if theirs != made_by:
        raise ValueError(
            f"the tokens were made by the tokenizer {made_by[:12]} and the model has "
            f"{theirs[:12]}; make them again with that model: arimage tokens --tokenizer MODEL"
        )


def check_classes(
    labels: Int[np.ndarray, " n"], num_classes: int, names: list[str] | None = None
) -> None:
    """Whether a model with ``num_classes`` can be trained on these labels.

    Raises:
        ValueError: a label that is out of range, or a class without an image.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"got class labels from {labels.min()} to {labels.max()} for {num_classes} classes; "
            f"expected 0 to {num_classes - 1}: train a model with more classes, or other tokens"
        )
    empty = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if len(empty):
        shown = [names[i] if names and i < len(names) else str(i) for i in empty[:3].tolist()]
        raise ValueError(
            f"got {num_classes} classes and images of {num_classes - len(empty)} of them, none of "
            f"{', '.join(shown)}{', ...' * (len(empty) > 3)}; number the classes that there are "
            "from 0 on, or add images of the others"
        )
