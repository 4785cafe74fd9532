"""Tokens of a data set in memory; ``token_data`` reads those of larger ones."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from arimage.files import new_files
from arimage.generator import TOKENIZER
from arimage.pretrained import identity
from arimage.shapes import Int, UInt8
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.ar_trainer import check_labels
from arimage.training.augment import JITTER, with_jittered_copies
from arimage.training.token_data import FORMAT_OF_ONE, TOKENS, TokenData, check_identity
from arimage.training.tokenizer_trainer import encode_all


@dataclass(frozen=True)
class TokenSet:
    """What a transformer is trained on.

    Attributes:
        ids: tokens of the images, int64.
        class_labels: their classes.
        num_classes: labels are below it.
        tokenizer: ``identity`` of the tokenizer.
        class_names: one per class, or None.
        augmentation: how copies were made, and how many.
    """

    ids: Int[Tensor, "n slots"]
    class_labels: Int[np.ndarray, " n"]
    num_classes: int
    tokenizer: str
    class_names: list[str] | None = None
    augmentation: dict[str, Any] = field(default_factory=dict)

    def check(self, tokenizer: ImageTokenizer) -> None:
        """Raises ValueError unless ``tokenizer`` made these tokens."""
        check_identity(self.tokenizer, tokenizer)
        tokenizer.check_ids(self.ids)
        check_labels(torch.from_numpy(self.class_labels), len(self.ids), self.num_classes)

    def describe(self) -> dict[str, Any]:
        """Everything but the tokens, for JSON."""
        return {
            "images": len(self.ids),
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "tokenizer": self.tokenizer,
            "augmentation": self.augmentation,
        }


def make_tokens(
    tokenizer: ImageTokenizer,
    pixels: UInt8[np.ndarray, "n h w 3"],
    class_labels: Int[np.ndarray, " n"],
    *,
    num_classes: int | None = None,
    class_names: list[str] | None = None,
    jittered_copies: int = 0,
    seed: int = 0,
) -> TokenSet:
    """Encodes images, and ``jittered_copies`` of each, slightly turned, scaled and shifted.

    Args:
        num_classes: the number of names, or the largest label plus one, by default.
        seed: of the jitter.

    Raises:
        ValueError: images or labels that do not fit.
    """
    if num_classes is None:
        known = class_names is not None
        num_classes = len(class_names) if known else int(class_labels.max()) + 1
    check_labels(torch.from_numpy(np.asarray(class_labels)), len(pixels), num_classes)
    pixels, class_labels = with_jittered_copies(pixels, class_labels, JITTER, jittered_copies, seed)
    augmentation = {"jittered_copies": jittered_copies}
    if jittered_copies:
        augmentation |= {"jitter": asdict(JITTER), "seed": seed}
    ids = encode_all(tokenizer, pixels)
    labels = np.asarray(class_labels, dtype=np.int64)
    return TokenSet(ids, labels, num_classes, identity(tokenizer), class_names, augmentation)


def save_tokens(folder: str | Path, tokens: TokenSet, tokenizer: ImageTokenizer) -> None:
    """Writes tokens.safetensors and image_tokenizer/; each file appears whole.

    Raises:
        ValueError: tokens of another tokenizer.
    """
    tokens.check(tokenizer)
    small = tokenizer.config.vocab_size <= torch.iinfo(torch.int16).max + 1
    tensors = {
        "ids": tokens.ids.to(torch.int16 if small else torch.int32).contiguous(),
        "class_labels": torch.from_numpy(tokens.class_labels).to(torch.int32),
    }
    metadata = {"format": FORMAT_OF_ONE, "arimage": json.dumps(tokens.describe())}
    with new_files(folder) as temporary:
        save_file(tensors, temporary / TOKENS, metadata=metadata)
        tokenizer.save_pretrained(temporary / TOKENIZER)


def load_tokens(folder: str | Path) -> tuple[TokenSet, ImageTokenizer]:
    """Reads all of a folder made by ``save_tokens`` or ``arimage tokens``, and its tokenizer.

    Variants of an image become rows of their own, one after the other.

    Raises:
        FileNotFoundError, ValueError: no such folder, a broken one, or a tokenizer that is not the
            one that made the tokens.
    """
    data = TokenData(folder)
    images = torch.arange(len(data)).repeat_interleave(data.variants)
    ids, labels = data.rows(images, torch.arange(data.variants).repeat(len(data)))
    tokens = TokenSet(
        ids, labels.numpy(), data.num_classes, data.tokenizer, data.class_names, data.augmentation
    )
    return tokens, data.load_tokenizer()
