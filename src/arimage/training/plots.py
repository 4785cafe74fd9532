"""Pictures of runs: curves of every run, and scaling laws where enough runs are comparable."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arimage.files import new_file
from arimage.training.run_records import (
    STEP,
    VALIDATION,
    VALIDATION_SCALE,
    Curve,
    RunRecord,
    read_runs,
)
from arimage.training.scaling import (
    COMPUTE,
    PARAMETERS,
    Group,
    Law,
    compute_curve,
    frontier,
    group_runs,
    laws,
    parameters,
    to_json,
)

RATE, FID = "learning rate", "fid"
ACROSS, WIDE, HIGH, DPI = 2, 5.2, 3.6, 110  # panels in a row; inches of a panel; dots per inch
AXIS = {
    PARAMETERS: "parameters N, without embeddings",
    COMPUTE: "training compute C (FLOPs)",
}


def plot_runs(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Draws everything that the runs have into ``out``; files of the same name are replaced.

    Args:
        folders: of runs of generators, tokenizers or both.
        out: made if it is not there.

    Returns:
        {"runs", "files", "fits", "left_out"}: names, paths, laws, sentences.

    Raises:
        FileNotFoundError, ValueError: as ``read_runs``; nothing is drawn.
        ModuleNotFoundError: without matplotlib.
    """
    import matplotlib  # noqa: F401  (said before anything is read)

    runs = read_runs(folders)
    groups, left = group_runs(runs)
    left = [f"the last line of {run.name} was torn" for run in runs if run.torn] + left
    out.mkdir(parents=True, exist_ok=True)
    generators, tokenizers = ([r for r in runs if r.is_generator == kind] for kind in (True, False))
    files = []
    if generators:
        files.append(draw_curves(out / "generators.png", generators, generator_panels(generators)))
    files += [draw_maps(path, run) for path, run in maps_of(out, generators)]
    if tokenizers:
        files.append(draw_curves(out / "tokenizers.png", tokenizers, all_panels(tokenizers)))
    fits = []
    for number, group in enumerate(groups):
        found, without = laws(group)
        left += without
        name = "scaling_law.png" if len(groups) == 1 else f"scaling_law_{number + 1}.png"
        files.append(draw_laws(out / name, group, found))
        fits.append(to_json(group, found))
    names = [run.name for run in runs]
    return {"runs": names, "files": [str(f) for f in files], "fits": fits, "left_out": left}


def generator_panels(runs: Sequence[RunRecord]) -> list[str]:
    """Losses, the learning rate, and every kind of FID that was measured."""
    keys = dict.fromkeys(key for run in runs for key in run.keys)
    chosen = ["loss", *(k for k in keys if k == VALIDATION), RATE]
    return [*chosen, *(k for k in keys if k.lower().startswith(FID))]


def all_panels(runs: Sequence[RunRecord]) -> list[str]:
    """Whatever was measured, and the learning rate."""
    return [*dict.fromkeys(key for run in runs for key in run.keys), RATE]


def maps_of(out: Path, runs: Sequence[RunRecord]) -> Iterator[tuple[Path, RunRecord]]:
    """(file, run) of the runs with several token maps."""
    for run in runs:
        if any(key.startswith("scale ") for key in run.keys):
            yield out / f"maps_{run.name.replace('/', '_')}.png", run


