"""States of a run, saved so that a kill at any moment loses nothing but the steps since the last.

A state is written beside its place and moved there in one step; the last few are kept. Files are
opened with ``weights_only``: no pickle code runs.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from arimage.files import new_folder

STATE = "state.pt"
NAME = re.compile(r"step-(\d+)")


class Checkpoints:
    """The states in a folder.

    Args:
        folder: made when the first state is saved.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"got keep {keep}; expected at least 1 saved state")
        self.folder, self.keep = Path(folder), keep

    def steps(self) -> list[int]:
        """Steps that have a whole state, oldest first."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else []
        return sorted(
            int(match[1])
            for path in found
            if (match := NAME.fullmatch(path.name)) and (path / STATE).is_file()
        )

    def path(self, step: int) -> Path:
        """The folder of a state."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Saves the state after ``step`` steps, then removes the oldest ones.

        Raises:
            OSError: it cannot be written; says which state is whole. Nothing else has changed.
        """
        shutil.rmtree(self.path(step), ignore_errors=True)  # a damaged one that was passed over
        try:
            with new_folder(self.path(step)) as temporary:
                with open(temporary / STATE, "wb") as file:
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise self.failed(f"step {step}", error) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old), ignore_errors=True)

    def failed(self, what: str, error: Exception) -> OSError:
        """The error of something that could not be written; says which state is whole."""
        steps = self.steps()
        last = f"the state of step {steps[-1]} is whole" if steps else "no state is saved"
        return OSError(
            f"cannot save {what} in {self.folder.parent} ({_reason(error)}); "
            f"{_free(self.folder.parent)}, {last}: make room and go on with --resume"
        )

    def load(self, mapped: bool = False) -> dict[str, Any] | None:
        """The newest state that can be read, on the CPU; None where there is none.

        ``mapped``: read from the file when it is used, so that processes share the memory.

        Raises:
            ValueError: there are states and none can be read.
        """
        self.clean()
        steps, problem = self.steps(), Exception()
        for step in reversed(steps):
            try:
                file = self.path(step) / STATE
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
            except Exception as error:  # a damaged file raises whatever its bytes lead to
                problem = error
        if steps:
            raise ValueError(
                f"none of the states of steps {steps} in {self.folder} can be read "
                f"({_reason(problem)}); remove the folder to begin again"
            ) from problem
        return None

    def clean(self) -> None:
        """Removes what a killed save left behind."""
        if self.folder.is_dir():
            for path in self.folder.glob(".step-*"):
                shutil.rmtree(path, ignore_errors=True)


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 1e6:.0f} MB are free without it"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RuntimeError) and "enforce fail" in str(error):
        return "the file could not be written whole"  # how torch reports a full disk
    return (str(error).splitlines() or [type(error).__name__])[0]
