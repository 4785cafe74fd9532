"""One tokenizer training from a folder or data set to a folder that generators can use.

Survives a kill at any moment: ``resume`` goes on from the last saved state, bit-identically on a
CPU for data that are opened by index.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from arimage.images import write_png
from arimage.pretrained import identity
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.stages import sample_grid
from arimage.training.images import ImageBatch, ImageData, TrainingImages, open_images
from arimage.training.interrupt import Interrupt
from arimage.training.loop import Loop, make_accelerator, step_seed
from arimage.training.objective import Images
from arimage.training.run_folder import RunFolder, flatten
from arimage.training.tokenizer_build import build_task, new_tokenizer, started_tokenizer
from arimage.training.tokenizer_recipe import TokenizerRecipe

if TYPE_CHECKING:
    from accelerate import Accelerator

SHOWN = 8  # images of a sample grid
TRACKERS = ("tensorboard", "wandb", "trackio", "none")


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
        if self.tracker not in TRACKERS:
            raise ValueError(f"got tracker {self.tracker!r}; expected one of {', '.join(TRACKERS)}")


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        done: steps that are behind.
        finished: whether all are; else a signal stopped it, and its state is saved.
        skipped: broken images, with what is wrong.
        measured: of the last step.
    """

    done: int
    finished: bool
    skipped: tuple[str, ...] = ()
    measured: dict[str, float] = field(default_factory=dict)


def run_tokenizer(run: TokenizerRun) -> Outcome:
    """Trains, fine-tunes or goes on; writes ``out``.

    Raises:
        ValueError, KeyError, OSError: input that does not fit; nothing is written.
        FloatingPointError: a loss that is not finite; the last saved state stays.
    """
    recipe = run.recipe
    trackers = () if run.tracker == "none" else (run.tracker,)
    accelerator = make_accelerator(recipe.precision, trackers, run.out / "logs")
    tokenizer = _tokenizer(run)
    record = {"from": _start_name(run), "start": identity(tokenizer)}  # before anything is trained
    images = _images(run, tokenizer.config.image_size)
    folder = RunFolder(run.out, recipe.keep)
    record |= _record(run, images)
    folder.check(record, run.resume)
    per_process = _per_process(recipe, images, accelerator.num_processes)
    task = build_task(tokenizer.to(accelerator.device), recipe, accelerator.device)
    rates = task.players[0].recipe
    loop = Loop(task, rates, accelerator, recipe.micro_batches)
    state = folder.checkpoints.load() if run.resume else None
    if state is not None:
        loop.load_state_dict(state["loop"])
    accelerator.wait_for_everyone()
    session = Session(run, folder, loop, images, state)
    if accelerator.is_main_process:
        folder.begin(record, loop.done)
        accelerator.init_trackers("tokenizer", config=_plain(record))
    return session.run(per_process)


