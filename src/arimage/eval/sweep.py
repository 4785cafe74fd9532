"""Scores along a grid of settings: FID against IS, or precision against recall, and their front.

The front (Pareto) are the points that no other beats in both scores: what truncation, guidance or
rejection can buy with what. Everything below it is a setting that nobody should choose.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from arimage.eval.report import Report
from arimage.files import new_file, write_json

AXES = (("inception_score", "fid"), ("recall", "precision"))  # x, y of the plot, if both are there
Done = Sequence[tuple[dict[str, Any], Any]]  # settings and their report
MOST = 200  # points of one sweep
APART = re.compile(r",(?![^\[]*\])")  # a comma that is not inside a list in brackets


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """``name=1:4:0.5`` (from, to, step; both ends) or ``name=1,2,none`` to values by name.

    Raises:
        ValueError: anything else, or more than 200 points.
    """
    grid = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name or not values:
            raise ValueError(f"got {text!r}; write a sweep as name=1:4:0.5 or name=1,2,3")
        grid[name] = (
            _range(text, values) if ":" in values else [_value(v) for v in APART.split(values)]
        )
    points = 1
    for values in grid.values():
        points *= len(values)
    if points > MOST:
        raise ValueError(f"got a sweep of {points} points; at most {MOST}: take larger steps")
    return grid


def _range(text: str, values: str) -> list[Any]:
    try:
        first, last, step = (float(part) for part in values.split(":"))
    except ValueError as error:
        raise ValueError(
            f"got {text!r}; a range is first:last:step, for example 1:4:0.5"
        ) from error
    if not (0 < step < math.inf and -math.inf < first <= last < math.inf):
        raise ValueError(f"got {text!r}; a range runs upwards by a step above 0")
    count = int((last - first) / step + 1e-9) + 1
    found = [round(first + i * step, 10) for i in range(count)]
    return [int(value) for value in found] if all(v == int(v) for v in found) else found


def _value(text: str) -> Any:
    if text.lower() in ("none", "off"):
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def points(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, the last name fastest."""
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def sweep(
    grid: Mapping[str, Sequence[Any]], score: Callable[[dict[str, Any]], Report], out: str | Path
) -> list[tuple[dict[str, Any], Report]]:
    """Scores every point; ``sweep.json`` is whole after each, ``sweep.png`` is drawn at the end.

    Args:
        grid: values by the name of a setting.
        score: a report for settings; with a cache a repeated sweep is quick.
        out: folder of the results; each report is kept in one of its own. ``sweep.json`` names the
            points of the front of the first two scores of ``AXES`` that are there.
    """
    out, done = Path(out), []
    for i, settings in enumerate(points(grid)):
        report = score(settings)
        report.save(out / f"{i:03d}")
        done.append((settings, report))
        write_json(out / "sweep.json", {"points": records(done)})
    draw(done, out / "sweep.png")
    return done


def records(done: Done) -> list[dict[str, Any]]:
    """Settings, scores, and whether a point is on the front, as far as there is one."""
    axes = axes_of(done)
    best = front(done, *axes[0]) if axes else []
    return [
        {"settings": settings, "scores": {name: report[name].value for name in report}}
        | ({"front": i in best} if axes else {})
        for i, (settings, report) in enumerate(done)
    ]


def axes_of(done: Done) -> list[tuple[str, str]]:
    """Pairs of scores that were computed."""
    return [pair for pair in AXES if all(name in done[0][1] for name in pair)]


def front(done: Done, x: str, y: str) -> list[int]:
    """The points that no other is as good as in both scores and better in one, by growing x."""
    signs = [1 if done[0][1][name].higher_is_better else -1 for name in (x, y)]
    values = [
        tuple(sign * report[name].value for sign, name in zip(signs, (x, y), strict=True))
        for _, report in done
    ]
    best = [
        i
        for i, (a, b) in enumerate(values)
        if not any(c >= a and d >= b and (c, d) != (a, b) for c, d in values)
    ]
    return sorted(best, key=lambda i: values[i][0] * signs[0])


def draw(done: Done, path: Path) -> Path | None:
    """FID against IS and precision against recall, as far as they were computed; None if neither.

    Raises:
        ModuleNotFoundError: matplotlib is missing (the extra ``eval``).
    """
    axes = axes_of(done)
    if not axes:
        return None
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(axes), figsize=(6 * len(axes), 5), squeeze=False)
    for panel, (x, y) in zip(panels[0], axes, strict=True):
        values = [(report[x].value, report[y].value) for _, report in done]
        best = [values[i] for i in front(done, x, y)]
        panel.plot(*zip(*values, strict=True), "o", color="#8fa9bd", markersize=5)
        panel.plot(*zip(*best, strict=True), "o-", color="#30638e", markersize=5, label="front")
        panel.legend(fontsize=8)
        for (settings, _), place in zip(done, values, strict=True):
            text = ", ".join(f"{value}" for value in settings.values())
            panel.annotate(text, place, xytext=(4, 4), textcoords="offset points", fontsize=8)
        panel.set_xlabel(x.replace("_", " "))
        panel.set_ylabel(y.replace("_", " "))
        panel.grid(alpha=0.3)
    figure.suptitle(f"points: {', '.join(done[0][0])}; {done[0][1].protocol.count} images each")
    figure.tight_layout()
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
    return path
