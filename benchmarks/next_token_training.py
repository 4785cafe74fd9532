"""Do next-token transformers learn digits: one in raster order, one from random orders (RAR)?

    python benchmarks/next_token_training.py --out benchmarks/results/next_token_training.json \\
        --plot docs/images/next_token_training.png

Both have four blocks of width 96, the tokens of one tokenizer (of the preset digits-llamagen), the
same steps, batch, seed and peak rate, and else their published recipe. The train digits are split
again: four fifths are trained on (with jittered copies, as in the demo) and one fifth validates;
the held-out digits are not touched. Losses are nats per token given the class, in raster order
also where random orders are taught. The last line is one JSON object.
"""

import argparse
import functools
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from arimage import ImageGenerator
from arimage.demo.digits import load_digits
from arimage.files import new_file, write_json
from arimage.generator import make_order
from arimage.training.ar_trainer import score_tokens
from arimage.training.generator_trainer import train_on_tokens
from arimage.training.recipes import find_recipe
from arimage.training.tokens import make_tokens

RECIPES = ("llamagen", "rar")
RATE = "learning_rate=2e-3"  # of the recipe "small"; the published ones are for millions of images


@functools.cache
def token_sets(copies, seed):
    """The tokenizer, the tokens that are trained on and those that validate."""
    tokenizer = ImageGenerator.from_pretrained("digits-llamagen").tokenizer
    train, _ = load_digits()
    part = np.random.default_rng(0).permutation(len(train.labels)) % 5
    inside, outside = np.flatnonzero(part), np.flatnonzero(part == 0)
    extra = {"jittered_copies": copies, "seed": seed}
    tokens = make_tokens(tokenizer, train.pixels[inside], train.labels[inside], **extra)
    check = make_tokens(tokenizer, train.pixels[outside], train.labels[outside], num_classes=10)
    return tokenizer, tokens, check


def curve(name, steps, every, copies, seed, progress=True):
    """Validation loss of a recipe every so many steps: steps, losses, parameters."""
    tokenizer, tokens, check = token_sets(copies, seed)
    recipe = find_recipe(name, [RATE], steps=steps, seed=seed, progress=progress)
    record = {"steps": [], "losses": []}

    def watch(step, model):
        if step == 1 or step % every == 0:
            score = score_tokens(model, make_order(tokenizer, model), check.ids, check.class_labels)
            record["steps"].append(step)
            record["losses"].append(round(score["loss"], 4))

    generator, _ = train_on_tokens(tokenizer, tokens, recipe, watch=watch)
    record["parameters"] = sum(p.numel() for p in generator.transformer.parameters())
    record["anneal"] = [recipe.anneal_start, recipe.anneal_end]
    return record


def draw(path, curves, steps):
    """All curves in one plot; where random orders give way to raster is shaded."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, (name, record) in enumerate(curves.items()):
        axis.plot(record["steps"][1:], record["losses"][1:], color=f"C{i}", label=name)
        start, end = (share * steps for share in record["anneal"])
        if end:
            label = f"{name}: random orders give way to raster"
            axis.axvspan(start, end, color=f"C{i}", alpha=0.15, linewidth=0, label=label)
    axis.set(xlabel="step", ylabel="validation loss, nats per token", title="digits, raster order")
    axis.legend(fontsize="small")
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main():
    """Trains, writes, prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="one of them alone")
    parser.add_argument("--out", type=Path, help="JSON; recipes that it has already are kept")
    parser.add_argument("--plot", type=Path, help="PNG")
    options = parser.parse_args()
    budget = {name: getattr(options, name) for name in ("steps", "every", "copies", "seed")}
    curves = {}
    if options.out and options.out.exists():
        before = json.loads(options.out.read_text())
        curves = before["curves"] if before["budget"] == budget else {}
    for name in options.recipe or RECIPES:
        curves[name] = curve(name, **budget)
        print(f"{name:10} {curves[name]['losses'][-1]:.3f} nats per token", flush=True)
    curves = {name: curves[name] for name in RECIPES if name in curves}
    versions = {name: version(name) for name in ("arimage", "torch", "accelerate")}
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    record = {"budget": budget, "curves": curves, "machine": machine, "versions": versions}
    if options.out:
        write_json(options.out, record)
    if options.plot:
        draw(options.plot, curves, options.steps)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