class Session:
    """A run under way: what the loop is fed with, and what is done after its steps."""

    def __init__(
        self,
        run: TokenizerRun,
        folder: RunFolder,
        loop: Loop,
        images: TrainingImages,
        state: dict[str, Any] | None,
    ) -> None:
        self.asked, self.folder, self.loop, self.images = run, folder, loop, images
        self.accelerator: Accelerator = loop.accelerator
        self.samples: torch.Tensor | None = None if state is None else state["samples"]
        states = None if state is None else state["data"]
        self.data_state = states and states[self.accelerator.process_index % len(states)]
        self.measured: dict[str, float] = {}

    def run(self, per_process: int) -> Outcome:
        """All steps that are left, or those until a signal; saves what is to be saved."""
        loop, recipe = self.loop, self.asked.recipe
        batches = self._batches(per_process)
        bar = tqdm(
            total=recipe.steps,
            initial=loop.done,
            desc="tokenizer",
            disable=not (self.asked.progress and self.accelerator.is_main_process),
            mininterval=0.5,
        )
        if loop.done and self.accelerator.is_main_process and self.asked.progress:
            bar.write(f"going on after step {loop.done}: {self.images.resume_note()}")
        with Interrupt() as interrupt, bar:
            while loop.done < recipe.steps and not self._agreed(interrupt.asked):
                self._step(next(batches))
                bar.update()
                bar.set_postfix(loss=f"{self.measured['loss']:.4f}", refresh=False)
                if loop.done % recipe.save_every == 0 or loop.done == recipe.steps:
                    self._save()
            finished = loop.done == recipe.steps
            if not finished and loop.done % recipe.save_every:
                self._save()
        return self._end(finished)

    def _batches(self, per_process: int) -> Iterator[ImageBatch]:
        """From the next step on; the first of all also starts the codebook and is the sample."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        place = {"rank": rank, "world": world, "start": self.loop.done}
        batches = self.images.batches(per_process, **place, state=self.data_state)
        if self.loop.done:
            return batches
        first = next(batches)
        self.samples = first.pixels[:SHOWN].clone()
        seed = step_seed(self.asked.recipe.seed, self.asked.recipe.steps)
        self.loop.task.start(self._to_device(first), seed)
        return chain([first], batches)

    def _step(self, batch: ImageBatch) -> None:
        self.images.note(batch.skipped)
        self.data_state = batch.state
        self.measured = self.loop.step(self._to_device(batch))
        done, recipe = self.loop.done, self.asked.recipe
        if self.accelerator.is_main_process:
            try:
                self.folder.note(done, self.measured)
                self.accelerator.log(self.measured, step=done)
                if done % recipe.sample_every == 0 or done == recipe.steps:
                    self._show(done)
            except OSError as error:
                raise self.folder.checkpoints.failed(f"what step {done} measured", error) from error

    def _show(self, done: int) -> None:
        """A sheet of what the averaged tokenizer makes of the first images."""
        assert self.samples is not None
        grid = sample_grid(self.loop.result, self.samples.numpy())
        write_png(self.folder.sample_path(done), grid)
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):  # others than TensorBoard know no format
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"samples": grid[None]}, step=done, **options)

    def _save(self) -> None:
        from accelerate.utils import gather_object

        data = None if self.data_state is None else gather_object([self.data_state])
        if self.accelerator.is_main_process:
            state = {"loop": self.loop.state_dict(), "samples": self.samples, "data": data}
            self.folder.checkpoints.save(self.loop.done, state)
        self.accelerator.wait_for_everyone()

    def _agreed(self, asked: bool) -> bool:
        """Whether any process was asked to stop: all stop after the same step."""
        if self.accelerator.num_processes == 1:
            return asked
        flag = torch.tensor(float(asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum"))

    def _end(self, finished: bool) -> Outcome:
        from accelerate.utils import gather_object

        skipped = self.images.skipped
        if self.accelerator.num_processes > 1:
            skipped = list(dict.fromkeys(gather_object(list(skipped))))
        if self.accelerator.is_main_process and finished:
            self.loop.result.eval().save_pretrained(self.asked.out)
        for tracker in self.accelerator.trackers:
            tracker.finish()
        return Outcome(self.loop.done, finished, tuple(skipped), self.measured)

    def _to_device(self, batch: ImageBatch) -> Images:
        pixels = batch.pixels.to(self.accelerator.device, non_blocking=True).permute(0, 3, 1, 2)
        return Images(pixels.float().div(127.5).sub(1).contiguous(), batch.index)


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


def _per_process(recipe: TokenizerRecipe, images: TrainingImages, processes: int) -> int:
    """Images per process and step.

    Raises:
        ValueError: a batch that processes and micro-batches do not divide, more than there are.
    """
    parts = processes * recipe.micro_batches
    if recipe.batch_size % parts:
        raise ValueError(
            f"got batch_size {recipe.batch_size} for {processes} processes with "
            f"{recipe.micro_batches} micro-batches each; use a multiple of {parts}"
        )
    if images.count is not None and images.count < recipe.batch_size:
        raise ValueError(
            f"got {images.count} images for a batch of {recipe.batch_size}; give more images, or "
            f"--batch-size {images.count} or less"
        )
    return recipe.batch_size // processes


def _start_name(run: TokenizerRun) -> str | None:
    if run.start is None:
        return None
    path = Path(run.start)
    return path.resolve().name if path.exists() else run.start


def _record(run: TokenizerRun, images: TrainingImages) -> dict[str, Any]:
    names = ("arimage", "torch", "accelerate", "vector-quantize-pytorch")
    return {
        "quantizer": run.quantizer,
        "recipe": run.recipe.to_dict(),
        "data": {
            "name": Path(run.data).name,
            "identity": images.identity,
            "images": images.count,
        },
        "versions": {name: version(name) for name in names},
    }


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """What every tracker takes: flat, numbers and texts."""
    plain = (int, float, str, bool)
    return {k: v if isinstance(v, plain) else str(v) for k, v in flatten(record).items()}
