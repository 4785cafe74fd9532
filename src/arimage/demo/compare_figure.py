"""The figure and the table of a comparison of orders: ``compare.json`` drawn."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from arimage.files import new_file

PASSES, SPEED, FID = "passes", "images_per_second", "fid"
WIDE, HIGH, DPI = 5.4, 4.6, 120  # inches of a panel; dots per inch
ACROSS, ROW = 4, 0.27  # names in a row of the legend; inches of a row
MARKERS = "os^Dv*"  # of a family's first, second, ... order
AXES = {
    PASSES: "forward passes per image",
    SPEED: "images per second (tokens alone, without the decoder)",
}


def points_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The points of a contestant with their passes, fewest first."""
    found = [{PASSES: int(passes), **point} for passes, point in entry["points"].items()]
    return sorted(found, key=lambda point: point[PASSES])


def looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker by family/order: a colour for each family, a marker for each order."""
    from matplotlib import colormaps

    families = list(dict.fromkeys(name.partition("/")[0] for name in names))
    palette = colormaps["tab10" if len(families) <= 10 else "tab20"].colors
    found, seen = {}, dict.fromkeys(families, 0)
    for name in names:
        family = name.partition("/")[0]
        color = palette[families.index(family) % len(palette)]
        found[name] = {"color": color, "marker": MARKERS[seen[family] % len(MARKERS)]}
        seen[family] += 1
    return found


def draw(path: Path, record: dict[str, Any]) -> Path:
    """FID against forward passes and against images per second, side by side, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = record["entries"]
    rows = -(-(len(entries) + 1) // ACROSS)
    figure = Figure(figsize=(2 * WIDE, HIGH + ROW * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    styles = looks(list(entries))
    for axis, key in zip(axes, AXES, strict=True):
        for name, entry in entries.items():
            points = points_of(entry)
            x, y = [p[key] for p in points], [p[FID] for p in points]
            axis.plot(x, y, label=name, markersize=7, linewidth=1.3, alpha=0.9, **styles[name])
        axis.axhline(record["real"][FID], color="0.4", linestyle=":", label="real train digits")
        scale(axis, key)
    axes[0].set_ylabel("FID to held-out digits (lower is better)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=ACROSS, fontsize="small")
    settings = record["settings"]
    figure.suptitle(
        f"digits, {settings['flops']:.2g} training FLOPs each, {settings['images']} images", y=1.03
    )
    with new_file(path) as temporary:
        about = {"arimage": json.dumps(record)}
        figure.savefig(temporary, format="png", dpi=DPI, metadata=about, bbox_inches="tight")
    return path


def scale(axis: Any, key: str) -> None:
    """Log-log with few plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set(xscale="log", yscale="log", xlabel=AXES[key])
    low, high = axis.get_xlim()
    subs = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0)
    base = 2 if key == PASSES else 10
    axis.xaxis.set_major_locator(LogLocator(base, subs=(1.0,) if base == 2 else subs))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    for part in (axis.xaxis, axis.yaxis):
        part.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.grid(alpha=0.25)


def table(record: dict[str, Any]) -> Table:
    """A row for each contestant and number of passes, best FID first inside a contestant's."""
    made = Table(title=f"{record['settings']['flops']:.2g} training FLOPs each")
    for heading in ("model/order", "tokenizer", "parameters", "steps", "passes"):
        made.add_column(heading, no_wrap=heading == "model/order")
    for heading in ("FID", "accuracy", "images/s"):
        made.add_column(heading, justify="right")
    for name, entry in record["entries"].items():
        for number, point in enumerate(points_of(entry)):
            about = (name, entry["tokenizer"], str(entry["cost"]["parameters"]))
            about = (*about, str(entry["steps"])) if not number else ("", "", "", "")
            scores = (f"{point[FID]:.2f}", f"{point['accuracy']:.3f}", f"{point[SPEED]:.0f}")
            made.add_row(*about, str(point[PASSES]), *scores)
    return made