def draw_curves(path: Path, runs: Sequence[RunRecord], panels: Sequence[str]) -> Path:
    """A panel for each thing measured, a line for each run; one legend below them all."""
    figure, axes = new_figure(len(panels), legend_rows=-(-len(runs) // 3))
    for axis, key in zip(axes, panels, strict=True):
        for i, run in enumerate(runs):
            steps, values = run.rates() if key == RATE else run.curve(key)
            sparse = len(steps) < len(run.rows) / 2
            if not sparse:
                steps, values = smooth((steps, values))
            marker = "o" if sparse or len(steps) == 1 else None
            axis.plot(steps, values, color=f"C{i % 10}", marker=marker, markersize=3, linewidth=1.2)
        axis.set_title(titled(key))
        step_axis(axis)
    lines = [figure.axes[0].lines[i] for i in range(len(runs))]
    names = [run.name for run in runs]
    figure.legend(lines, names, loc="outside lower center", ncols=3, fontsize="small")
    return save(path, figure)


def step_axis(axis: Any) -> None:
    """Whole steps, few of them."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel(STEP)
    axis.grid(alpha=0.25)


def titled(key: str) -> str:
    """With its unit where it is known."""
    units = {"loss": "training loss, running mean (nats per token)"}
    return units.get(key, f"{key} (nats per token)" if key == VALIDATION else key)


def draw_maps(path: Path, run: RunRecord) -> Path:
    """Training and held-out loss of each token map, coarse to fine."""
    kinds = [("scale ", "training"), (VALIDATION_SCALE, "validation")]
    kinds = [kind for kind in kinds if any(key.startswith(kind[0]) for key in run.keys)]
    figure, axes = new_figure(len(kinds))
    import matplotlib

    for axis, (start, name) in zip(axes, kinds, strict=True):
        keys = [key for key in run.keys if key.startswith(start)]
        colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(keys)))
        for key, color in zip(keys, colors, strict=True):
            steps, values = smooth(run.curve(key))
            marker = "o" if len(steps) == 1 else None
            name_of = key.removeprefix("validation ")
            axis.plot(steps, values, color=color, label=name_of, marker=marker)
        axis.set(title=f"{run.name}: {name}", ylabel="loss (nats per token)")
        step_axis(axis)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    return save(path, figure)


def draw_laws(path: Path, group: Group, found: Sequence[Law]) -> Path:
    """A row for N and one for C, a column for each loss (the last token map, all of them)."""
    count = len(group.losses)
    figure, axes = new_figure(2 * count, across=count, legend_rows=-(-len(group.runs) // 4))
    for row, symbol in enumerate((PARAMETERS, COMPUTE)):
        for column, loss in enumerate(group.losses):
            axis = axes[row * count + column]
            law = next((w for w in found if (w.x, w.loss) == (symbol, loss)), None)
            x = (draw_sizes if symbol == PARAMETERS else draw_compute)(axis, group, loss)
            if law is not None:
                ends = np.asarray([x.min(), x.max()])
                axis.plot(ends, law.at(ends), "--", color="0.2", label=law.label())
                axis.legend(fontsize="small", loc="upper right")
            title = "all token maps" if loss == VALIDATION else f"last token map ({loss[11:]})"
            axis.set_title(title if count > 1 else "all tokens")
            axis.set(xlabel=AXIS[symbol], ylabel="validation loss (nats per token)")
            scaled_axes(axis, symbol)
    lines = [axes[count].lines[i] for i in range(len(group.runs))]
    names = [f"{run.name}: N = {short(parameters(run))}" for run in group.runs]
    figure.legend(lines, names, loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(f"scaling law: {group.name}")
    return save(path, figure)


def draw_sizes(axis: Any, group: Group, loss: str) -> np.ndarray:
    """The final loss of each run over N, which comes back."""
    sizes = np.asarray([parameters(run) for run in group.runs])
    for i, (run, size) in enumerate(zip(group.runs, sizes, strict=True)):
        axis.plot(size, run.curve(loss)[1][-1], "o", color=f"C{i % 10}")
    return sizes


def draw_compute(axis: Any, group: Group, loss: str) -> np.ndarray:
    """The loss of each run over C, and the frontier, whose C come back."""
    curves = [compute_curve(run, loss) for run in group.runs]
    for i, curve in enumerate(curves):
        marker = "." if len(curve[0]) < 3 else None
        axis.plot(*curve, color=f"C{i % 10}", alpha=0.6, linewidth=1, marker=marker)
    front = frontier(*(np.concatenate(part) for part in zip(*curves, strict=True)))
    axis.plot(*front, "o", color="0.2", markersize=3, label="Pareto frontier")
    return front[0]


def scaled_axes(axis: Any, symbol: str) -> None:
    """Log-log, few plain numbers on the axes, and room above the points for the legend."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis.set(xscale="log", yscale="log")
    low, high = np.log(axis.get_ylim())
    axis.set_ylim(np.exp(low), np.exp(high + 0.35 * (high - low)))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    left, right = np.log10(axis.get_xlim())
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right - left < 2 else (1,)))
    name = short if symbol == PARAMETERS else "{:.0e}".format
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: name(value)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.25)


def short(number: float) -> str:
    """12600 as 12.6k, with M and B above."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def smooth(curve: Curve) -> Curve:
    """Means over a fiftieth of the curve, at most 100 steps, so that batches do not hide it."""
    steps, values = curve
    width = min(100, len(values) // 50)
    if width < 2:
        return curve
    means = np.convolve(values, np.ones(width) / width, mode="valid")
    return steps[width - 1 :], means


def new_figure(panels: int, across: int = ACROSS, legend_rows: int = 0) -> tuple[Any, list[Any]]:
    """A figure without a window and its panels, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(across, panels)
    down = -(-panels // across)
    size = (max(WIDE * across, 6.4), HIGH * down + 0.25 * legend_rows)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(down, across)).ravel().tolist()
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes[:panels]


def save(path: Path, figure: Any) -> Path:
    """A PNG that appears whole or not at all."""
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return path
