"""What ``evaluate`` returns: the scores, and under what protocol they were made."""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from arimage.eval.base import Score
from arimage.files import write_json, write_text
from arimage.registry import unknown_name

PACKAGES = ("torch", "numpy", "arimage")


def versions() -> dict[str, str]:
    """Versions of what computes the numbers, by name."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What two scores must share to be compared.

    ``references`` maps "reference" and "training" to a record with name, count and sha256, for
    the sets that were used; ``settings`` is whatever the caller wants to be remembered.
    """

    count: int
    features: str
    references: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)


@dataclass(frozen=True, kw_only=True)
class Report(Mapping[str, Score]):
    """Scores by metric name (``report["fid"].value``), with their protocol."""

    scores: tuple[Score, ...]
    protocol: Protocol

    def __getitem__(self, name: str) -> Score:
        for score in self.scores:
            if score.name == name:
                return score
        raise KeyError(unknown_name("score", name, self))

    def __iter__(self) -> Iterator[str]:
        return (score.name for score in self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict: ``scores`` and ``protocol``."""
        return {
            "scores": [score.to_json() for score in self.scores],
            "protocol": asdict(self.protocol),
        }

    def to_markdown(self) -> str:
        """A table of the scores, then the protocol line by line."""
        lines = [
            "# Evaluation",
            "",
            "| metric | value | better | images | compared with | features |",
            "|---|---|---|---|---|---|",
        ]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in self._rows()]
        details = [
            f"- {score.name}: "
            + ", ".join(f"{key} {value:.6g}" for key, value in score.details.items())
            for score in self.scores
            if score.details
        ]
        if details:
            lines += ["", "## Details", "", *details]
        lines += ["", "## Protocol", "", *self._protocol_lines(), ""]
        return "\n".join(lines)

    def table(self) -> Table:
        """The scores as a table for the terminal."""
        table = Table(title=f"{self.protocol.count} images")
        for heading in ("metric", "value", "better", "images", "compared with", "features"):
            table.add_column(heading, justify="right" if heading in ("value", "images") else "left")
        for row in self._rows():
            table.add_row(*row)
        return table

    def save(self, folder: str | Path) -> Path:
        """Writes ``report.json`` and ``report.md`` into ``folder``; each appears whole."""
        folder = Path(folder)
        write_json(folder / "report.json", self.to_json())
        write_text(folder / "report.md", self.to_markdown())
        return folder

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                score.name,
                f"{score.value:.6g}",
                "higher" if score.higher_is_better else "lower",
                str(score.count),
                score.reference or "-",
                score.features or "-",
            )
            for score in self.scores
        ]

    def _protocol_lines(self) -> list[str]:
        protocol = self.protocol
        lines = [f"- images: {protocol.count}", f"- features: {protocol.features}"]
        lines += [
            f"- {role}: {record['name']}, {record['count']} images, sha256 {record['sha256']}"
            for role, record in protocol.references.items()
        ]
        for title, entries in (("setting", protocol.settings), ("version", protocol.versions)):
            lines += [f"- {title} {key}: {value}" for key, value in entries.items()]
        return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
