"""Named recipes for transformers of any size. ``dataclasses.replace`` changes any field.

The published ones take their figures from the files in ``configs/generators``, where their origin
is.
"""

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from arimage.registry import unknown_name
from arimage.training.common import Recipe
from arimage.training.generator_recipe import read_generator_recipe
from arimage.training.transformer_recipe import TransformerRecipe

STEPS, BATCH_SIZE = 2000, 64  # those of small runs; the published ones are in the files


def _published(name: str, family: str | None) -> TransformerRecipe:
    """The figures of a file, for steps, batch and sizes of one's own."""
    recipe = read_generator_recipe(name).training()
    return dataclasses.replace(recipe, steps=STEPS, batch_size=BATCH_SIZE, family=family)


RECIPES: dict[str, TransformerRecipe] = {
    # found on digits; docs/log.md
    "small": TransformerRecipe(steps=STEPS, learning_rate=2e-3, ema_decay=0.99),
    "var": _published("var-d16", family=None),
    "var-d24": _published("var-d24", family=None),
    "var-d30": _published("var-d30", family=None),
    "var-d36": _published("var-d36", family=None),
    "llamagen": _published("llamagen-B", family="llama"),
    "rar": _published("rar-B", family="rar"),
}


def find_recipe(name: str, changes: Sequence[str] = (), **fields: Any) -> TransformerRecipe:
    """The recipe of that name with ``fields`` and then ``changes`` ("batch_size=128") applied.

    Raises:
        KeyError: an unknown recipe or field, with the nearest known ones.
        ValueError: a value that is no number or out of range.
    """
    if name not in RECIPES:
        raise KeyError(unknown_name("recipe", name, RECIPES))
    recipe = RECIPES[name]
    known = {f.name: f.type for f in dataclasses.fields(recipe) if f.type in _NUMBERS}
    for change in changes:
        field, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"got {change!r}; write a field and its value: learning_rate=1e-4")
        if field not in known:
            raise KeyError(unknown_name("recipe field", field, known))
        fields[field] = _number(field, text, known[field])
    return dataclasses.replace(recipe, **fields)


_NUMBERS = (int, float, int | None, float | None)


def _number(field: str, text: str, kind: Any) -> float | int | None:
    if text == "none" and kind in (int | None, float | None):
        return None
    whole = kind in (int, int | None)
    try:
        return int(text) if whole else float(text)
    except ValueError as error:
        wanted = "a whole number" if whole else "a number"
        raise ValueError(f"got {field}={text}; expected {wanted}") from error


def describe(recipe: Recipe) -> dict[str, Any]:
    """Every setting of a recipe and the versions that run it, for recipe.json."""
    fields = dataclasses.asdict(recipe)
    fields["schedule"] = {"name": type(recipe.schedule).__name__, **fields["schedule"]}
    del fields["progress"]
    versions = {name: version(name) for name in ("arimage", "torch", "transformers", "accelerate")}
    return {"kind": type(recipe).__name__, **fields, "versions": versions}
