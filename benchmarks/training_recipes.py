"""Which recipe trains a small next-scale transformer best in equal steps, on digits?

    python benchmarks/training_recipes.py --recipe small --recipe "var learning_rate=8e-3"

The train digits are split again: four fifths are trained on (with jittered copies, as in the demo)
and one fifth validates; the held-out digits are not touched. All recipes share one tokenizer and
start from the same seed. Losses are nats per token given the class, after the last step. The last
line is one JSON object.
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from arimage.demo.digits import load_digits
from arimage.demo.recipes import RECIPES as DEMO
from arimage.generator import make_order
from arimage.training.ar_trainer import score_tokens
from arimage.training.generator_trainer import train_generator, train_on_tokens
from arimage.training.recipes import find_recipe
from arimage.training.tokens import make_tokens

ORDER = "next_scale"


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", action="append", help="name and changes, several times")
    parser.add_argument("--steps", type=int, default=DEMO[ORDER].transformer_steps)
    parser.add_argument("--tokenizer-steps", type=int, default=DEMO[ORDER].tokenizer_steps)
    parser.add_argument("--copies", type=int, default=DEMO[ORDER].jittered_copies)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train, _ = load_digits()
    part = np.random.default_rng(0).permutation(len(train.labels)) % 5
    inside, outside = np.flatnonzero(part), np.flatnonzero(part == 0)
    seeded = {"seed": options.seed, "jittered_copies": options.copies}
    generator, _ = train_generator(
        train.pixels[inside],
        train.labels[inside],
        order=ORDER,
        tokenizer_steps=options.tokenizer_steps,
        transformer_steps=1,
        **seeded,
    )
    tokenizer = generator.tokenizer
    tokens = make_tokens(tokenizer, train.pixels[inside], train.labels[inside], **seeded)
    check = make_tokens(tokenizer, train.pixels[outside], train.labels[outside], num_classes=10)
    scores = {}
    for line in options.recipe or ["small", "var"]:
        name, *changes = line.split()
        recipe = find_recipe(name, changes, steps=options.steps, seed=options.seed)
        start = time.perf_counter()
        model = train_on_tokens(tokenizer, tokens, recipe, ORDER)[0].transformer
        seconds = time.perf_counter() - start
        order = make_order(tokenizer, model)
        score = score_tokens(model, order, check.ids, check.class_labels)
        scores[line] = {**{k: round(v, 3) for k, v in score.items()}, "seconds": round(seconds)}
        print(f"{line:40} {scores[line]}", flush=True)
    versions = {name: version(name) for name in ("arimage", "torch", "accelerate")}
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(json.dumps({"scores": scores, **vars(options), "machine": machine, "versions": versions}))


if __name__ == "__main__":
    main()
