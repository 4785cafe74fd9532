"""The main job end to end on real digits: train, save, load, generate, score, report."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arimage.demo import pictures
from arimage.demo.digits import Split, load_digits
from arimage.demo.recipes import (
    MAX_COPY_RATIO,
    MAX_FID_SHARE,
    MIN_ACCURACY,
    MIN_CLASSIFIER_ACCURACY,
    NUM_CLASSES,
    RECIPES,
    DemoRecipe,
)
from arimage.demo.report import write_report
from arimage.eval.base import Reference
from arimage.eval.features.classifier import DigitClassifier, DigitFeatures
from arimage.eval.metrics.reconstruction import codebook_use, psnr, ssim
from arimage.eval.report import Report
from arimage.eval.runner import evaluate
from arimage.generator import ImageGenerator
from arimage.images import to_pixels
from arimage.registry import unknown_name
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.classifier import train_classifier
from arimage.training.common import History
from arimage.training.generator_trainer import train_generator
from arimage.training.tokenizer_trainer import decode_all, encode_all

GENERATOR, CLASSIFIER = "generator", "classifier.safetensors"
BATCH_SIZE = 250
METRICS = ("accuracy", "fid", "inception_score", "precision", "recall", "copies")


@dataclass
class Demo:
    """One run: where it writes, what it knows so far, what it says."""

    order: str
    out: Path
    seed: int
    progress: bool
    say: Callable[[str], None]
    recipe: DemoRecipe
    train: Split
    held_out: Split
    seconds: dict[str, float] = field(default_factory=dict)
    histories: list[History] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announces a stage and takes its time."""
        self.say(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)


def run_demo(
    order: str,
    out: str | Path,
    *,
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], None] = print,
    recipe: DemoRecipe | None = None,
) -> dict[str, Any]:
    """Runs the demo; writes pictures, generator/, report.md and report.json into ``out``.

    Args:
        order: next_scale, raster or masked.
        out: folder of the results; files of the same name are replaced.
        seed: of initialisation, batches and dropout; images always use seeds 0..999.
        progress: show bars with loss and time left.
        say: prints one line per stage.
        recipe: another recipe (tests use a tiny one).

    Returns:
        The record that is also the last line of ``arimage demo``.

    Raises:
        KeyError: an unknown order, with the nearest known ones.
    """
    if recipe is None and order not in RECIPES:
        raise KeyError(unknown_name("demo order", order, RECIPES))
    train, held_out = load_digits()
    chosen = recipe or RECIPES[order]
    demo = Demo(order, Path(out), seed, progress, say, chosen, train, held_out)
    demo.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with demo.stage("training the classifier that will judge"):
        classifier = train_judge(demo)
    with demo.stage("training the tokenizer and the transformer"):
        train_models(demo)
    with demo.stage("loading what was saved, generating"):
        generator = ImageGenerator.from_pretrained(demo.out / GENERATOR, dtype=torch.float32)
        pixels = generate_pixels(generator, chosen.per_class)
        ceiling_pixels = generate_pixels(untrained_like(generator, seed), chosen.per_class)
        pictures.draw_samples(demo.out / "samples.png", pixels, NUM_CLASSES)
        pictures.draw_stages(demo.out / "stages.png", generator, range(NUM_CLASSES))
        pictures.draw_losses(demo.out / "losses.png", demo.histories)
    with demo.stage("scoring"):
        quality = judge_tokenizer(demo, generator.tokenizer)
        reports = score(demo, DigitFeatures(classifier), pixels, ceiling_pixels, generator)
    record = make_record(demo, quality, reports)
    record["seconds"] = {**demo.seconds, "total": round(time.perf_counter() - start, 1)}
    write_report(demo.out, record, reports["generated"])
    return record


def train_judge(demo: Demo) -> DigitClassifier:
    """The independent classifier, trained on train digits alone, saved beside the results."""
    classifier = train_classifier(
        demo.train.pixels,
        demo.train.labels,
        steps=demo.recipe.classifier_steps,
        seed=demo.seed,
        progress=demo.progress,
    )
    classifier.save(demo.out / CLASSIFIER)
    return classifier


def judge_tokenizer(demo: Demo, tokenizer: ImageTokenizer) -> dict[str, float]:
    """Held-out PSNR (dB), SSIM and share of codes in use; draws reconstructions.png."""
    originals = demo.held_out.pixels
    ids = encode_all(tokenizer, originals)
    decoded = to_pixels(decode_all(tokenizer, ids))
    pictures.draw_reconstructions(demo.out / "reconstructions.png", originals, decoded)
    return {
        "psnr": float(psnr(originals, decoded).mean()),
        "ssim": float(ssim(originals, decoded).mean()),
        "codebook_use": float(codebook_use(ids.numpy(), tokenizer.config.vocab_size).share),
    }


