"""Tokenizer, tokens, transformer, generator: the whole way from images to a saved folder."""

from pathlib import Path

import numpy as np
import torch

from arimage.generator import ImageGenerator, make_order
from arimage.sampling.settings import Settings
from arimage.shapes import Int, UInt8
from arimage.training.ar_trainer import train_transformer
from arimage.training.augment import Jitter, with_jittered_copies
from arimage.training.common import History, Recipe
from arimage.training.data import load_folder
from arimage.training.small import small_tokenizer, small_transformer
from arimage.training.tokenizer_trainer import encode_all, train_tokenizer

TOKENIZER_RATE, TRANSFORMER_RATE, EMA_DECAY = 3e-3, 2e-3, 0.99  # found on digits; docs/log.md
JITTER = Jitter(rotation=0.1, scale=0.05, shift=0.03)  # the same


def train_generator(
    pixels: UInt8[np.ndarray, "n h w 3"],
    class_labels: Int[np.ndarray, " n"],
    *,
    order: str,
    tokenizer_steps: int,
    transformer_steps: int,
    jittered_copies: int = 0,
    num_classes: int | None = None,
    settings: Settings | None = None,
    class_names: list[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[ImageGenerator, list[History]]:
    """Trains small models on images in memory.

    Args:
        pixels: square images, a multiple of 8 pixels a side.
        class_labels: 0..num_classes-1, one per image.
        order: next_scale, raster or masked.
        tokenizer_steps, transformer_steps: optimizer steps of 64 images.
        jittered_copies: slightly turned, scaled and shifted versions of each image to add.
        num_classes: the largest label plus one by default.
        settings: sampling defaults of the result.
        seed: of initialisation, batches and dropout.

    Returns:
        The generator and both loss records.

    Raises:
        KeyError: an unknown order. ValueError: images or labels that do not fit.
    """
    count = int(class_labels.max()) + 1 if num_classes is None else num_classes
    tokenizer = small_tokenizer(order, pixels.shape[1], seed)
    pixels, class_labels = with_jittered_copies(pixels, class_labels, JITTER, jittered_copies, seed)
    recipe = Recipe(
        steps=tokenizer_steps, learning_rate=TOKENIZER_RATE, seed=seed, progress=progress
    )
    tokenizer, first = train_tokenizer(tokenizer, pixels, recipe)
    transformer = small_transformer(order, tokenizer, count, seed)
    recipe = Recipe(
        steps=transformer_steps,
        learning_rate=TRANSFORMER_RATE,
        ema_decay=EMA_DECAY,
        seed=seed,
        progress=progress,
    )
    ids = encode_all(tokenizer, pixels)
    bound = make_order(tokenizer, transformer)
    transformer, second = train_transformer(transformer, bound, ids, class_labels, recipe)
    return ImageGenerator(tokenizer, transformer, settings, class_names), [first, second]


def train_on_folder(
    data: str | Path,
    out: str | Path,
    *,
    order: str = "next_scale",
    image_size: int = 32,
    tokenizer_steps: int = 1000,
    transformer_steps: int = 2000,
    jittered_copies: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> ImageGenerator:
    """As ``train_generator``, from a folder with one sub-folder per class; saves to ``out``."""
    small_tokenizer(order, image_size, seed)  # a bad order or size is told before reading
    pixels, labels, names = load_folder(data, image_size, progress)
    generator, _ = train_generator(
        pixels,
        labels,
        order=order,
        tokenizer_steps=tokenizer_steps,
        transformer_steps=transformer_steps,
        jittered_copies=jittered_copies,
        class_names=names,
        seed=seed,
        progress=progress,
    )
    generator.save_pretrained(out, dtype=torch.float32)
    return generator
