"""How many passes does raster decoding save by guessing ahead (order "jacobi")?

    python benchmarks/guessing_ahead.py --images 64 --plot docs/images/guessing_ahead.png

Passes per image and seconds beside raster order, at several batch sizes and temperatures, after a
pass to warm up. The tokens are compared, too: ``equal`` is the share that raster order draws.
Last line: one JSON object.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from arimage import ImageGenerator
from arimage.ar.orders.jacobi import JacobiOrder
from arimage.parts import make_order


def made(
    generator: ImageGenerator, order: Any, seeds: list[int], **settings: Any
) -> tuple[torch.Tensor, int, float]:
    """Tokens of the seeds, passes and seconds."""
    generator.order = lambda num_steps=None: order  # type: ignore[method-assign]
    labels = [seed % generator.transformer.config.num_classes for seed in seeds]
    began = time.perf_counter()
    *_, state = generator.sample(labels, seeds=seeds, **settings)
    return state.ids, state.step, time.perf_counter() - began


def compared(
    generator: ImageGenerator, window: int, batch: int, images: int, **settings: Any
) -> dict[str, Any]:
    """Passes per image, seconds and equal tokens, over as many images in batches."""
    parts = generator.tokenizer, generator.transformer
    orders = {
        "raster": make_order(*parts),
        "jacobi": JacobiOrder(parts[0], parts[1].prefix_length, generator.device, window=window),
    }
    found: dict[str, list[Any]] = {name: [] for name in orders}
    for start in range(0, images, batch):
        for name, order in orders.items():
            seeds = list(range(start, start + batch))
            found[name].append(made(generator, order, seeds, **settings))
    pairs = zip(found["raster"], found["jacobi"], strict=True)
    equal = torch.cat([(a[0] == b[0]).flatten() for a, b in pairs]).float().mean()
    return {
        "window": window,
        "batch": batch,
        **settings,
        "steps": orders["raster"].num_steps,
        "passes": round(sum(run[1] for run in found["jacobi"]) / len(found["jacobi"]), 2),
        "speedup": round(
            sum(run[2] for run in found["raster"]) / sum(run[2] for run in found["jacobi"]), 2
        ),
        "equal": round(float(equal), 4),
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Passes per image against the window; a line for each temperature and batch size."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(7, 4.2))
    for batch, style in zip(sorted({row["batch"] for row in rows}), ("o-", "s--"), strict=False):
        for number, heat in enumerate(sorted({row["temperature"] for row in rows})):
            line = [r for r in rows if (r["batch"], r["temperature"]) == (batch, heat)]
            places = [r["window"] for r in line], [r["passes"] for r in line]
            together = "1 image" if batch == 1 else f"{batch} images"
            label = f"temperature {heat}, {together} at once"
            panel.plot(*places, style, color=f"C{number}", markersize=4, label=label)
    panel.axhline(rows[0]["steps"], color="grey", linestyle=":", label="raster order")
    panel.set_xlabel("tokens guessed at once (window)")
    panel.set_ylabel("passes per image")
    panel.set_ylim(top=rows[0]["steps"] + 2.5)
    panel.legend(fontsize=7, ncols=2, loc="upper right")
    panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> None:
    """Prints a line for each case, then all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits-llamagen")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--windows", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.5, 0.0])
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    generator = ImageGenerator.from_pretrained(options.model)
    compared(generator, options.windows[0], 1, 1)
    rows = []
    for window in options.windows:
        for batch in options.batches:
            for temperature in options.temperatures:
                sizes = window, batch, options.images
                rows.append(compared(generator, *sizes, temperature=temperature))
                print(rows[-1])
    if options.plot is not None:
        draw(rows, options.plot)
    about = {"device": platform.processor() or platform.machine(), "torch": torch.__version__}
    print(json.dumps({"model": options.model, "images": options.images, "cases": rows, **about}))


if __name__ == "__main__":
    main()
