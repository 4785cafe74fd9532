"""Tokenizer, tokens, transformer, generator: the whole way from images to a generator."""

import dataclasses
from typing import Any

import numpy as np
import torch

from arimage.ar.base import Backbone
from arimage.ar.var import VARModel, initialize
from arimage.generator import ImageGenerator, make_order
from arimage.sampling.settings import Settings
from arimage.shapes import Int, UInt8
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.ar_trainer import train_transformer
from arimage.training.augment import JITTER, with_jittered_copies
from arimage.training.common import History, Recipe, training_device
from arimage.training.fit import Watch
from arimage.training.recipes import RECIPES
from arimage.training.small import (
    check_order,
    default_order,
    small_tokenizer,
    small_transformer,
)
from arimage.training.tokenizer_trainer import train_tokenizer
from arimage.training.tokens import TokenSet, make_tokens
from arimage.training.transformer_recipe import TransformerRecipe

TOKENIZER_RECIPE = Recipe(steps=1000, learning_rate=3e-3)  # found on digits; docs/log.md


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
    recipe: TransformerRecipe = RECIPES["small"],
    seed: int = 0,
    progress: bool = True,
) -> tuple[ImageGenerator, list[History]]:
    """Trains small models on images in memory.

    Args:
        pixels: square images, a multiple of 8 pixels a side.
        class_labels: 0..num_classes-1, one per image.
        order: next_scale, raster, masked or random.
        tokenizer_steps, transformer_steps: optimizer steps.
        jittered_copies: slightly turned, scaled and shifted versions of each image to add.
        num_classes: the number of names, or the largest label plus one, by default.
        settings: sampling defaults of the result.
        recipe: of the transformer; its steps, seed and progress are replaced.
        seed: of initialisation, batches and dropout.

    Returns:
        The generator and both loss records.

    Raises:
        KeyError: an unknown order. ValueError: images or labels that do not fit.
    """
    check_order(order, family=recipe.family)
    given = {"seed": seed, "progress": progress}
    first = dataclasses.replace(TOKENIZER_RECIPE, steps=tokenizer_steps, **given)
    second = dataclasses.replace(recipe, steps=transformer_steps, **given)
    classes = {"num_classes": num_classes, "class_names": class_names}
    copies = {"jittered_copies": jittered_copies, "seed": seed}
    tokenizer, tokens, learned = train_small_tokenizer(
        pixels, class_labels, order, first, **classes, **copies
    )
    generator, history = train_on_tokens(tokenizer, tokens, second, order, settings)
    return generator, [learned, history]


def train_small_tokenizer(
    pixels: UInt8[np.ndarray, "n h w 3"],
    class_labels: Int[np.ndarray, " n"],
    order: str,
    recipe: Recipe,
    *,
    jittered_copies: int = 0,
    seed: int = 0,
    **classes: Any,
) -> tuple[ImageTokenizer, TokenSet, History]:
    """A new tokenizer of the kind that ``order`` needs, and its tokens of the same images.

    Args:
        jittered_copies, seed, classes: as of ``make_tokens``.
    """
    more, _ = with_jittered_copies(pixels, class_labels, JITTER, jittered_copies, seed)
    tokenizer = small_tokenizer(order, pixels.shape[1], recipe.seed).to(training_device())
    tokenizer, history = train_tokenizer(tokenizer, more, recipe)
    copies = {"jittered_copies": jittered_copies, "seed": seed}
    return tokenizer, make_tokens(tokenizer, pixels, class_labels, **copies, **classes), history


def train_on_tokens(
    tokenizer: ImageTokenizer,
    tokens: TokenSet,
    recipe: TransformerRecipe,
    order: str | None = None,
    settings: Settings | None = None,
    watch: Watch | None = None,
) -> tuple[ImageGenerator, History]:
    """Trains a new small transformer on tokens; the tokenizer stays as it is.

    Args:
        order: by default the first of the recipe's family, or next_scale for a tokenizer with
            several token maps and raster for others.
        settings: sampling defaults of the result.
        watch: as of ``fit``.

    Raises:
        KeyError: an unknown order. ValueError: tokens of another tokenizer, an order that does not
            fit it.
    """
    tokens.check(tokenizer)
    order = order or default_order(recipe.family, tokenizer)
    check_order(order, tokenizer, recipe.family)
    device = training_device()
    sizes = (tokens.num_classes, recipe.seed, recipe.family)
    transformer = small_transformer(order, tokenizer.to(device), *sizes)
    initialize_as(transformer, recipe)
    transformer.to(device)
    bound = make_order(tokenizer, transformer)
    transformer, history = train_transformer(
        transformer, bound, tokens.ids, tokens.class_labels, recipe, watch
    )
    return ImageGenerator(tokenizer, transformer, settings, tokens.class_names), history


def initialize_as(transformer: Backbone, recipe: TransformerRecipe) -> None:
    """Draws the weights again where the recipe says how and the family has gates."""
    if recipe.gate_init is not None and isinstance(transformer, VARModel):
        torch.manual_seed(recipe.seed)
        initialize(transformer, recipe.gate_init)
