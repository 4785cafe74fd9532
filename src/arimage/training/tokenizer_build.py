"""From a recipe to what is trained: the tokenizer, the terms of its loss, its critic."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from arimage.registry import unknown_name
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.registry import TOKENIZERS
from arimage.tokenizers.requantize import with_quantizer
from arimage.training.losses.registry import CRITICS, LOSSES
from arimage.training.objective import Adversary, Objective, Term
from arimage.training.small import scales_to
from arimage.training.tokenizer_recipe import AdversarialFields, OptimizerFields, TokenizerRecipe
from arimage.training.tokenizer_task import Rates, TokenizerTask


def new_tokenizer(fields: dict[str, Any], seed: int) -> ImageTokenizer:
    """An untrained tokenizer from a recipe's ``tokenizer``.

    The downsample factor follows from the multipliers; VAR's scales from the side of the latent map
    where those given do not end with it.

    Raises:
        KeyError: an unknown family or field. ValueError: no family, fields that do not fit.
    """
    values = dict(fields)
    family = values.pop("family", None)
    if family is None:
        raise ValueError(
            "the recipe says nothing of a new tokenizer; add tokenizer: {family: vq, ...}, or "
            "fine-tune one by arimage finetune tokenizer --from"
        )
    if family not in TOKENIZERS:
        raise KeyError(unknown_name("tokenizer", str(family), TOKENIZERS))
    cls = TOKENIZERS[family]
    unknown = [name for name in values if name not in cls.config_class.own_fields()]
    if unknown:
        raise KeyError(unknown_name("tokenizer field", unknown[0], cls.config_class.own_fields()))
    if "channel_multipliers" in values:
        values["downsample_factor"] = 2 ** (len(values["channel_multipliers"]) - 1)
    if family == "multiscale_vq" and "image_size" in values and "downsample_factor" in values:
        side = values["image_size"] // values["downsample_factor"]
        if values.get("scales", [0])[-1] != side and side:
            values["scales"] = scales_to(side)
    torch.manual_seed(seed)
    return cls(cls.config_class(**values))


def started_tokenizer(
    start: str, variant: str | None, quantizer: str | None, fields: dict[str, Any]
) -> ImageTokenizer:
    """The published tokenizer that a fine-tuning starts from, in float32.

    Args:
        start: preset, folder or hub id.
        quantizer: another quantizer, which begins with the codes of the one there is.
        fields: a recipe's ``tokenizer``, whose ``levels`` and ``depth`` such a quantizer takes.

    Raises:
        ValueError, FileNotFoundError, KeyError: as ``ImageTokenizer.from_pretrained`` and
            ``with_quantizer``.
    """
    given = {} if Path(start).exists() else {"variant": variant}
    tokenizer = ImageTokenizer.from_pretrained(start, dtype=torch.float32, **given)
    if quantizer is None:
        return tokenizer
    chosen = {name: fields[name] for name in ("levels", "depth") if name in fields}
    return with_quantizer(tokenizer, quantizer, **chosen)


def build_task(
    tokenizer: ImageTokenizer, recipe: TokenizerRecipe, device: torch.device
) -> TokenizerTask:
    """All that a step needs, on the device; critic and projections are drawn from the seed.

    Raises:
        KeyError, ValueError: settings that do not fit. FileNotFoundError: weights of a frozen
            network that are nowhere.
    """
    torch.manual_seed(recipe.seed)
    terms = {}
    for name, given in recipe.losses.items():
        settings = {key: value for key, value in given.items() if key != "weight"}
        if given["weight"]:
            terms[name] = Term(
                float(given["weight"]), _made(LOSSES[name], f"loss {name!r}", settings)
            )
    adversary = None if recipe.adversarial is None else _adversary(recipe, recipe.adversarial)
    objective = Objective(tokenizer, terms, recipe.perturbation, adversary).to(device)
    if adversary is not None:
        adversary.critic.to(device)
    if recipe.gradient_checkpointing:
        tokenizer.gradient_checkpointing_enable()
    return TokenizerTask(objective, adversary, _rates(recipe), recipe.parts)


def _adversary(recipe: TokenizerRecipe, fields: AdversarialFields) -> Adversary | None:
    start = fields.start_step(recipe.steps)
    if start >= recipe.steps:  # needs no weights for what it never does
        return None
    critic = _made(CRITICS[fields.critic], f"critic {fields.critic!r}", fields.settings)
    return Adversary(critic, fields.loss, fields.weight, fields.adaptive, start, fields.lecam)


def _made(cls: Any, what: str, settings: dict[str, Any]) -> nn.Module:
    try:
        return cls(**settings)
    except TypeError as error:
        raise ValueError(f"the {what} takes no such setting ({error}); got {settings}") from error


def _rates(recipe: TokenizerRecipe) -> Rates:
    """The critic's optimizer is the tokenizer's where its own fields are not given."""
    optimizer, fields = recipe.optimizer, recipe.adversarial
    given = {
        name: value
        for name in ("learning_rate", "betas", "weight_decay")
        if (value := getattr(fields, name, None)) is not None
    }
    of_tokenizer = {name: getattr(optimizer, name) for name in optimizer.__dataclass_fields__}
    critic = OptimizerFields(**{**of_tokenizer, **given})
    sizes = (recipe.steps, recipe.batch_size, recipe.seed)
    return Rates(optimizer.recipe(*sizes), critic.recipe(*sizes))
