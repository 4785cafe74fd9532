"""Named recipes for transformers. ``dataclasses.replace`` changes any field."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from arimage.registry import unknown_name
from arimage.training.common import Recipe
from arimage.training.schedules import Constant, Cosine, FlatThenLinear

DROP_PATH_PER_LAYER = 0.1 / 24  # 0.1 * depth / 24; FoundationVision/VAR@78b9539 models/__init__.py
# Names of VAR's decay-free parameters in ours: start, pos_1LC, lvl_embed, ada_gss, scale_mul. Its
# list names no class embedding, which decays (train.py and utils/lr_control.py of the same commit).
UNDECAYED = ("start", "position_embedding", "scale_embedding", "modulation", "log_scale")
# The same for RAR, whose rule is a name with "embed", "norm" or "ln", as in adaln_before_head:
# bytedance/1d-tokenizer@942a96f utils/train_utils.py create_optimizer.
RAR_UNDECAYED = (
    "class_embedding",
    "token_embedding",
    "position_embedding",
    "target_embedding",
    "step_embedding",
    "out_modulation",
)


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
        family: of a transformer that is made anew; None for what fits the order.
        anneal_start, anneal_end: shares of the training. Each image is taught in a random order
            of its own until the first, in the transformer's from the second on, and with a
            probability that falls linearly in between (RAR, arXiv 2411.00776). 0, 0 is never.
    """

    label_dropout: float = 0.1  # VAR and LlamaGen
    drop_path: float = 0.0
    gate_init: float | None = None
    family: str | None = None
    anneal_start: float = 0.0
    anneal_end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("label_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"got {name} {getattr(self, name)}; expected 0 to below 1")
        if not 0 <= self.anneal_start <= self.anneal_end <= 1:
            raise ValueError(
                f"got anneal_start {self.anneal_start} and anneal_end {self.anneal_end}; expected "
                "shares of the training in this order: 0 <= anneal_start <= anneal_end <= 1"
            )

    def random_share(self, progress: float) -> float:
        """Probability that an image is taught in a random order at ``progress``, 0 to below 1."""
        if progress < self.anneal_start:
            return 1.0
        if progress >= self.anneal_end:
            return 0.0
        return (self.anneal_end - progress) / (self.anneal_end - self.anneal_start)


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


# Steps and batch are the caller's. Published batches and epochs: VAR 768 (d30: 1024) and 200 (d16),
# 250 (d20), 350 (d24, d30, d36), the rate follows the batch; LlamaGen 256, 300; RAR 2048, 400.
RECIPES: dict[str, TransformerRecipe] = {
    # found on digits; docs/log.md
    "small": TransformerRecipe(steps=2000, learning_rate=2e-3, ema_decay=0.99),
    # FoundationVision/VAR@78b9539 README.md; d16 and d20
    "var": _var(rate=1e-4, final=0.1, decay=0.05, gates=1e-3),
    "var-d24": _var(rate=8e-5, final=0.01, decay=0.05, gates=1e-4),
    "var-d30": _var(rate=8e-5, final=0.01, decay=0.08, gates=1e-5),
    "var-d36": _var(rate=8e-5, final=0.01, decay=0.08, gates=5e-6),
    # FoundationVision/LlamaGen@ce98ec4 autoregressive/train/train_c2i.py
    "llamagen": TransformerRecipe(
        steps=2000,
        family="llama",
        learning_rate=1e-4,
        schedule=Constant(),
        weight_decay=0.05,
        gradient_clip=1.0,
    ),
    # bytedance/1d-tokenizer@942a96f configs/training/generator/rar.yaml: shares of 250,000 steps,
    # end_lr 1e-5. Its dropout of attention weights is not done here.
    "rar": TransformerRecipe(
        steps=2000,
        family="rar",
        learning_rate=4e-4,
        schedule=Cosine(warmup=0.25, final=0.025),
        weight_decay=0.03,
        undecayed=RAR_UNDECAYED,
        betas=(0.9, 0.96),
        gradient_clip=1.0,
        anneal_start=0.5,
        anneal_end=0.75,
    ),
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
