"""What a generator returns."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arimage.images import to_pil

OUTPUT_TYPES = ("pil", "pixels")


@dataclass(frozen=True)
class GeneratorOutput:
    """images: PIL images (or uint8 (n, H, W, 3)); ids (n, num_slots); what made them: class labels
    or prompts, and seeds. Both are empty for images made from features.
    """

    images: Any
    ids: Tensor
    class_labels: list[int]
    seeds: list[int]
    prompts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """What a generator was loaded by: a name (preset, folder, hub id, file), variant, revision."""

    name: str = "a model of this process"
    variant: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Preview:
    """What is known after step ``step`` of ``num_steps``: PIL images and ids (-1 = open)."""

    step: int
    num_steps: int
    images: list[Image.Image]
    ids: Tensor


def check_output_type(output_type: str) -> None:
    """Raises ValueError unless it is "pil" or "pixels"."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"got output_type {output_type!r}; expected 'pil' or 'pixels'")


def gathered(batches: Iterable[tuple[np.ndarray, Tensor]]) -> tuple[np.ndarray, Tensor]:
    """(pixels, ids) of all batches together."""
    pixels, ids = zip(*batches, strict=True)
    return np.concatenate(pixels), torch.cat(ids)


def packed(pixels: np.ndarray, output_type: str) -> Any:
    """Pixels (n, H, W, 3) as they are, or as a list of PIL images."""
    return to_pil(pixels) if output_type == "pil" else pixels
