"""What ``evaluate`` returns: the scores, and under what protocol they were made."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from arimage.eval.base import Score
from arimage.files import read_json, write_json, write_text
from arimage.registry import unknown_name

# Keys of a score's details: of the same metric before a training, and after a token map.
BEFORE, CHANGE, CHANGE_ERROR = "before", "change", "change_error"
SCALE = "scale_"
SCALES = "Scale k: images after the first k token maps, codes of map k."
HEADINGS = ("images", "compared with", "features")
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

    Attributes:
        count: generated images.
        features: the extractor.
        name: of the named protocol, with its version; None where there is none.
        source: where the images came from.
        size: (height, width) of the images.
        references: "reference" and "training" to a record with name, count and sha256, for the
            sets that were used.
        settings: whatever the caller wants to be remembered.
        skipped: images that could not be read, with the reason.
        warnings: what a reader of the scores has to know.
        deviations: in what the run was not the named protocol, or not its authors' settings.
        seconds: that it took.
        versions: of what computed the numbers.
    """

    count: int
    features: str
    name: str | None = None
    source: str | None = None
    size: tuple[int, int] | None = None
    references: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)
    seconds: float | None = None
    versions: dict[str, str] = field(default_factory=versions)


@dataclass(frozen=True, kw_only=True)
class Report(Mapping[str, Score]):
    """Scores by metric name (``report["fid"].value``), with their protocol."""

    scores: tuple[Score, ...]
    protocol: Protocol
    gallery: Any = None  # eval.gallery.Gallery, for the page; not in the JSON

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
        protocol = asdict(self.protocol)
        protocol["size"] = protocol["size"] and list(protocol["size"])
        return {"scores": [score.to_json() for score in self.scores], "protocol": protocol}

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Reads ``report.json``, or the folder that holds it.

        Raises:
            FileNotFoundError: no such file. ValueError: a file that is no report.
        """
        path = Path(path)
        path = path / "report.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"no report at {path}; give a report.json or its folder")
        record = read_json(path)
        try:
            scores = tuple(Score.from_json(score) for score in record["scores"])
            protocol = dict(record["protocol"])
            size = protocol.get("size")
            protocol["size"] = None if size is None else (size[0], size[1])
            return cls(scores=scores, protocol=Protocol(**protocol))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a report of this package ({error})") from error

    def to_markdown(self) -> str:
        """A table of the scores, then the protocol line by line."""
        lines = ["# Evaluation", "", *_markdown(self.headings, self.rows())]
        headings, rows = self.by_detail(SCALE)
        if rows:
            lines += ["", "## Scales", "", SCALES, "", *_markdown(("scale", *headings), rows)]
        for title, sentences in self._remarks():
            lines += ["", f"## {title}", "", *(f"- {sentence}" for sentence in sentences)]
        details = [
            f"- {score.name}: "
            + ", ".join(f"{key} {value:.6g}" for key, value in score.details.items())
            for score in self.scores
            if score.details
        ]
        if details:
            lines += ["", "## Details", "", *details]
        lines += ["", "## Protocol", "", *(f"- {line}" for line in self.protocol_lines()), ""]
        return "\n".join(lines)

    def table(self) -> Table:
        """The scores as a table for the terminal."""
        return _table(f"{self.protocol.count} images", self.headings, self.rows())

    def tables(self) -> list[Table]:
        """The scores, and those after each token map if there are some."""
        found = [self.table()]
        headings, rows = self.by_detail(SCALE)
        return found + (
            [
                _table(
                    "scale k: images after k token maps, codes of map k", ("scale", *headings), rows
                )
            ]
            if rows
            else []
        )

    def save(self, folder: str | Path) -> Path:
        """Writes ``report.json``, ``report.md`` and ``report.html`` into ``folder``."""
        from arimage.eval.page import write_page

        folder = Path(folder)
        write_json(folder / "report.json", self.to_json())
        write_text(folder / "report.md", self.to_markdown())
        write_page(self, folder / "report.html", self.gallery)
        return folder

    @property
    def headings(self) -> tuple[str, ...]:
        """Of ``rows``."""
        change = (BEFORE, CHANGE) if self._compares else ()
        return ("metric", "value", "± (s.e.)", *change, "better", *HEADINGS)

    @property
    def _compares(self) -> bool:
        return any(BEFORE in score.details for score in self.scores)

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each score, as text."""
        return [
            (
                score.name,
                f"{score.value:.6g}",
                "-" if score.standard_error is None else f"{score.standard_error:.2g}",
                *(_change(score) if self._compares else ()),
                "higher" if score.higher_is_better else "lower",
                str(score.count),
                score.reference or "-",
                score.features or "-",
            )
            for score in self.scores
        ]

    def by_detail(self, prefix: str) -> tuple[list[str], list[tuple[str, ...]]]:
        """Details whose keys begin with ``prefix`` (of a class, of a scale): the names of the
        scores that have some, and rows of the rest of the key and each score's, as text."""
        found: dict[str, dict[str, float]] = {}
        for score in self.scores:
            for key, value in score.details.items():
                if key.startswith(prefix):
                    found.setdefault(key.removeprefix(prefix), {})[score.name] = value
        names = [s.name for s in self.scores if any(s.name in row for row in found.values())]
        return names, [
            (label, *(f"{row[name]:.4g}" if name in row else "" for name in names))
            for label, row in found.items()
        ]

    def _remarks(self) -> list[tuple[str, list[str]]]:
        protocol = self.protocol
        titled = (
            ("Warnings", protocol.warnings),
            ("Not as the protocol or the authors have it", protocol.deviations),
            ("Images that could not be read", protocol.skipped),
        )
        return [(title, sentences) for title, sentences in titled if sentences]

    def protocol_lines(self) -> list[str]:
        """What the scores were made from and by, a line each."""
        protocol = self.protocol
        size = f", {protocol.size[1]} x {protocol.size[0]} pixels" if protocol.size else ""
        lines = [f"protocol: {protocol.name}"] if protocol.name else []
        lines += [f"images: {protocol.count}{size}", f"features: {protocol.features}"]
        lines += [
            f"{role}: {record['name']}, {record['count'] or 'unknown number of'} images, sha256 "
            f"{record['sha256']}"
            for role, record in protocol.references.items()
        ]
        for title, entries in (("setting", protocol.settings), ("version", protocol.versions)):
            lines += [f"{title} {key}: {_said(value)}" for key, value in entries.items()]
        return lines


def _said(value: Any) -> str:
    """Nested settings without braces and quotes."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(part)}" for key, part in value.items())
    return str(value)


def _change(score: Score) -> tuple[str, str]:
    """The value before and the change, with its standard error, as text."""
    details = score.details
    if BEFORE not in details:
        return "-", "-"
    error = f" ± {details[CHANGE_ERROR]:.2g}" if CHANGE_ERROR in details else ""
    return f"{details[BEFORE]:.6g}", f"{details[CHANGE]:+.4g}{error}"


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for heading in headings:
        words = heading in ("metric", "better", "compared with", "features")
        table.add_column(heading, justify="left" if words else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [headings, ["---"] * len(headings), *([_cell(text) for text in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
