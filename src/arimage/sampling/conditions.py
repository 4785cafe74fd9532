"""What images are asked for: class labels or text, a row per image, read and checked once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from arimage.ar.base import Backbone
from arimage.sampling.labels import read_labels
from arimage.text import TextEncoder, TextFeatures

Labels = Sequence[int | str] | int | str | None
Prompts = Sequence[str] | str | TextFeatures | None
Rows = list[int] | list[str] | TextFeatures


class Conditions:
    """Reads what users ask of a transformer, and makes the rows that it prepares.

    Args:
        transformer: what reads them.
        text_encoder: folder or hub id, in place of the one in the transformer's config.

    Raises:
        ValueError: an encoder for a model of classes.
    """

    def __init__(self, transformer: Backbone, text_encoder: str | Path | None = None) -> None:
        self.transformer, self.encoder = transformer, None
        config: Any = transformer.config
        if text_encoder is not None and not transformer.takes_text:
            raise ValueError(
                f"got text_encoder {text_encoder}; this model draws classes and reads no text: "
                "leave it out"
            )
        if transformer.takes_text:
            self.encoder = TextEncoder(text_encoder or config.text_encoder, config.text_tokens)

    def read(
        self, class_labels: Labels, prompts: Prompts, names: Sequence[str] | None
    ) -> Rows | None:
        """The rows that were asked for; None where labels are to be drawn.

        ``names``: of the classes.

        Raises:
            ValueError: labels for a model of text or the reverse, none at all, a label out of
                range, features or prompts that do not fit. KeyError: an unknown class name.
            FileNotFoundError: prompts, and the text encoder is not there.
        """
        if not self.transformer.takes_text:
            if prompts is not None:
                raise ValueError(
                    f"got prompts; this model draws one of {self.transformer.config.num_classes} "
                    "classes: pass class_labels"
                )
            return None if class_labels is None else self.labels(class_labels, names)
        if class_labels is not None:
            raise ValueError("got class_labels; this model draws from text: pass prompts")
        if isinstance(prompts, TextFeatures):
            return self.transformer.read(prompts)
        texts = [prompts] if isinstance(prompts, str) else list(prompts or ())
        if not texts:
            raise ValueError(
                "got no prompt; this model draws from text: pass prompts, for example "
                "prompts=['a corgi on a beach']"
            )
        self.encoder.check(texts)
        return texts

    def labels(
        self, class_labels: Sequence[int | str] | int | str, names: Sequence[str] | None
    ) -> list[int]:
        """Class labels as integers; ``read_labels`` has the errors."""
        return read_labels(class_labels, self.transformer.config.num_classes, names or [])

    def nothing(self) -> Rows:
        """One row that asks for nothing: no class, no prompt."""
        row = self.transformer.nothing()
        return row if isinstance(row, TextFeatures) else row.tolist()

    def prepared(self, rows: Rows) -> Any:
        """Rows as the transformer's ``prepare`` takes them."""
        device, dtype = self.transformer.device, self.transformer.dtype
        if not self.transformer.takes_text:
            return torch.tensor(rows, device=device)
        if isinstance(rows, TextFeatures):
            return rows.to(device, dtype)
        return self.transformer.read(self.encoder.encode(rows, device, dtype))


def rows_for(rows: Rows, count: int) -> Rows:
    """One row per image: as given, or the one given for all.

    Raises:
        ValueError: another number of rows than images.
    """
    if len(rows) not in (1, count):
        raise ValueError(
            f"got {len(rows)} {kind(rows)} for {count} images; pass one per image or one for all"
        )
    if len(rows) == count:
        return rows
    if isinstance(rows, TextFeatures):
        return TextFeatures(rows.features.expand(count, -1, -1), rows.mask.expand(count, -1))
    return rows * count


def kind(rows: Rows | None) -> str:
    """What rows are called in messages."""
    texts = isinstance(rows, TextFeatures) or (rows and isinstance(rows[0], str))
    return "prompts" if texts else "class labels"


def asked(rows: Rows) -> tuple[list[int], list[str]]:
    """Rows as labels and as prompts, one of which is empty; features are neither."""
    if isinstance(rows, TextFeatures):
        return [], []
    return ([], list(rows)) if kind(rows) == "prompts" else (list(rows), [])
