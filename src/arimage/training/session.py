"""What runs of every kind share: steps until the end or a signal, states, records, trackers."""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from tqdm.auto import tqdm

from arimage.images import write_png
from arimage.shapes import UInt8
from arimage.training.interrupt import Interrupt
from arimage.training.loop import Loop
from arimage.training.run_folder import RunFolder, flatten

if TYPE_CHECKING:
    from accelerate import Accelerator

TRACKERS = ("tensorboard", "wandb", "trackio", "none")
PACKAGES = ("arimage", "torch", "accelerate")


@runtime_checkable
class RunFields(Protocol):
    """What the recipe of every run says, as ``TokenizerRecipe`` describes it."""

    steps: int
    batch_size: int
    micro_batches: int
    save_every: int
    keep: int
    sample_every: int
    seed: int


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


class Session(ABC):
    """A run under way: what the loop is fed with, and what is done after its steps.

    Args:
        recipe: steps, and what is done every so many of them.
        folder: of the run.
        loop: perhaps with the state of a run that goes on.
        progress: show a bar.
    """

    name: ClassVar[str]

    def __init__(self, recipe: RunFields, folder: RunFolder, loop: Loop, progress: bool) -> None:
        self.recipe, self.folder, self.loop = recipe, folder, loop
        self.accelerator: Accelerator = loop.accelerator
        self.main = self.accelerator.is_main_process
        self.progress = progress and self.main
        self.measured: dict[str, float] = {}

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """What the loop is fed with, from the next step on."""

    @abstractmethod
    def step(self, batch: Any) -> dict[str, float]:
        """One step of the loop; what was measured."""

    @abstractmethod
    def sheet(self) -> UInt8[np.ndarray, "h w 3"]:
        """A picture of what the model can do by now."""

    @abstractmethod
    def finish(self) -> None:
        """Writes the result; called once, in the main process."""

    def state(self) -> dict[str, Any]:
        """What the next step depends on besides the loop; called in every process."""
        return {}

    def note(self) -> str:
        """What to tell where a run goes on."""
        return "the data go on where they stopped"

    def skipped(self) -> tuple[str, ...]:
        """Broken data so far."""
        return ()

    def begin(self, record: dict[str, Any]) -> None:
        """Writes what the run is of, and opens trackers."""
        self.accelerator.wait_for_everyone()
        if self.main:
            self.folder.begin(record, self.loop.done)
            self.accelerator.init_trackers(self.name, config=plain(record))

    def run(self) -> Outcome:
        """All steps that are left, or those until a signal; saves what is to be saved."""
        loop, recipe = self.loop, self.recipe
        batches = self.batches()
        bar = tqdm(
            total=recipe.steps,
            initial=loop.done,
            desc=self.name,
            disable=not self.progress,
            mininterval=0.5,
        )
        if loop.done and self.progress:
            bar.write(f"going on after step {loop.done}: {self.note()}")
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

    def _step(self, batch: Any) -> None:
        self.measured = self.step(batch)
        done = self.loop.done
        shown = done % self.recipe.sample_every == 0 or done == self.recipe.steps
        with self.loop.whole(everywhere=False) if shown else nullcontext():
            if self.main:
                self._note(done, shown)

    def _note(self, done: int, shown: bool) -> None:
        try:
            self.folder.note(done, self.measured)
            self.accelerator.log(self.measured, step=done)
            if shown:
                self._show(done)
        except OSError as error:
            raise self.folder.checkpoints.failed(f"what step {done} measured", error) from error

    def _show(self, done: int) -> None:
        picture = self.sheet()
        write_png(self.folder.sample_path(done), picture)
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):  # others than TensorBoard know no format
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"samples": picture[None]}, step=done, **options)

    def _save(self) -> None:
        state = {"loop": self.loop.state_dict(), **self.state()}
        if self.main:
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

        skipped = self.skipped()
        if self.accelerator.num_processes > 1:
            skipped = tuple(dict.fromkeys(gather_object(list(skipped))))
        if finished:
            with self.loop.whole(everywhere=False):
                if self.main:
                    self.finish()
        for tracker in self.accelerator.trackers:
            tracker.finish()
        return Outcome(self.loop.done, finished, skipped, self.measured)


def resumed(loop: Loop, folder: RunFolder, resume: bool) -> dict[str, Any] | None:
    """The newest saved state, which the loop goes on from; None where a run begins."""
    state = folder.checkpoints.load(mapped=loop.sharded) if resume else None
    if state is not None:
        loop.load_state_dict(state["loop"])
    return state


def check_tracker(tracker: str) -> None:
    """Raises ValueError for an unknown one."""
    if tracker not in TRACKERS:
        raise ValueError(f"got tracker {tracker!r}; expected one of {', '.join(TRACKERS)}")


def trackers_of(tracker: str) -> tuple[str, ...]:
    """For the accelerator."""
    return () if tracker == "none" else (tracker,)


def per_process(recipe: RunFields, count: int | None, processes: int) -> int:
    """Images per process and step.

    Args:
        count: images of the data; None where it is not known.
        processes: how many train together.

    Raises:
        ValueError: a batch that processes and micro-batches do not divide, more than there are.
    """
    parts = processes * recipe.micro_batches
    if recipe.batch_size % parts:
        raise ValueError(
            f"got batch_size {recipe.batch_size} for {processes} processes with "
            f"{recipe.micro_batches} micro-batches each; use a multiple of {parts}"
        )
    if count is not None and count < recipe.batch_size:
        raise ValueError(
            f"got {count} images for a batch of {recipe.batch_size}; give more images, or "
            f"--batch-size {count} or less"
        )
    return recipe.batch_size // processes


def start_name(start: str | None) -> str | None:
    """What a run is from, without a machine's path."""
    if start is None:
        return None
    path = Path(start)
    return path.resolve().name if path.exists() else start


def versions(*more: str) -> dict[str, str]:
    """Of the packages that a run depends on, and the commit where the code is a repository's."""
    found = {name: version(name) for name in (*PACKAGES, *more)}
    commit = git_commit(Path(__file__).parent)
    return found if commit is None else {**found, "commit": commit}


def git_commit(folder: Path) -> str | None:
    """The commit of the repository that ``folder`` is tracked in, with "+" if files have changed;
    None where there is none.
    """

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not ask("ls-files", "--", str(folder)):  # not ours: a package inside somebody's project
        return None
    commit = ask("rev-parse", "HEAD")
    return commit and commit + "+" * bool(ask("status", "--porcelain", "--untracked-files=no"))


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """What every tracker takes: flat, numbers and texts."""
    kinds = (int, float, str, bool)
    return {k: v if isinstance(v, kinds) else str(v) for k, v in flatten(record).items()}
