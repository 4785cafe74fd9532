"""One generator training from tokens to a folder that can be sampled from.

Survives a kill at any moment, as tokenizer training does: ``resume`` goes on from the last saved
state, bit-identically on a CPU.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arimage.ar.base import Backbone
from arimage.generator import ImageGenerator
from arimage.images import grid
from arimage.pretrained import identity
from arimage.sampling.settings import Settings
from arimage.shapes import UInt8
from arimage.sheets import ACROSS, zoom_of
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.ar_trainer import drop_paths
from arimage.training.flops import training_cost
from arimage.training.generator_build import (
    build_generator_task,
    build_transformer,
    started_generator,
)
from arimage.training.generator_recipe import GeneratorRecipe
from arimage.training.generator_task import validation_losses, validation_sums
from arimage.training.loop import Loop
from arimage.training.lora import merged
from arimage.training.processes import make_accelerator
from arimage.training.run_folder import RunFolder
from arimage.training.scoring import Scorer, recorded
from arimage.training.session import (
    Outcome,
    Session,
    check_tracker,
    per_process,
    resumed,
    start_name,
    trackers_of,
    versions,
)
from arimage.training.token_batches import TrainingTokens, hold_out
from arimage.training.token_data import TokenBatch, TokenData, check_identity

SHOWN = 16  # images of a sample sheet


@dataclass(frozen=True, kw_only=True)
class GeneratorRun:
    """What to train on what, and where to put it.

    Attributes:
        recipe: how.
        data: a folder made by ``arimage tokens``.
        out: folder of the run and of the generator.
        start: the generator to fine-tune: preset, folder, hub id; None makes a new transformer.
        variant: of a repository of models.
        validation: tokens of held-out images; None holds out the recipe's share of ``data``.
        resume: go on with the run in ``out``.
        tracker: of ``session.TRACKERS``.
        progress: show a bar.
    """

    recipe: GeneratorRecipe
    data: Path
    out: Path
    start: str | None = None
    variant: str | None = None
    validation: Path | None = None
    resume: bool = False
    tracker: str = "tensorboard"
    progress: bool = True

    def __post_init__(self) -> None:
        check_tracker(self.tracker)


@dataclass(frozen=True)
class Tokens:
    """What a run reads: the tokenizer, tokens to train on, held-out ones."""

    tokenizer: ImageTokenizer
    data: TrainingTokens
    held_out: TrainingTokens | None

    def describe(self) -> dict[str, Any]:
        """For run.json."""
        held_out = None if self.held_out is None else self.held_out.describe()
        return {"data": self.data.describe(), "validation": held_out}


def run_generator(run: GeneratorRun) -> Outcome:
    """Trains, fine-tunes or goes on; writes ``out``.

    Raises:
        ValueError, KeyError, OSError: input that does not fit; nothing is written.
        FloatingPointError: a loss that is not finite; the last saved state stays.
    """
    recipe = run.recipe
    trackers, logs = trackers_of(run.tracker), run.out / "logs"
    accelerator = make_accelerator(recipe.precision, trackers, logs, shard=recipe.fsdp)
    start = None if run.start is None else started_generator(run.start, run.variant)
    tokens = open_run_tokens(run)
    if start is not None:
        check_identity(tokens.data.tokenizer, start.tokenizer)
    record = {
        "from": start_name(run.start),
        "start": None if start is None else identity(start.transformer),
        "recipe": recorded(recipe),
        **tokens.describe(),
        "versions": versions("transformers"),
    }
    folder = RunFolder(run.out, recipe.keep)
    folder.check(record, run.resume)
    size = per_process(recipe, len(tokens.data), accelerator.num_processes)
    tokenizer = tokens.tokenizer.to(accelerator.device)
    transformer = build_transformer(recipe, tokenizer, tokens.data.num_classes, start)
    task = build_generator_task(recipe, transformer.to(accelerator.device), tokenizer)
    with drop_paths(transformer, recipe.drop_path * transformer.config.depth):
        passing = max(1, size // recipe.micro_batches)
        record["cost"] = asdict(training_cost(transformer, task.order, recipe.batch_size, passing))
        loop = Loop(task, task.recipe, accelerator, recipe.micro_batches)
        resumed(loop, folder, run.resume)
        settings = None if start is None else start.settings
        session = GeneratorSession(run, folder, loop, tokens, size, settings)
        if recipe.score is not None:
            plain = ImageGenerator(tokenizer, transformer, settings)  # its weights do not matter
            session.scorer = Scorer(recipe.score, plain, run.out, accelerator)
            record |= {"score": session.scorer.describe()}
            folder.check(record, run.resume)
        session.begin(record)
        return session.run()


class GeneratorSession(Session):
    """A transformer and tokens; ``size``: images per process and step."""

    name = "generator"

    def __init__(
        self,
        run: GeneratorRun,
        folder: RunFolder,
        loop: Loop,
        tokens: Tokens,
        size: int,
        settings: Settings | None,
    ) -> None:
        super().__init__(run.recipe, folder, loop, run.progress)
        self.out, self.tokens, self.size, self.settings = run.out, tokens, size, settings
        self.every = run.recipe.validate_every
        self.recipe: GeneratorRecipe = run.recipe
        self.scorer: Scorer | None = None

    def batches(self) -> Iterator[TokenBatch]:
        """This process' slice of every step from the next on."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        return self.tokens.data.batches(self.size, rank, world, self.loop.done, self.recipe.seed)

    def step(self, batch: TokenBatch) -> dict[str, float]:
        """One step, and the held-out loss and the score where they are due."""
        measured = self.loop.step(batch)
        if self.tokens.held_out is not None and self._due(self.every):
            measured |= self.validate()
        if self.scorer is not None and self._due(self.scorer.every):
            with self.eager(), self.loop.whole(everywhere=True):
                measured |= self.scorer.score(self.generator())
        return measured

    def _due(self, every: int) -> bool:
        """Whether the step that is behind is one of ``every``, or the last."""
        return self.loop.done % every == 0 or self.loop.done == self.recipe.steps

    def validate(self) -> dict[str, float]:
        """Losses of the averaged model on all held-out tokens, shared by the processes."""
        assert self.tokens.held_out is not None
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        order, size = self.loop.task.order, max(1, self.size // self.recipe.micro_batches)
        with self.accelerator.autocast(), self.eager(), self.loop.whole(everywhere=True):
            sums = validation_sums(
                self.loop.result, order, self.tokens.held_out, size, rank=rank, world=world
            )
        sums = self.accelerator.reduce(sums.to(self.accelerator.device), "sum")
        return validation_losses(sums.cpu())

    def sheet(self) -> UInt8[np.ndarray, "h w 3"]:
        """An image of each of the first classes, of the seeds 0, 1, ..."""
        generator = self.generator()
        labels = [i % self.tokens.data.num_classes for i in range(SHOWN)]
        with self.eager():
            pixels = generator(labels, seeds=0, batch_size=SHOWN, output_type="pixels").images
        return grid(pixels, ACROSS, zoom=zoom_of(pixels.shape[1]), gap=2)

    def eager(self) -> AbstractContextManager[Any]:
        """Without compiled blocks: every length of the cache would be compiled anew."""
        compiled = self.recipe.compile
        return torch.compiler.set_stance("force_eager") if compiled else nullcontext()

    def finish(self) -> None:
        """The generator's folder, in float32."""
        self.generator().save_pretrained(self.out, dtype=torch.float32)

    def generator(self) -> ImageGenerator:
        """With the averaged weights; adapters are merged."""
        transformer = self.loop.result
        assert isinstance(transformer, Backbone)
        names, tokenizer = self.tokens.data.class_names, self.tokens.tokenizer
        return ImageGenerator(tokenizer, merged(transformer), self.settings, names)


def open_run_tokens(run: GeneratorRun) -> Tokens:
    """Opens the tokens of a run.

    Raises:
        FileNotFoundError, ValueError: no such folder, a broken one, held-out tokens of another
            tokenizer or with other classes.
    """
    data = TokenData(run.data)
    tokenizer = data.load_tokenizer()
    data.check_classes()
    if run.validation is None:
        return Tokens(tokenizer, *hold_out(data, run.recipe.validation, run.recipe.seed))
    if run.recipe.validation:
        raise ValueError(
            f"got --validation and a recipe that holds out {run.recipe.validation} of the data; "
            "leave one of them out"
        )
    held_out = TokenData(run.validation)
    held_out.check(tokenizer)
    if held_out.num_classes > data.num_classes:
        raise ValueError(
            f"got validation tokens of {held_out.num_classes} classes and {data.num_classes} to "
            "train on; make both of the same classes"
        )
    return Tokens(tokenizer, data, held_out)
