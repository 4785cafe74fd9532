"""Small transformers of every family on the digits: tokens, a recipe, a training, scores.

``arimage compare orders`` and ``benchmarks/generator_reach.py`` share what is here. The train
digits are split again: four fifths are trained on, with jittered copies, one fifth validates.
Held-out digits are FID's reference alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arimage.ar.registry import MODELS
from arimage.demo.digits import load_digits
from arimage.demo.recipes import NUM_CLASSES
from arimage.demo.run import asked_labels, generate_pixels
from arimage.eval.runner import evaluate
from arimage.generator import ImageGenerator
from arimage.pretrained import identity
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.generator_recipe import GeneratorRecipe
from arimage.training.generator_run import GeneratorRun, run_generator
from arimage.training.run_records import RunRecord, read_run
from arimage.training.small import GATED
from arimage.training.token_data import TOKENS, TokenData
from arimage.training.tokens import make_tokens, save_tokens
from arimage.zoo import PRESETS

TRAIN, CHECK = "train", "check"
COPIES = 8
WIDTH, HEADS, BATCH_SIZE = 64, 4, 32
METRICS = ("fid", "accuracy")
# What a family cannot have as the others do: the digits' ids are of 7 bits, which no two parts can
# share alike; a U-ViT has two halves around a block.
OWN: dict[str, dict[str, Any]] = {"maskbit": {"splits": 1}, "titok_uvit": {"depth": 5}}


def digit_tokenizers() -> dict[str, ImageTokenizer]:
    """The tokenizers of the packaged presets, in float32, by the preset's name."""
    names = [preset.name for preset in PRESETS.values() if preset.folder]
    exact = torch.float32
    return {n: ImageGenerator.from_pretrained(n, dtype=exact).tokenizer for n in names}


def write_tokens(
    folder: Path, tokenizers: Mapping[str, ImageTokenizer]
) -> dict[tuple[str, str], Path]:
    """Tokens to train on and to validate: (tokenizer, TRAIN or CHECK) -> folder.

    What is there already is left.
    """
    train, _ = load_digits()
    part = np.random.default_rng(0).permutation(len(train.labels)) % 5
    found = {}
    for kind, tokenizer in tokenizers.items():
        for name, rows, copies in ((TRAIN, part > 0, COPIES), (CHECK, part == 0, 0)):
            pixels, labels = train.pixels[rows], train.labels[rows]
            found[kind, name] = folder / f"{kind}-{name}"
            if holds_tokens(found[kind, name], tokenizer):
                continue
            options = {"num_classes": NUM_CLASSES, "jittered_copies": copies}
            made = make_tokens(tokenizer, pixels, labels, **options)
            save_tokens(found[kind, name], made, tokenizer)
    return found


def holds_tokens(folder: Path, tokenizer: ImageTokenizer) -> bool:
    """Whether a folder has tokens of that very tokenizer."""
    return (folder / TOKENS).is_file() and TokenData(folder).tokenizer == identity(tokenizer)


def digits_recipe(
    family: str, order: str, steps: int, seed: int = 0, *, width: int = WIDTH, depth: int
) -> GeneratorRecipe:
    """The same for every family, but for RAR's random orders, which end as the model is used."""
    model: dict[str, Any] = {"family": family, "order": order, "depth": depth}
    model |= {"width": width, "num_heads": HEADS, **OWN.get(family, {})}
    if "mlp_hidden" in MODELS[family].config_class.own_fields():
        model["mlp_hidden"] = 8 * width // 3 // 8 * 8 if family in GATED else 4 * width
    raster = family == "rar" and order == "raster"
    return GeneratorRecipe.of(
        {
            "steps": steps,
            "batch_size": BATCH_SIZE,
            "model": model,
            "optimizer": {"learning_rate": 2e-3, "warmup": 0.05, "gradient_clip": 1.0},
            "validate_every": max(1, steps // 10),
            "save_every": steps,
            "sample_every": steps,
            "seed": seed,
            **({"anneal_start": 0.5, "anneal_end": 0.75} if raster else {}),
        }
    )


def train_run(
    tokens: Mapping[tuple[str, str], Path], kind: str, out: Path, recipe: GeneratorRecipe
) -> RunRecord:
    """One run on the tokens of tokenizer ``kind``; its record.

    Raises:
        InterruptedError: a signal stopped it.
    """
    data, check = tokens[kind, TRAIN], tokens[kind, CHECK]
    asked = {"tracker": "none", "progress": False}
    run = GeneratorRun(recipe=recipe, data=data, out=out, validation=check, **asked)
    if not run_generator(run).finished:
        raise InterruptedError(f"stopped by a signal while {out.name} was trained")
    return read_run(out, out.name)


def judged(generator: ImageGenerator, per_class: int, **how: Any) -> dict[str, float]:
    """FID and label accuracy of ``per_class`` images of each class, as the generator is set.

    ``how``: features and reference, as ``evaluate`` takes them.
    """
    pixels, labels = generate_pixels(generator, per_class), asked_labels(per_class)
    report = evaluate(pixels, labels=labels, metrics=METRICS, **how)
    return {name: round(float(report[name].value), 4) for name in METRICS}
