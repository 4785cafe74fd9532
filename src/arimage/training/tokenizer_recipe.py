"""Recipes for tokenizers: YAML files with the figures of a paper, checked field by field.

Named ones lie in ``configs/tokenizers``; ``NAME-f8`` and ``NAME-f16`` choose the downsample factor.
A file of one's own has the same fields. ``--set losses.l1.weight=2`` changes any of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from arimage.registry import unknown_name
from arimage.training.common import Recipe
from arimage.training.losses.adversarial import check_kind
from arimage.training.losses.perturbation import PerturbationSchedule
from arimage.training.losses.registry import CRITICS, LOSSES
from arimage.training.recipe_files import (
    SUFFIXES,
    RecipeFile,
    change_fields,
    check_betas,
    check_optimizer,
    check_run_fields,
    fitted,
    packaged_names,
    read_own,
    read_packaged,
)
from arimage.training.schedules import Cosine

FOLDER = "configs/tokenizers"
FACTOR = re.compile(r"(.+)-f(8|16)")
# Widths per resolution of the published VQ-8 and VQ-16: FoundationVision/LlamaGen@ce98ec4
# tokenizer/tokenizer_image/vq_model.py
MULTIPLIERS = {8: [1, 2, 2, 4], 16: [1, 1, 2, 2, 4]}


@dataclass(frozen=True, kw_only=True)
class OptimizerFields:
    """AdamW and its schedule.

    Attributes:
        learning_rate, betas, weight_decay, gradient_clip, ema_decay: as ``Recipe``.
        warmup: share of the steps over which the rate grows from 0.
        schedule: "constant" or "cosine".
        final: share of the rate that is left at the end of a cosine.
    """

    learning_rate: float
    betas: Sequence[float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: float = 0.0
    schedule: str = "constant"
    final: float = 0.0
    gradient_clip: float | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        check_optimizer(self, ("constant", "cosine"))

    def recipe(self, steps: int, batch_size: int, seed: int) -> Recipe:
        """For the loop."""
        final = 1.0 if self.schedule == "constant" else self.final
        return Recipe(
            steps=steps,
            batch_size=batch_size,
            learning_rate=self.learning_rate,
            schedule=Cosine(warmup=self.warmup, final=final),
            weight_decay=self.weight_decay,
            betas=(self.betas[0], self.betas[1]),
            gradient_clip=self.gradient_clip,
            ema_decay=self.ema_decay,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class AdversarialFields:
    """A critic, its loss and its optimizer; None there takes the tokenizer's.

    Attributes:
        critic: a name in ``CRITICS``.
        settings: of the critic.
        loss: hinge, vanilla or non_saturating.
        weight, adaptive, lecam: as ``objective.Adversary``.
        start: the first step of both; below 1 a share of the steps.
        learning_rate, betas, weight_decay: of the critic.
    """

    critic: str = "patchgan"
    settings: dict[str, Any] = field(default_factory=dict)
    loss: str = "hinge"
    weight: float = 1.0
    adaptive: bool = True
    start: float = 0.0
    lecam: float = 0.0
    learning_rate: float | None = None
    betas: Sequence[float] | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if self.critic not in CRITICS:
            raise KeyError(unknown_name("critic", self.critic, CRITICS))
        check_kind(self.loss)
        if self.start < 0:
            raise ValueError(f"got start {self.start}; expected a step or a share of the steps")
        if self.betas is not None:
            check_betas(self.betas)

    def start_step(self, steps: int) -> int:
        """The step with which it starts."""
        return round(self.start * steps) if 0 < self.start < 1 else int(self.start)


@dataclass(frozen=True, kw_only=True)
class DataFields:
    """How images are read and become squares: fields of ``training.images.ImageData``."""

    crop: str = "random"
    flip: float = 0.0
    split: str | None = None
    streaming: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe(RecipeFile):
    """All that decides what becomes of a tokenizer and a data set.

    Attributes:
        paper: what the figures are from.
        steps: optimizer steps.
        batch_size: images per step, over all processes and micro-batches.
        optimizer: of the tokenizer.
        losses: {name in ``LOSSES``: {"weight": ..., settings}}.
        tokenizer: family and config fields of a new one; not used for fine-tuning.
        adversarial: None trains without a critic.
        perturbation: None does not perturb.
        data: how images are cut.
        parts: of the tokenizer that are trained: encoder, codebook, decoder.
        precision: "no" (float32), "bf16", "fp16"; None is the launcher's.
        micro_batches: parts of a step's batch that pass one after the other.
        gradient_checkpointing: less memory for more time.
        save_every, keep: steps between saved states, and how many stay.
        sample_every: steps between sample grids.
        seed: of everything that is drawn.
    """

    nested: ClassVar = {
        "optimizer": OptimizerFields,
        "adversarial": AdversarialFields,
        "perturbation": PerturbationSchedule,
        "data": DataFields,
    }

    paper: str = ""
    steps: int
    batch_size: int
    optimizer: OptimizerFields
    losses: dict[str, dict[str, Any]]
    tokenizer: dict[str, Any] = field(default_factory=dict)
    adversarial: AdversarialFields | None = None
    perturbation: PerturbationSchedule | None = None
    data: DataFields = field(default_factory=DataFields)
    parts: Sequence[str] = ("encoder", "codebook", "decoder")
    precision: str | None = None
    micro_batches: int = 1
    gradient_checkpointing: bool = False
    save_every: int = 500
    keep: int = 2
    sample_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        check_run_fields(self)
        for name, settings in self.losses.items():
            if name not in LOSSES:
                raise KeyError(unknown_name("loss", name, LOSSES))
            if not isinstance(settings, dict) or "weight" not in settings:
                raise ValueError(f"the loss {name!r} has no weight; write {name}: {{weight: 1.0}}")
            fitted(f"losses.{name}.weight", settings["weight"], float | None)


def recipe_names() -> list[str]:
    """The recipes in the package."""
    return packaged_names(FOLDER)


def read_recipe(name: str | Path, changes: Sequence[str] = ()) -> TokenizerRecipe:
    """The recipe of that name, or of a YAML file, changed.

    Args:
        name: one of ``recipe_names``, perhaps with "-f8" or "-f16"; or a path that ends in .yaml.
        changes: "field=value" or "group.field=value", values as in YAML; later ones win.

    Raises:
        KeyError: an unknown recipe or field, with the nearest known ones.
        ValueError: a file that is no YAML, or values that do not fit. FileNotFoundError: no file.
    """
    fields = _read(name)
    change_fields(fields, changes)
    losses = fields.get("losses")
    if isinstance(losses, dict):  # losses.perceptual=null
        fields["losses"] = {k: v for k, v in losses.items() if v is not None}
    return TokenizerRecipe.of(fields)


def _read(name: str | Path) -> dict[str, Any]:
    if str(name).endswith(SUFFIXES):
        return read_own(name)
    match = None if name in recipe_names() else FACTOR.fullmatch(str(name))
    if match is None or match[1] not in recipe_names():
        return read_packaged(str(name), FOLDER)
    fields = read_packaged(match[1], FOLDER)
    fields["tokenizer"] = {
        **fields["tokenizer"],
        "channel_multipliers": MULTIPLIERS[int(match[2])],
    }
    return fields
