"""One training from the command line: what is read, what is trained, what is written."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arimage.files import new_files, write_json, write_text
from arimage.generator import ImageGenerator
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.ar_trainer import check_orders
from arimage.training.common import History
from arimage.training.data import load_folder
from arimage.training.fine_tune import fine_tune
from arimage.training.generator_trainer import (
    TOKENIZER_RECIPE,
    train_on_tokens,
    train_small_tokenizer,
)
from arimage.training.recipes import describe
from arimage.training.small import check_order, default_order, small_tokenizer
from arimage.training.token_data import check_classes
from arimage.training.token_encoder import encode_in_memory
from arimage.training.tokens import TokenSet, load_tokens
from arimage.training.transformer_recipe import TransformerRecipe
from arimage.training.variants import Augmentation

LOSSES, RECIPE = "losses.jsonl", "recipe.json"
IMAGE_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to train on and what to start from; None is "not said".

    Attributes:
        data: folder with a sub-folder of images per class.
        tokens: folder made by ``arimage tokens``, instead of ``data``.
        start: generator to fine-tune.
        order, image_size, tokenizer_steps: of new models.
        jittered_copies: of each image, to add.
    """

    data: Path | None = None
    tokens: Path | None = None
    start: str | None = None
    order: str | None = None
    image_size: int | None = None
    tokenizer_steps: int | None = None
    jittered_copies: int = 0

    def __post_init__(self) -> None:
        if (self.data is None) == (self.tokens is None):
            raise ValueError("give either --data, a folder of images, or --tokens, not both")
        if self.tokens is not None and self.jittered_copies:
            raise ValueError("jittered copies are made of images; give them to arimage tokens")
        frozen = "--tokens" if self.tokens is not None else "--from" if self.start else ""
        for name in ("image_size", "tokenizer_steps"):
            if frozen and getattr(self, name) is not None:
                raise ValueError(
                    f"got {name} {getattr(self, name)}, but with {frozen} the tokenizer stays as "
                    "it is: leave it out"
                )


def run_training(
    source: Source, out: str | Path, recipe: TransformerRecipe
) -> tuple[ImageGenerator, list[History]]:
    """Trains or fine-tunes; writes the generator, losses.jsonl and recipe.json into ``out``.

    Raises:
        ValueError, KeyError, OSError: input that does not fit; nothing is written.
    """
    with new_files(out):
        pass  # a folder that cannot be written is told before training
    if source.start is not None:
        generator, histories, about = _fine_tune(source, recipe)
    elif source.tokens is not None:
        tokens, tokenizer = _read_tokens(source.tokens)
        generator, history = train_on_tokens(tokenizer, tokens, recipe, source.order)
        histories, about = [history], {"data": tokens.describe()}
    else:
        generator, histories, about = _from_images(source, recipe)
    generator.save_pretrained(out, dtype=torch.float32)
    write_text(Path(out) / LOSSES, "".join(lines_of(histories)))
    record = {"transformer": describe(recipe), "order": generator.transformer.config.order, **about}
    write_json(Path(out) / RECIPE, record)
    return generator, histories


Trained = tuple[ImageGenerator, list[History], dict[str, Any]]


def _from_images(source: Source, recipe: TransformerRecipe) -> Trained:
    assert source.data is not None
    order = source.order or default_order(recipe.family)
    size = source.image_size or IMAGE_SIZE
    check_order(order, family=recipe.family)
    small_tokenizer(order, size, recipe.seed)  # a bad order or size is told before reading
    pixels, labels, names = load_folder(source.data, size, recipe.progress)
    steps = source.tokenizer_steps or TOKENIZER_RECIPE.steps
    given = {"steps": steps, "seed": recipe.seed, "progress": recipe.progress}
    first = dataclasses.replace(TOKENIZER_RECIPE, **given)
    copies = {"jittered_copies": source.jittered_copies, "seed": recipe.seed}
    tokenizer, tokens, learned = train_small_tokenizer(
        pixels, labels, order, first, class_names=names, **copies
    )
    generator, history = train_on_tokens(tokenizer, tokens, recipe, order)
    about = {"tokenizer": describe(first), "data": tokens.describe()}
    return generator, [learned, history], about


def _fine_tune(source: Source, recipe: TransformerRecipe) -> Trained:
    assert source.start is not None
    generator = ImageGenerator.from_pretrained(source.start, dtype=torch.float32)
    order = generator.transformer.config.order
    if source.order not in (None, order):
        raise ValueError(
            f"got order {source.order!r}, but {source.start} was trained in {order!r}; leave it out"
        )
    check_orders(recipe, generator.transformer)
    tokens = _tokens_for(generator, source, recipe)
    tuned, history = fine_tune(generator, tokens, recipe)
    name = Path(source.start).resolve().name if Path(source.start).is_dir() else source.start
    return tuned, [history], {"from": name, "data": tokens.describe()}


def _tokens_for(generator: ImageGenerator, source: Source, recipe: TransformerRecipe) -> TokenSet:
    if source.tokens is not None:
        return _read_tokens(source.tokens)[0]
    assert source.data is not None
    return tokens_of_folder(generator, source.data, source.jittered_copies, recipe.seed)


def _read_tokens(folder: Path) -> tuple[TokenSet, ImageTokenizer]:
    tokens, tokenizer = load_tokens(folder)
    check_classes(tokens.class_labels, tokens.num_classes, tokens.class_names)
    return tokens, tokenizer


def tokens_of_folder(
    generator: ImageGenerator, data: Path, jittered_copies: int, seed: int
) -> TokenSet:
    """Tokens of a data set, as ``arimage tokens`` makes them."""
    augmentation = Augmentation(jittered_copies=jittered_copies, seed=seed)
    return encode_in_memory(generator.tokenizer, data, augmentation)


def lines_of(histories: list[History]) -> list[str]:
    """One JSON line per step: the training, the step, its loss and its parts."""
    return [
        json.dumps(
            {"training": history.name, "step": i + 1, "loss": loss}
            | {name: curve[i] for name, curve in history.parts.items()}
        )
        + "\n"
        for history in histories
        for i, loss in enumerate(history.losses)
    ]
