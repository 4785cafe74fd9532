"""Named recipes for transformers. ``dataclasses.replace`` changes any field."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from arimage.registry import unknown_name
from arimage.training.common import Recipe
from arimage.training.schedules import FlatThenLinear

DROP_PATH_PER_LAYER = 0.1 / 24  # 0.1 * depth / 24; FoundationVision/VAR@78b9539 models/__init__.py
# Names of VAR's decay-free parameters in ours: start, pos_1LC, lvl_embed, ada_gss, scale_mul. Its
# list names no class embedding, which decays (train.py and utils/lr_control.py of the same commit).
UNDECAYED = ("start", "position_embedding", "scale_embedding", "modulation", "log_scale")


@dataclass(frozen=True, kw_only=True)
class TransformerRecipe(Recipe):
    """A recipe with what transformers alone have.

    Attributes:
        label_dropout: share of labels replaced by the null class, which so learns the
            unconditional model.
        drop_path: share of residual branches dropped per image in the last block, divided by the
            depth (it grows linearly from none in the first block; arXiv 1603.09382).
        gate_init: factor of the adaLN gates' initialisation where the family has gates; None for
            the family's own.
    """

    label_dropout: float = 0.1  # VAR and LlamaGen
    drop_path: float = 0.0
    gate_init: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("label_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"got {name} {getattr(self, name)}; expected 0 to below 1")


def _var(rate: float, final: float, decay: float, gates: float) -> TransformerRecipe:
    """A row of VAR's README: tblr, wpe, twde, alng."""
    return TransformerRecipe(
        steps=2000,
        learning_rate=rate,
        rate_batch=256,  # lr = tblr * batch / 256, utils/arg_util.py
        schedule=FlatThenLinear(final=final),
        weight_decay=0.05,
        final_weight_decay=decay,
        undecayed=UNDECAYED,
        gradient_clip=2.0,
        drop_path=DROP_PATH_PER_LAYER,
        gate_init=gates,
    )


# Published batches are 768 (d30: 1024) and epochs 200 (d16), 250 (d20), 350 (d24, d30, d36); steps
# and batch are the caller's here, and the rate follows the batch.
RECIPES: dict[str, TransformerRecipe] = {
    # found on digits; docs/log.md
    "small": TransformerRecipe(steps=2000, learning_rate=2e-3, ema_decay=0.99),
    # FoundationVision/VAR@78b9539 README.md; d16 and d20
    "var": _var(rate=1e-4, final=0.1, decay=0.05, gates=1e-3),
    "var-d24": _var(rate=8e-5, final=0.01, decay=0.05, gates=1e-4),
    "var-d30": _var(rate=8e-5, final=0.01, decay=0.08, gates=1e-5),
    "var-d36": _var(rate=8e-5, final=0.01, decay=0.08, gates=5e-6),
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
