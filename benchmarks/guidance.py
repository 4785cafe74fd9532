"""What do the ways to guide and to choose do to fidelity and variety on digits?

    python benchmarks/guidance.py --out benchmarks/results/guidance_digits_cpu.json \\
        --plot docs/images/guidance.png

On the packaged ``digits-llamagen`` (raster order) and ``digits-var`` (next scale) in float32: a
curve for each technique, from the model without guidance on, and for annealed classes from the same
guidance on. 500 images a point, classes in turn, seeds 0 to 499; FID, inception score, accuracy and
recall by the packaged classifier against the held-out digits. "other seeds" (500 to 999) is the
yardstick: what another draw of the same model moves.

The weaker model of autoguidance is trained here, over the same tokenizer on the train digits, for a
tenth of the steps. Rejection is by another classifier than the one that scores, trained here with
another seed. Points that ``--out`` has are not made again. The last line is one JSON object.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import about

from arimage import ImageGenerator, evaluate
from arimage.demo.digits import load_digits
from arimage.eval.features.classifier import DigitFeatures
from arimage.eval.protocols import find_protocol
from arimage.files import write_json
from arimage.training.classifier import train_classifier
from arimage.training.generator_trainer import train_on_tokens
from arimage.training.recipes import RECIPES
from arimage.training.tokens import make_tokens

RASTER, SCALES, COUNT = "digits-llamagen", "digits-var", 500
METRICS = ("fid", "inception_score", "accuracy", "recall")
WEAK_STEPS, JUDGE_STEPS, JUDGE_SEED = 120, 300, 7
RISING_AND_FALLING = [round(1 - abs(2 * i / 15 - 1), 3) for i in range(16)]  # 0 at both ends
SHOWN = 6.5  # FID
Point = tuple[str, dict[str, Any]]
RASTER_CURVES: dict[str, list[Point]] = {
    "guidance": [(f"{s}", {"guidance_scale": s}) for s in (1.5, 2.0, 3.0, 5.0)],
    "guidance, steps 4 to 11": [
        (f"{s}", {"guidance_scale": s, "guidance_schedule": "interval first=4 last=11"})
        for s in (1.5, 2.0, 3.0, 5.0)
    ],
    "guidance, a list that rises and falls": [
        (
            f"{s}",
            {
                "guidance_scale": s,
                "guidance_schedule": {"name": "per_step", "shares": RISING_AND_FALLING},
            },
        )
        for s in (2.0, 3.0, 5.0)
    ],
    "autoguidance": [(f"{s}", {"guide_scale": s}) for s in (1.25, 1.5, 2.0)],
    "annealed class, guidance 3": [
        (f"tau1 {tau1}", {"guidance_scale": 3.0, "annealing": f"cads tau1={tau1}"})
        for tau1 in (0.8, 0.6, 0.2)
    ],
    "temperature": [(f"{t}", {"temperature": t}) for t in (0.9, 0.75, 0.5)],
    "top-k": [(f"{k}", {"top_k": k}) for k in (32, 8)],
    "rejection": [("1/2", {"keep": 0.5}), ("1/4", {"keep": 0.25})],
}
ANNEALED = {  # of four maps
    "first map": "cads tau1=0.95 tau2=1 noise_scale=0.25",
    "some": "cads tau1=0.6 tau2=0.9 noise_scale=0.1",
    "most": "cads tau1=0.2 tau2=1 noise_scale=0.1",
}
SCALE_CURVES: dict[str, list[Point]] = {
    "guidance": [(f"{s}", {"guidance_scale": s}) for s in (1.5, 2.0, 3.0, 5.0)],
    "guidance, off at the last of 4 maps": [
        (f"{s}", {"guidance_scale": s, "guidance_schedule": "interval first=0 last=2"})
        for s in (1.5, 3.0, 5.0)
    ],
    **{
        f"guidance {s}, annealed class": [
            (name, {"guidance_scale": float(s), "annealing": how}) for name, how in ANNEALED.items()
        ]
        for s in (3, 5)
    },
    "temperature": [(f"{t}", {"temperature": t}) for t in (0.9, 0.75, 0.5)],
    "rejection": [("1/2", {"keep": 0.5}), ("1/4", {"keep": 0.25})],
}
CURVES = {RASTER: RASTER_CURVES, SCALES: SCALE_CURVES}


def weaker_model(generator: ImageGenerator) -> ImageGenerator:
    """A transformer over the same tokenizer that was trained for less."""
    train, _ = load_digits()
    tokens = make_tokens(generator.tokenizer, train.pixels, train.labels, jittered_copies=2)
    recipe = dataclasses.replace(RECIPES["small"], steps=WEAK_STEPS, seed=1, progress=False)
    return train_on_tokens(generator.tokenizer, tokens, recipe, "raster")[0]


def other_judge() -> DigitFeatures:
    """A classifier that takes no part in the scores."""
    train, _ = load_digits()
    options = {"steps": JUDGE_STEPS, "seed": JUDGE_SEED, "progress": False}
    return DigitFeatures(train_classifier(train.pixels, train.labels, **options))


def scores(generator: ImageGenerator, settings: dict[str, Any], first: int = 0) -> dict[str, float]:
    """By the packaged classifier."""
    changes = {"name": "digits-500-v1", "count": COUNT, "first_seed": first, "metrics": METRICS}
    plan = dataclasses.replace(find_protocol("digits-1k"), **changes)
    start = time.process_time()
    report = evaluate(generator.stream_dataset(plan, batch_size=250, **settings), batch_size=250)
    found = {name: round(float(report[name].value), 4) for name in METRICS}
    return found | {"cpu_seconds": round(time.process_time() - start, 1)}


def measured(model: str, found: dict[str, Any], keep: Callable[[], None]) -> None:
    """Fills ``found`` with what it does not have of a model, kept after each point."""
    generator = ImageGenerator.from_pretrained(model, dtype=torch.float32)
    base = {"guidance_scale": 1.0, "guidance_schedule": "constant"}
    made: dict[str, Any] = {}

    def once(name: str, make: Callable[[], Any]) -> Any:
        if name not in made:
            made[name] = make()
        return made[name]

    def point(curve: str, label: str, settings: dict[str, Any], first: int = 0) -> None:
        if label in found.setdefault(curve, {}):
            return
        more = {}
        if "guide_scale" in settings:
            more["guide"] = once("guide", lambda: weaker_model(generator))
        if "keep" in settings:
            more["classifier"] = once("judge", other_judge)
        found[curve][label] = scores(generator, {**base, **settings, **more}, first)
        print(f"{curve:40} {label:10} {found[curve][label]}", flush=True)
        keep()

    point("none", "seeds 0 to 499", {})
    point("none", "other seeds", {}, COUNT)
    for curve, points in CURVES[model].items():
        for label, settings in points:
            point(curve, label, settings)
    if "autoguidance" in CURVES[model] and "weaker model alone" not in found["none"]:
        weak = once("guide", lambda: weaker_model(generator))
        found["none"]["weaker model alone"] = scores(weak, base)
        keep()


def draw(results: dict[str, Any], path: Path) -> None:
    """FID against inception score, recall against accuracy; a row of panels for each model."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(14, 12.4))
    for row, (model, found) in zip(panels, results.items(), strict=True):
        for panel, axes in zip(
            row, (("inception_score", "fid"), ("accuracy", "recall")), strict=True
        ):
            draw_panel(panel, model, found, axes)
        row[0].legend(fontsize=8)
    figure.suptitle(f"{COUNT} images a point")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def draw_panel(panel: Any, model: str, found: dict[str, Any], axes: tuple[str, str]) -> None:
    """A line for each technique; curves with an FID above ``SHOWN`` are left to the table."""
    import matplotlib

    (x, y), colours = axes, matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for colour, curve in zip(colours, CURVES[model], strict=False):
        rows = {label: found[curve][label] for label, _ in CURVES[model][curve]}
        points = {label: row for label, row in rows.items() if row["fid"] <= SHOWN}
        if curve.endswith("annealed class"):  # from the same guidance on
            begin = found["guidance"][f"{float(curve.split()[1].strip(',')):.1f}"]
        else:
            begin = found["none"]["seeds 0 to 499"]
        if not points:
            continue
        values = np.array([[row[x], row[y]] for row in (begin, *points.values())])
        panel.plot(*values.T, "o-", color=colour, markersize=4, linewidth=1.4, label=curve)
        for label, place in zip(points, values[1:], strict=True):
            options = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 7}
            panel.annotate(label, place, color=colour, **options)
    for label, mark in (("seeds 0 to 499", "k*"), ("other seeds", "kx")):
        row = found["none"][label]
        panel.plot(row[x], row[y], mark, markersize=11, label=f"no guidance, {label}")
    panel.set_title(model, fontsize=10)
    panel.set_xlabel(x.replace("_", " "))
    panel.set_ylabel(y.upper() if y == "fid" else y)
    panel.grid(alpha=0.3)


def main() -> None:
    """Runs, draws and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    record = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    results = record.get("results", {})
    facts = about(" and ".join(CURVES), "cpu")

    def keep() -> None:
        write_json(asked.out, {**facts, "count": COUNT, "results": results})

    for model in CURVES:
        measured(model, results.setdefault(model, {}), keep)
    keep()
    if asked.plot is not None:
        draw(results, asked.plot)
    print(asked.out.read_text().replace("\n", " "))


if __name__ == "__main__":
    main()
