"""What training on digits reaches on a CPU: seeds, the loop's cost, families at equal FLOPs, a law.

    OMP_NUM_THREADS=1 python benchmarks/generator_reach.py \\
        --out benchmarks/results/generator_reach.json --plots docs/images

- ``seeds``: validation losses of three seeds of each family, largest / smallest - 1 (below 2 %).
- ``loop``: CPU seconds of a step of ``Loop`` against a plain PyTorch loop on the same model, rows
  and optimizer, taken in turns in one process; ratio of the medians (below 1.10).
- ``families``: VAR, LlamaGen, RAR and masked with the same sizes, each for as many steps as make
  the same FLOPs, counted from the layers (``training/flops.py``). Tokenizers differ: next-scale has
  the token maps of digits-var, the others the one map of digits-llamagen; nats per image compare
  models of one tokenizer alone, quality compares all.
- ``law``: runs of one family in several widths, drawn by ``arimage plot``.

The train digits are split again: four fifths are trained on, with jittered copies, one fifth
validates. Held-out digits are FID's reference alone. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F

from arimage import ImageGenerator
from arimage.demo.digits import load_digits
from arimage.demo.family import (
    TRAIN,
    digit_tokenizers,
    digits_recipe,
    judged,
    train_run,
    write_tokens,
)
from arimage.demo.recipes import CLASSIFIER_STEPS, RECIPES
from arimage.eval.base import Reference
from arimage.eval.features.classifier import DigitFeatures
from arimage.files import write_json
from arimage.training.classifier import train_classifier
from arimage.training.generator_build import build_generator_task, build_transformer
from arimage.training.loop import Loop, make_accelerator
from arimage.training.plots import plot_runs
from arimage.training.run_records import VALIDATION, read_run
from arimage.training.token_data import TokenData

FAMILIES = {  # name -> tokenizer, family, order
    "var": ("digits-var", "var", "next_scale"),
    "llamagen": ("digits-llamagen", "llama", "raster"),
    "rar": ("digits-llamagen", "rar", "raster"),
    "masked": ("digits-llamagen", "llama", "masked"),
}
SEEDED = ("var", "llamagen", "rar")
SEEDS = (0, 1, 2)
WIDTHS = (16, 24, 32, 48, 64)  # of the law
DEPTH = 3


def recipe_of(family, steps, seed=0, width=64, depth=DEPTH):
    """The family's recipe."""
    return digits_recipe(*FAMILIES[family][1:], steps, seed, width=width, depth=depth)


def train(tokens, family, out, recipe):
    """One run; its record."""
    return train_run(tokens, FAMILIES[family][0], out, recipe)


def seeds_and_families(tokens, folder, steps):
    """Runs of equal FLOPs: (losses of the seeds, a row for each family)."""
    budget, seeds, rows = None, {}, {}
    for family in FAMILIES:
        probe = train(tokens, family, folder / f"probe-{family}", recipe_of(family, 1))
        cost = probe.record["cost"]
        budget = budget or steps * cost["flops_per_step"]
        own = round(budget / cost["flops_per_step"])
        losses = []
        for seed in SEEDS if family in SEEDED else SEEDS[:1]:
            out = folder / f"{family}-{seed}"
            run = train(tokens, family, out, recipe_of(family, own, seed))
            losses.append(float(run.curve(VALIDATION)[1][-1]))
            print(f"{out.name}: {losses[-1]:.4f} nats per token", file=sys.stderr, flush=True)
        slots = TokenData(tokens[FAMILIES[family][0], TRAIN]).num_slots
        rows[family] = {
            "tokenizer": FAMILIES[family][0],
            "tokens": slots,
            **cost,
            "steps": own,
            "flops": own * cost["flops_per_step"],
            "validation_loss": round(losses[0], 4),
            "nats_per_image": round(losses[0] * slots, 2),
        }
        if family in SEEDED:
            spread = max(losses) / min(losses) - 1
            seeds[family] = {"losses": [round(x, 4) for x in losses], "spread": round(spread, 4)}
    return seeds, rows


