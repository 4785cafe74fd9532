"""Recipes for generators: YAML files with the figures of a paper, checked field by field.

Named ones lie in ``configs/generators``. A file may say ``base: var-d16`` and only what differs;
``--set model.depth=4`` changes any field.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from arimage.training.recipe_files import (
    SUFFIXES,
    RecipeFile,
    change_fields,
    check_optimizer,
    check_run_fields,
    packaged_names,
    read_own,
    read_packaged,
)
from arimage.training.schedules import Constant, Cosine, FlatThenLinear, Schedule
from arimage.training.transformer_recipe import UNDECAYED_OF, TransformerRecipe

FOLDER = "configs/generators"
BASE = "base"
SCHEDULES = ("constant", "cosine", "flat_then_linear")


@dataclass(frozen=True, kw_only=True)
class GeneratorOptimizer:
    """AdamW and its schedule; what is not decayed follows from the family.

    Attributes:
        learning_rate, rate_batch, betas, weight_decay, final_weight_decay, gradient_clip,
            ema_decay: as ``Recipe``.
        schedule: of ``SCHEDULES``; ``schedules.py`` describes them.
        warmup: share of the steps over which the rate grows; 0 with "constant".
        final: share of the rate that is left at the end; not used by "constant".
    """

    learning_rate: float
    rate_batch: int | None = None
    betas: Sequence[float] = (0.9, 0.95)
    weight_decay: float = 0.05
    final_weight_decay: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.0
    final: float = 0.0
    gradient_clip: float | None = 1.0
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        check_optimizer(self, SCHEDULES)
        if self.schedule == "constant" and self.warmup:
            raise ValueError(
                f"got warmup {self.warmup} with the schedule constant, which has none; use "
                "cosine with final: 1.0"
            )

    @property
    def rates(self) -> Schedule:
        """The schedule."""
        if self.schedule == "constant":
            return Constant()
        kind = Cosine if self.schedule == "cosine" else FlatThenLinear
        return kind(warmup=self.warmup, final=self.final)


@dataclass(frozen=True, kw_only=True)
class LoraFields:
    """Low-rank adapters in place of all weights (arXiv 2106.09685), through peft.

    Attributes:
        rank: of the adapters.
        alpha: their product is scaled by alpha / rank.
        targets: last parts of the names of the linear layers that get one.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: list[str] = field(default_factory=lambda: ["qkv", "project"])

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"got lora.rank {self.rank}; expected at least 1")
        if not self.targets:
            raise ValueError("got no lora.targets; name linear layers, for example [qkv, project]")


@dataclass(frozen=True, kw_only=True)
class ScoreFields:
    """FID while the generator trains: of its averaged weights, by its sampling defaults.

    Attributes:
        reference: the real set: a name of ``eval.references.KNOWN``, a file of statistics, images.
        features: a name of ``FEATURES``, or "name=PATH" for its weights.
        every: steps between scores; the last step is scored, too.
        count: images, of the seeds 0, 1, ... and the classes in turn. A distance of so few is
            higher than a published one, of 50,000: it ranks the steps of one run.
        batch_size: images made together; scores of two sizes differ by rounding.
    """

    reference: str
    features: str = "inception"
    every: int = 5_000
    count: int = 5_000
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("count", 2), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"got score.{name} {getattr(self, name)}; expected at least {least}"
                )


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe(RecipeFile):
    """All that decides what becomes of a transformer and tokens.

    Attributes:
        paper: what the figures are from.
        steps: optimizer steps.
        batch_size: images per step, over all processes and micro-batches.
        model: family, sizes and order of a new transformer; what follows from the tokenizer and
            the data is left out. Fine-tuning uses its dropout alone, where it is given.
        optimizer: of the transformer.
        label_dropout, drop_path, gate_init, anneal_start, anneal_end, attention: as
            ``TransformerRecipe``.
        lora: None trains all weights; for fine-tuning.
        precision: "no" (float32), "bf16", "fp16"; None is the launcher's.
        micro_batches: parts of a step's batch that pass one after the other.
        gradient_checkpointing: less memory for more time.
        compile: the blocks by torch.compile.
        fsdp: weights and all that belongs to them are shared out over the processes; as
            ``accelerate launch --use_fsdp --fsdp_version 2``.
        validation: share of the images that is held out where no other tokens are given.
        validate_every: steps between losses on held-out tokens.
        score: None makes no image to score.
        save_every, keep: steps between saved states, and how many stay.
        sample_every: steps between sample sheets.
        seed: of everything that is drawn.
    """

    nested: ClassVar = {"optimizer": GeneratorOptimizer, "lora": LoraFields, "score": ScoreFields}

    paper: str = ""
    steps: int
    batch_size: int
    optimizer: GeneratorOptimizer
    model: dict[str, Any] = field(default_factory=dict)
    label_dropout: float = 0.1
    drop_path: float = 0.0
    gate_init: float | None = None
    anneal_start: float = 0.0
    anneal_end: float = 0.0
    attention: str | None = None
    lora: LoraFields | None = None
    precision: str | None = None
    micro_batches: int = 1
    gradient_checkpointing: bool = False
    compile: bool = False
    fsdp: bool = False
    validation: float = 0.0
    validate_every: int = 500
    score: ScoreFields | None = None
    save_every: int = 500
    keep: int = 2
    sample_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        check_run_fields(self, "validate_every")
        if not 0 <= self.validation < 1:
            raise ValueError(f"got validation {self.validation}; expected a share below 1")
        self.training()

    def training(self, family: str | None = None) -> TransformerRecipe:
        """For the loop; ``family``: of the transformer, where it is not the recipe's."""
        optimizer, family = self.optimizer, family or self.model.get("family")
        shared = ("steps", "batch_size", "seed", "label_dropout", "drop_path", "gate_init")
        shared = (*shared, "anneal_start", "anneal_end", "attention")
        rates = ("learning_rate", "rate_batch", "weight_decay", "final_weight_decay")
        rates = (*rates, "gradient_clip", "ema_decay")
        return TransformerRecipe(
            **{name: getattr(self, name) for name in shared},
            **{name: getattr(optimizer, name) for name in rates},
            betas=(optimizer.betas[0], optimizer.betas[1]),
            schedule=optimizer.rates,
            family=family,
            undecayed=UNDECAYED_OF.get(family or "", ()),
        )


def generator_recipe_names() -> list[str]:
    """The recipes in the package."""
    return packaged_names(FOLDER)


def read_generator_recipe(name: str | Path, changes: Sequence[str] = ()) -> GeneratorRecipe:
    """The recipe of that name, or of a YAML file, changed.

    Args:
        name: one of ``generator_recipe_names``, or a path that ends in .yaml.
        changes: "field=value" or "group.field=value", values as in YAML; later ones win.

    Raises:
        KeyError: an unknown recipe or field, with the nearest known ones.
        ValueError: a file that is no YAML, or values that do not fit. FileNotFoundError: no file.
    """
    fields = _with_base(read_own(name) if str(name).endswith(SUFFIXES) else _packaged(str(name)))
    change_fields(fields, changes)
    return GeneratorRecipe.of(fields)


def _packaged(name: str) -> dict[str, Any]:
    return read_packaged(name, FOLDER)


def _with_base(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields over those of the packaged recipe that they name as their base."""
    base = fields.pop(BASE, None)
    return fields if base is None else _over(_with_base(_packaged(str(base))), fields)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: _over(below[name], value)
        for name, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(name), dict)
    }
    return {**below, **above, **both}
