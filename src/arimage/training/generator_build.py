"""From a recipe to what is trained: a new transformer, or a published one for other classes."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from arimage.ar.base import Backbone
from arimage.ar.registry import MODELS
from arimage.generator import ImageGenerator, make_order
from arimage.registry import unknown_name
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.fine_tune import with_classes
from arimage.training.generator_recipe import GeneratorRecipe
from arimage.training.generator_task import GeneratorTask
from arimage.training.generator_trainer import initialize_as
from arimage.training.lora import add_adapters
from arimage.training.small import check_order, default_order

FOLLOWING = ("vocab_size", "num_classes", "scales", "grid", "code_dim")


def new_transformer(
    fields: dict[str, Any], tokenizer: ImageTokenizer, num_classes: int, seed: int
) -> Backbone:
    """An untrained transformer from a recipe's ``model``; the rest follows from the tokenizer.

    Raises:
        KeyError: an unknown family or field. ValueError: no family, fields that do not fit, an
            order that the tokenizer cannot serve.
    """
    values = dict(fields)
    family = values.pop("family", None)
    if family is None:
        raise ValueError(
            "the recipe says nothing of a new transformer; add model: {family: var, ...}, or "
            "fine-tune a generator by --from"
        )
    known = {name for name in MODELS if not MODELS[name].takes_text}
    if family not in known:
        raise KeyError(unknown_name("transformer", str(family), known))
    config = MODELS[family].config_class
    for name in values:
        if name in FOLLOWING:
            raise ValueError(
                f"got model.{name}, which follows from the tokenizer and the data; leave it out"
            )
        if name not in config.own_fields():
            raise KeyError(unknown_name("model field", name, config.own_fields()))
    values["order"] = values.get("order") or default_order(family)
    check_order(values["order"], tokenizer, family)
    values |= {"vocab_size": tokenizer.config.vocab_size, "num_classes": num_classes}
    grids = tokenizer.slots.grids
    if "scales" in config.own_fields():
        values |= {"scales": [h for h, _ in grids], "code_dim": tokenizer.config.code_dim}
    else:
        values["grid"] = list(grids[-1])
    torch.manual_seed(seed)
    return MODELS[family](config(**values))


def started_generator(start: str, variant: str | None) -> ImageGenerator:
    """The generator that a fine-tuning starts from, in float32.

    Raises:
        ValueError, FileNotFoundError: as ``ImageGenerator.from_pretrained``. ValueError: a model of
            text.
    """
    given = {} if Path(start).exists() else {"variant": variant}
    generator = ImageGenerator.from_pretrained(start, dtype=torch.float32, **given)
    if generator.transformer.takes_text:
        raise ValueError(f"got {start}, a model of text; give one of classes")
    return generator


def build_transformer(
    recipe: GeneratorRecipe,
    tokenizer: ImageTokenizer,
    num_classes: int,
    start: ImageGenerator | None,
) -> Backbone:
    """What is trained: new, or ``start``'s for other classes, perhaps with adapters.

    The recipe's ``model.dropout`` is that of either; without one, ``start`` keeps its own.

    Raises:
        KeyError, ValueError: settings that do not fit. ModuleNotFoundError: adapters without peft.
    """
    if start is None:
        if recipe.lora is not None:
            raise ValueError("got lora for a new transformer; give a trained one by --from")
        transformer = new_transformer(recipe.model, tokenizer, num_classes, recipe.seed)
        initialize_as(transformer, recipe.training())
    else:
        dropout = read_dropout(recipe.model)
        transformer = with_classes(start.transformer, num_classes, recipe.seed, dropout)
    if recipe.lora is not None:
        torch.manual_seed(recipe.seed)
        add_adapters(transformer, recipe.lora)
    for block in transformer.blocks:
        if recipe.gradient_checkpointing:
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        if recipe.compile:
            block.compile()
    return transformer


def read_dropout(fields: dict[str, Any]) -> float | None:
    """Of a recipe's ``model``; None where it says none.

    Raises:
        ValueError: no number from 0 to below 1.
    """
    dropout = fields.get("dropout")
    if dropout is None:
        return None
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise ValueError(f"got model.dropout {dropout!r}; expected a number from 0 to below 1")
    return float(dropout)


def build_generator_task(
    recipe: GeneratorRecipe, transformer: Backbone, tokenizer: ImageTokenizer
) -> GeneratorTask:
    """The task, where both models live."""
    family = transformer.config.model_type.removeprefix("arimage_")
    order = make_order(tokenizer, transformer)
    return GeneratorTask(transformer, order, recipe.training(family))
