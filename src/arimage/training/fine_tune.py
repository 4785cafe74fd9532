"""Fine-tunes a generator's transformer on other classes; the tokenizer stays as it is."""

import torch

from arimage.ar.base import Backbone
from arimage.generator import ImageGenerator, make_order
from arimage.training.ar_trainer import train_transformer
from arimage.training.common import History, training_device
from arimage.training.tokens import TokenSet
from arimage.training.transformer_recipe import TransformerRecipe


def fine_tune(
    generator: ImageGenerator, tokens: TokenSet, recipe: TransformerRecipe
) -> tuple[ImageGenerator, History]:
    """A new generator for the classes of ``tokens``; the given one stays as it was.

    Everything starts from the given weights but the rows of the classes; the row of "no class" is
    kept. Training is in float32.

    Raises:
        ValueError: tokens of another tokenizer.
    """
    tokens.check(generator.tokenizer)
    device = training_device()
    tokenizer = generator.tokenizer.to(device)
    transformer = with_classes(generator.transformer, tokens.num_classes, recipe.seed).to(device)
    order = make_order(tokenizer, transformer)
    transformer, history = train_transformer(
        transformer, order, tokens.ids, tokens.class_labels, recipe
    )
    tuned = ImageGenerator(tokenizer, transformer, generator.settings, tokens.class_names)
    return tuned, history


def with_classes(
    transformer: Backbone, num_classes: int, seed: int, dropout: float | None = None
) -> Backbone:
    """A float32 copy for ``num_classes`` new classes.

    The class embedding is initialised anew but for its last row, the null class.

    Args:
        seed: of the new rows.
        dropout: of the copy; None keeps it.
    """
    config = transformer.config
    fields = {name: getattr(config, name) for name in config.own_fields()}
    if dropout is not None:
        fields["dropout"] = dropout
    torch.manual_seed(seed)
    copy = type(transformer)(type(config)(**{**fields, "num_classes": num_classes}))
    weights = dict(transformer.state_dict())
    rows = copy.state_dict()["class_embedding.weight"].clone()
    rows[-1] = weights["class_embedding.weight"][-1]
    copy.load_state_dict({**weights, "class_embedding.weight": rows})
    return copy