def train_models(demo: Demo) -> None:
    """Trains tokenizer and transformer; saves the generator in half precision and forgets it."""
    generator, histories = train_generator(
        demo.train.pixels,
        demo.train.labels,
        order=demo.order,
        tokenizer_steps=demo.recipe.tokenizer_steps,
        transformer_steps=demo.recipe.transformer_steps,
        jittered_copies=demo.recipe.jittered_copies,
        num_classes=NUM_CLASSES,
        settings=demo.recipe.settings,
        class_names=[str(i) for i in range(NUM_CLASSES)],
        seed=demo.seed,
        progress=demo.progress,
    )
    demo.histories += histories
    generator.save_pretrained(demo.out / GENERATOR, dtype=torch.float16)


def untrained_like(generator: ImageGenerator, seed: int) -> ImageGenerator:
    """The same generator with a freshly initialised transformer: the ceiling of FID."""
    torch.manual_seed(seed)
    fresh = type(generator.transformer)(generator.transformer.config)
    return ImageGenerator(generator.tokenizer, fresh, generator.settings)


def generate_pixels(generator: ImageGenerator, per_class: int) -> np.ndarray:
    """``per_class`` images of each class, the classes in turn; image i has seed i."""
    labels = asked_labels(per_class)
    batches = generator.batches(labels.tolist(), range(len(labels)), BATCH_SIZE)
    return np.concatenate([pixels for pixels, _ in batches])


def asked_labels(per_class: int) -> np.ndarray:
    """0..9, 0..9, ...: in turn, since the splits of the inception score are contiguous."""
    return np.tile(np.arange(NUM_CLASSES), per_class)


def balanced(split: Split, per_class: int) -> np.ndarray:
    """The first ``per_class`` images of each class, the classes in turn."""
    rows = [np.flatnonzero(split.labels == c)[:per_class] for c in range(NUM_CLASSES)]
    return split.pixels[np.stack(rows, axis=1).ravel()]


def score(
    demo: Demo,
    features: DigitFeatures,
    pixels: np.ndarray,
    ceiling_pixels: np.ndarray,
    generator: ImageGenerator,
) -> dict[str, Report]:
    """Reports on the generated, real and untrained images, all against the held-out digits.

    "real" is as many train digits of each class as are generated, since FID depends on the count.
    """
    per_class = demo.recipe.per_class
    labels = asked_labels(per_class)
    reference = Reference.from_pixels("held-out digits", demo.held_out.pixels, features)
    common = {"features": features, "reference": reference}
    settings = {
        "model": f"demo {demo.order}",
        "seed": demo.seed,
        "image_seeds": f"0-{len(labels) - 1}",
    }
    settings |= {"sampling": generator.settings.to_json()}
    training, bounds = demo.train.pixels, ("fid", "inception_score")
    held_out = demo.held_out
    return {
        "generated": evaluate(
            pixels,
            labels=labels,
            metrics=("fid", "inception_score", "prdc", "accuracy", "copies"),
            training=training,
            settings=settings,
            **common,
        ),
        "real": evaluate(balanced(demo.train, per_class), metrics=bounds, **common),
        "untrained": evaluate(ceiling_pixels, metrics=bounds, **common),
        "held_out": evaluate(
            held_out.pixels,
            labels=held_out.labels,
            metrics=("accuracy", "copies"),
            training=training,
            features=features,
        ),
    }


def make_record(
    demo: Demo, quality: dict[str, float], reports: dict[str, Report]
) -> dict[str, Any]:
    """The numbers of the run and whether its targets were reached."""
    made, held_out = reports["generated"], reports["held_out"]
    floor, ceiling = reports["real"]["fid"].value, reports["untrained"]["fid"].value
    share = (made["fid"].value - floor) / (ceiling - floor)
    copies, own_copies = made["copies"].value, held_out["copies"].value
    reached = {
        "classifier": held_out["accuracy"].value >= MIN_CLASSIFIER_ACCURACY,
        "accuracy": made["accuracy"].value >= MIN_ACCURACY,
        "fid": share <= MAX_FID_SHARE,
        "copies": copies <= MAX_COPY_RATIO * own_copies,
    }
    numbers = {
        **quality,
        "classifier_accuracy": held_out["accuracy"].value,
        "accuracy": made["accuracy"].value,
        "fid": made["fid"].value,
        "fid_floor": floor,
        "fid_ceiling": ceiling,
        "fid_share": share,
        "inception_score": made["inception_score"].value,
        "precision": made["precision"].value,
        "recall": made["recall"].value,
        "copies": copies,
        "copies_held_out": own_copies,
    }
    rounded = {name: round(float(value), 4) for name, value in numbers.items()}
    return {"order": demo.order, "seed": demo.seed, **rounded, "reached": reached}
