"""Folders of runs, read back: what was trained, and what was measured at which step."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arimage.files import read_json
from arimage.training.generator_recipe import GeneratorRecipe
from arimage.training.run_folder import LOSSES, RUN
from arimage.training.tokenizer_recipe import TokenizerRecipe

VALIDATION, VALIDATION_SCALE, STEP = "validation loss", "validation scale ", "step"
Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder tells it.

    Attributes:
        name: of the folder.
        record: run.json.
        rows: of losses.jsonl, each with its "step", from 1 on.
        torn: whether the last line was cut off while it was written; it is left out.
    """

    name: str
    record: dict[str, Any]
    rows: list[dict[str, Any]]
    torn: bool = False

    @property
    def is_generator(self) -> bool:
        """Else it trains a tokenizer."""
        return "losses" not in self.record["recipe"]

    @property
    def finished(self) -> bool:
        """Whether all steps of the recipe are there."""
        return bool(self.rows) and self.rows[-1][STEP] >= self.record["recipe"]["steps"]

    @property
    def keys(self) -> list[str]:
        """Everything that was measured, in the order in which it first appears."""
        return [key for key in dict.fromkeys(k for row in self.rows for k in row) if key != STEP]

    def curve(self, key: str) -> Curve:
        """(steps, values) where ``key`` was measured and is a number; perhaps empty."""
        values = [(row[STEP], row[key]) for row in self.rows if is_number(row.get(key))]
        steps, found = zip(*values, strict=True) if values else ((), ())
        return np.asarray(steps, float), np.asarray(found, float)

    def rates(self) -> Curve:
        """(steps, learning rates) that follow from the recipe."""
        fields = self.record["recipe"]
        if self.is_generator:
            recipe = GeneratorRecipe.of(fields).training()
        else:
            given = TokenizerRecipe.of(fields)
            recipe = given.optimizer.recipe(given.steps, given.batch_size, given.seed)
        steps = np.asarray([row[STEP] for row in self.rows], int)
        return steps, np.asarray([recipe.rate_at(int(step) - 1) for step in steps])

    def same_law(self) -> tuple[str, str, str, str]:
        """What must be equal for runs to be points of one law: family, order, tokens, held out."""
        recipe, held_out = self.record["recipe"], self.record.get("validation") or {}
        model = recipe.get("model") or {}
        tokens = (self.record.get("data") or {}).get("identity")
        names = (model.get("family"), model.get("order"), tokens, held_out.get("identity"))
        return tuple(str(name) for name in names)  # type: ignore[return-value]


def is_number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Runs by their folders; names are told apart by the folder above where they must be.

    Raises:
        FileNotFoundError: no such folder. ValueError: none of a run, or a broken file in it.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("got a run twice; name each folder once")
    last = [folder.resolve().name for folder in folders]
    names = last if len(set(last)) == len(last) else [folder.as_posix() for folder in folders]
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def read_run(folder: Path, name: str) -> RunRecord:
    """One run; see ``read_runs``."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give folders of training runs")
    if not (folder / RUN).is_file():
        raise ValueError(f"{folder} holds no {RUN}, so it is no run; give --out of a training")
    record = read_json(folder / RUN)
    if not isinstance(record.get("recipe"), dict) or "steps" not in record["recipe"]:
        raise ValueError(f"{folder / RUN} holds no recipe with its steps; give --out of a training")
    rows, torn = read_losses(folder / LOSSES)
    return RunRecord(name, record, rows, torn)


def read_losses(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """(rows, whether the last line was torn); a kill tears no other line.

    Raises:
        ValueError: a file that is missing or empty, a broken line; the line is named.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines, rows = text.splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise ValueError(
                f"line {number} of {path} is no JSON ({error.msg}); mend it or remove it"
            ) from error
        if not isinstance(row, dict) or not is_number(row.get(STEP)):
            raise ValueError(f"line {number} of {path} names no step; mend it or remove it")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} holds no step yet; plot the run once it has made some")
    return rows, len(rows) < len(lines)