def judge(folder, rows, per_class):
    """Adds label accuracy and FID of ``per_class`` images of each class to the rows."""
    train_digits, held_out = load_digits()
    classifier = train_classifier(
        train_digits.pixels, train_digits.labels, steps=CLASSIFIER_STEPS, seed=0, progress=False
    )
    features = DigitFeatures(classifier)
    reference = Reference.from_pixels("held-out digits", held_out.pixels, features)
    for family, row in rows.items():
        settings = RECIPES[FAMILIES[family][2]].settings
        generator = ImageGenerator.from_pretrained(folder / f"{family}-0")
        generator.settings = settings
        row["guidance_scale"] = settings.guidance_scale
        row |= judged(generator, per_class, features=features, reference=reference)


def loop_cost(tokens, family, rounds):
    """CPU seconds of a step in turns: medians and their ratio."""
    recipe = recipe_of(family, 10 * rounds)
    data = TokenData(tokens[FAMILIES[family][0], TRAIN])
    tokenizer, batches = data.load_tokenizer(), data.batches(recipe.batch_size)
    models = [build_transformer(recipe, tokenizer, 10, None) for _ in range(2)]
    task = build_generator_task(recipe, models[0], tokenizer)
    loop = Loop(task, task.recipe, make_accelerator())
    plain, order, slots = models[1].train(), task.order, tokenizer.slots
    optimizer = torch.optim.AdamW(plain.parameters(), lr=2e-3, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)

    def plain_step(batch):
        labels = torch.where(torch.rand(len(batch.labels)) < 0.1, 10, batch.labels)
        lesson = order.lesson(batch.ids, generator)
        logits = plain.head(plain(lesson.inputs, plain.prepare(labels), lesson.step))
        losses = F.cross_entropy(logits.transpose(1, 2), lesson.targets, reduction="none")
        maps = [losses[:, slice(*slots.span(k))].mean().item() for k in range(slots.num_scales)]
        optimizer.zero_grad()
        loss = losses.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        return loss.item(), maps

    seconds = {"loop": [], "plain": []}
    for _ in range(rounds):
        batch = next(batches)
        for name, step in (("loop", loop.step), ("plain", plain_step)):
            start = time.process_time()
            step(batch)
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(times[5:]) for name, times in seconds.items()}
    ratio = medians["loop"] / medians["plain"]
    return {**{k: round(v, 5) for k, v in medians.items()}, "ratio": round(ratio, 3)}


def law(tokens, folder, steps, plots):
    """Runs of several widths, and what ``arimage plot`` says of them."""
    outs = [folder / f"width-{width}" for width in WIDTHS]
    for out, width in zip(outs, WIDTHS, strict=True):
        train(tokens, "var", out, recipe_of("var", steps, width=width, depth=2))
        print(f"{out.name} is trained", file=sys.stderr, flush=True)
    made = plot_runs(outs, folder / "plots")
    if plots:
        plots.mkdir(parents=True, exist_ok=True)
        (plots / "scaling_law.png").write_bytes((folder / "plots/scaling_law.png").read_bytes())
    runs = [read_run(out, out.name) for out in outs]
    points = [
        {**run.record["cost"], "steps": steps, VALIDATION: float(run.curve(VALIDATION)[1][-1])}
        for run in runs
    ]
    return {"points": points, "fits": made["fits"], "left_out": made["left_out"]}


def main():
    """Measures, writes after each part, prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300, help="of VAR; others by FLOPs")
    parser.add_argument("--law-steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=60, help="of the loop's cost")
    parser.add_argument("--per-class", type=int, default=50, help="images that are judged")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--plots", type=Path, help="folder of scaling_law.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = {name: version(name) for name in ("arimage", "torch", "accelerate")}
    record = {
        "command": " ".join(["python", "benchmarks/generator_reach.py", *sys.argv[1:]]),
        "device": f"cpu, one thread, {platform.machine()}, Python {platform.python_version()}",
        "versions": versions,
    }

    def keep(**found):
        record.update(found)
        if options.out:
            write_json(options.out, record)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = write_tokens(folder, digit_tokenizers())
        keep(loop={family: loop_cost(tokens, family, options.rounds) for family in FAMILIES})
        print(record["loop"], file=sys.stderr, flush=True)
        keep(law=law(tokens, folder, options.law_steps, options.plots))
        seeds, rows = seeds_and_families(tokens, folder, options.steps)
        keep(seeds=seeds, families=rows)
        judge(folder, rows, options.per_class)
        keep(families=rows)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
