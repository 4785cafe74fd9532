"""Tokens of a data set: made once, kept in a folder with the tokenizer that made them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arimage.files import new_files
from arimage.generator import TOKENIZER, load_part
from arimage.pretrained import identity
from arimage.shapes import Int, UInt8
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.registry import TOKENIZERS
from arimage.training.ar_trainer import check_labels
from arimage.training.augment import JITTER, with_jittered_copies
from arimage.training.tokenizer_trainer import encode_all

TOKENS = "tokens.safetensors"
FORMAT = "arimage tokens 1"


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
        theirs = identity(tokenizer)
        if theirs != self.tokenizer:
            raise ValueError(
                f"the tokens were made by the tokenizer {self.tokenizer[:12]} and the model has "
                f"{theirs[:12]}; make them again with that model: arimage tokens --model MODEL"
            )
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
    metadata = {"format": FORMAT, "arimage": json.dumps(tokens.describe())}
    with new_files(folder) as temporary:
        save_file(tensors, temporary / TOKENS, metadata=metadata)
        tokenizer.save_pretrained(temporary / TOKENIZER)


def load_tokens(folder: str | Path) -> tuple[TokenSet, ImageTokenizer]:
    """Reads a folder made by ``save_tokens``.

    Raises:
        FileNotFoundError, ValueError: no such folder, a broken one, or a tokenizer that is not the
            one that made the tokens.
    """
    path = Path(folder) / TOKENS
    if not path.is_file():
        raise FileNotFoundError(f"no {TOKENS} in {folder}; give a folder made by arimage tokens")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(
                    f"{path} was not made by arimage tokens; make it with that command"
                )
            ids, labels = (opened.get_tensor(name).long() for name in ("ids", "class_labels"))
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}); make the tokens again") from error
    about = json.loads(metadata["arimage"])
    if about.pop("images") != len(ids):
        raise ValueError(f"{path} holds {len(ids)} images, not as many as it says; make it again")
    tokens = TokenSet(ids=ids, class_labels=labels.numpy(), **about)
    tokenizer = load_part(Path(folder), TOKENIZER, TOKENIZERS, torch.float32)
    tokens.check(tokenizer)
    return tokens, tokenizer
