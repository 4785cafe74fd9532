"""A run's folder: what was asked for, what was measured, saved states, sample grids.

run.json         recipe, data, start, versions, score: what ``--resume`` compares; cost
losses.jsonl     one line per step
samples/         grids of originals above reconstructions
checkpoints/     the last states
"""

import json
from pathlib import Path
from typing import Any

from arimage.files import read_json, write_json, write_text
from arimage.records import changed
from arimage.training.checkpoints import Checkpoints

RUN, LOSSES, SAMPLES, CHECKPOINTS = "run.json", "losses.jsonl", "samples", "checkpoints"
# What decides nothing of the weights: may be another when a run goes on.
UNCOMPARED = (
    *("versions", "cost"),
    *("recipe.save_every", "recipe.keep", "recipe.sample_every", "recipe.fsdp"),
    *("recipe.score", "score.reference.name", "score.warnings"),  # the rest of score is compared
    *("data.name", "data.dataset", "validation.name", "validation.dataset"),  # identities tell
)


class RunFolder:
    """The folder of one run.

    Args:
        path: made when the run begins.
        keep: saved states that stay.
    """

    def __init__(self, path: str | Path, keep: int) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / CHECKPOINTS, keep)

    def check(self, record: dict[str, Any], resume: bool) -> None:
        """Whether a run may begin or go on here; parts that only one of both has are not compared.

        Raises:
            FileExistsError: there is a run already and it is not to go on.
            ValueError: it was of something else; says of what.
        """
        if not (self.path / RUN).is_file():
            return
        if not resume:
            raise FileExistsError(
                f"{self.path} holds a run already; go on with it by --resume, or choose another "
                "folder"
            )
        before = read_json(self.path / RUN)
        both = before.keys() & record.keys()
        old, new = ({k: v for k, v in r.items() if k in both} for r in (before, record))
        different = changed(old, new, UNCOMPARED)
        if different:
            key, (old, new) = next(iter(different.items()))
            others = list(different)[1:4]
            more = f" (and of {', '.join(others)})" if others else ""
            raise ValueError(
                f"the run in {self.path} had another value of {key}: {old}, now {new}{more}; give "
                "what it had, or choose another folder"
            )

    def begin(self, record: dict[str, Any], done: int) -> None:
        """Writes the record, beside parts of before that it lacks; forgets what was measured after
        step ``done``."""
        before = read_json(self.path / RUN) if (self.path / RUN).is_file() else {}
        write_json(self.path / RUN, {**before, **record})
        losses = self.path / LOSSES
        text = "".join(json.dumps(row) + "\n" for row in read_lines(losses)[:done])
        if not losses.exists() or losses.read_text(encoding="utf-8") != text:
            write_text(losses, text)

    def note(self, step: int, measured: dict[str, float]) -> None:
        """Appends what was measured at a step."""
        with open(self.path / LOSSES, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **measured}) + "\n")

    def sample_path(self, step: int) -> Path:
        """Where a sample grid goes."""
        return self.path / SAMPLES / f"step-{step:08d}.png"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a losses.jsonl up to the first torn line, if any; empty without a file."""
    rows: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # killed while it was written
                break
    return rows
