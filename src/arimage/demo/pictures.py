"""The demo's pictures: samples, stages, reconstructions, losses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arimage.files import new_file
from arimage.generator import ImageGenerator
from arimage.images import grid, write_png
from arimage.shapes import UInt8
from arimage.training.common import History

ZOOM = 2
MAX_STAGES = 8
PAIRS = 20


def draw_samples(path: Path, pixels: UInt8[np.ndarray, "n h w 3"], num_classes: int) -> Path:
    """The first ten images of each class, a row per class (``pixels`` has the classes in turn)."""
    rows = pixels.reshape(-1, num_classes, *pixels.shape[1:])[:10].swapaxes(0, 1)
    return write_png(path, grid(rows.reshape(-1, *pixels.shape[1:]), rows.shape[1], zoom=ZOOM))


def draw_stages(path: Path, generator: ImageGenerator, class_labels: Sequence[int]) -> Path:
    """How one image per class grows: a row per class, a column per step (at most eight)."""
    previews = list(generator.stream(class_labels, seeds=0))
    steps = np.unique(np.linspace(0, len(previews) - 1, MAX_STAGES).round().astype(int))
    columns = [np.stack([np.asarray(image) for image in previews[i].images]) for i in steps]
    rows = np.stack(columns, axis=1)  # (classes, stages, h, w, 3)
    return write_png(path, grid(rows.reshape(-1, *rows.shape[2:]), len(steps), zoom=ZOOM))


def draw_reconstructions(
    path: Path, originals: UInt8[np.ndarray, "n h w 3"], decoded: UInt8[np.ndarray, "n h w 3"]
) -> Path:
    """Held-out images above what the tokenizer makes of them, ten pairs a row."""
    rows = []
    for i in range(0, min(PAIRS, len(originals)), 10):
        rows += [originals[i : i + 10], decoded[i : i + 10]]
    return write_png(path, grid(np.concatenate(rows), 10, zoom=ZOOM))


def draw_losses(path: Path, histories: Sequence[History]) -> Path:
    """One panel per training: every step's loss in grey, its running mean over 20 on top.

    Recorded parts of a loss (a transformer's: one per token map) are thin lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(histories), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(histories)))
    for axis, history in zip(panels, histories, strict=True):
        losses = np.asarray(history.losses)
        axis.plot(losses, color="0.8")
        axis.plot(*running_mean(losses), color="C0", label="loss")
        for i, (name, curve) in enumerate(history.parts.items(), start=1):
            axis.plot(*running_mean(np.asarray(curve)), color=f"C{i}", linewidth=0.8, label=name)
        if history.parts:
            axis.legend(fontsize="small", ncols=2)
        axis.set(title=history.name, xlabel="step", ylabel="loss")
        curves = [losses, *history.parts.values()]
        axis.set_ylim(0, max(float(np.quantile(curve, 0.98)) for curve in curves) * 1.1)
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path


def running_mean(values: np.ndarray, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """(steps, means over ``width`` steps); short curves come back as they are."""
    if len(values) < width:
        return np.arange(len(values)), values
    means = np.convolve(values, np.ones(width) / width, mode="valid")
    return np.arange(len(means)) + (width - 1) / 2, means
