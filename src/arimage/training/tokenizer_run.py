"""One tokenizer training from a folder or data set to a folder that generators can use.

Survives a kill at any moment: ``resume`` goes on from the last saved state, bit-identically on a
CPU for data that are opened by index.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arimage.images import scaled
from arimage.pretrained import identity
from arimage.shapes import UInt8
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.stages import sample_grid
from arimage.training.image_files import data_name
from arimage.training.images import ImageBatch, ImageData, TrainingImages, open_images
from arimage.training.loop import Loop, step_seed
from arimage.training.objective import Images
from arimage.training.processes import make_accelerator
from arimage.training.run_folder import RunFolder
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
from arimage.training.tokenizer_build import build_task, new_tokenizer, started_tokenizer
from arimage.training.tokenizer_recipe import TokenizerRecipe

SHOWN = 8  # images of a sample grid


@dataclass(frozen=True, kw_only=True)
class TokenizerRun:
    """What to train on what, and where to put it.

    Attributes:
        recipe: how.
        data: a folder of images, a file or folder of shards, the id of a data set of the hub.
        out: folder of the run and of the tokenizer.
        start: the tokenizer to fine-tune: preset, folder, hub id; None makes a new one.
        variant: of a repository of models.
        quantizer: replaces the one of ``start``, beginning with its codes.
        resume: go on with the run in ``out``.
        strict, workers: as ``ImageData``.
        tracker: of ``TRACKERS``.
        progress: show a bar.
    """

    recipe: TokenizerRecipe
    data: str
    out: Path
    start: str | None = None
    variant: str | None = None
    quantizer: str | None = None
    resume: bool = False
    strict: bool = False
    workers: int = 0
    tracker: str = "tensorboard"
    progress: bool = True

    def __post_init__(self) -> None:
        check_tracker(self.tracker)


def run_tokenizer(run: TokenizerRun) -> Outcome:
    """Trains, fine-tunes or goes on; writes ``out``.

    Raises:
        ValueError, KeyError, OSError: input that does not fit; nothing is written.
        FloatingPointError: a loss that is not finite; the last saved state stays.
    """
    recipe = run.recipe
    accelerator = make_accelerator(recipe.precision, trackers_of(run.tracker), run.out / "logs")
    tokenizer = _tokenizer(run)
    record = {"from": start_name(run.start), "start": identity(tokenizer)}  # before any training
    images = _images(run, tokenizer.config.image_size)
    folder = RunFolder(run.out, recipe.keep)
    record |= _record(run, images)
    folder.check(record, run.resume)
    size = per_process(recipe, images.count, accelerator.num_processes)
    task = build_task(tokenizer.to(accelerator.device), recipe, accelerator.device)
    loop = Loop(task, task.players[0].recipe, accelerator, recipe.micro_batches)
    state = resumed(loop, folder, run.resume)
    session = TokenizerSession(run, folder, loop, images, size, state)
    session.begin(record)
    return session.run()


class TokenizerSession(Session):
    """A tokenizer and images; ``size``: images per process and step."""

    name = "tokenizer"

    def __init__(
        self,
        run: TokenizerRun,
        folder: RunFolder,
        loop: Loop,
        images: TrainingImages,
        size: int,
        state: dict[str, Any] | None,
    ) -> None:
        super().__init__(run.recipe, folder, loop, run.progress)
        self.out, self.images, self.size = run.out, images, size
        self.samples: torch.Tensor | None = None if state is None else state["samples"]
        states = None if state is None else state["data"]
        self.data_state = states and states[self.accelerator.process_index % len(states)]

    def batches(self) -> Iterator[ImageBatch]:
        """From the next step on; the first of all also starts the codebook and is the sample."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        place = {"rank": rank, "world": world, "start": self.loop.done}
        batches = self.images.batches(self.size, **place, state=self.data_state)
        if self.loop.done:
            return batches
        first = next(batches)
        self.samples = first.pixels[:SHOWN].clone()
        seed = step_seed(self.recipe.seed, self.recipe.steps)
        self.loop.task.start(self._to_device(first), seed)
        return chain([first], batches)

    def step(self, batch: ImageBatch) -> dict[str, float]:
        """One step; broken images and the place in the data are noted."""
        self.images.note(batch.skipped)
        self.data_state = batch.state
        return self.loop.step(self._to_device(batch))

    def sheet(self) -> UInt8[np.ndarray, "h w 3"]:
        """What the averaged tokenizer makes of the first images."""
        assert self.samples is not None
        return sample_grid(self.loop.result, self.samples.numpy())

    def state(self) -> dict[str, Any]:
        """The sample, and the place in the data of every process."""
        from accelerate.utils import gather_object

        data = None if self.data_state is None else gather_object([self.data_state])
        return {"samples": self.samples, "data": data}

    def note(self) -> str:
        """As the data say."""
        return self.images.resume_note()

    def skipped(self) -> tuple[str, ...]:
        """Of this process."""
        return tuple(self.images.skipped)

    def finish(self) -> None:
        """The tokenizer's folder."""
        self.loop.result.eval().save_pretrained(self.out)

    def _to_device(self, batch: ImageBatch) -> Images:
        pixels = batch.pixels.to(self.accelerator.device, non_blocking=True)
        return Images(scaled(pixels), batch.index)


def _tokenizer(run: TokenizerRun) -> ImageTokenizer:
    if run.start is None:
        return new_tokenizer(run.recipe.tokenizer, run.recipe.seed)
    return started_tokenizer(run.start, run.variant, run.quantizer, run.recipe.tokenizer)


def _images(run: TokenizerRun, size: int) -> TrainingImages:
    recipe = run.recipe
    return open_images(
        ImageData(
            path=run.data,
            split=recipe.data.split,
            size=size,
            crop=recipe.data.crop,
            flip=recipe.data.flip,
            streaming=recipe.data.streaming,
            strict=run.strict,
            workers=run.workers,
            seed=recipe.seed,
        )
    )


def _record(run: TokenizerRun, images: TrainingImages) -> dict[str, Any]:
    return {
        "quantizer": run.quantizer,
        "recipe": run.recipe.to_dict(),
        "data": {
            "name": data_name(run.data),
            "identity": images.identity,
            "images": images.count,
        },
        "versions": versions("vector-quantize-pytorch"),
    }
