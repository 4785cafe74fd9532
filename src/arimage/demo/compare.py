"""Every registered order, trained on digits with one budget of FLOPs: quality against speed.

A contestant is a family of ``MODELS`` in one of its orders. What cannot be trained on the digits'
tokens is named with the reason. ``compare.json`` grows by a contestant at a time, so that a killed
comparison goes on where it was; the speed of all is measured at the end, in turns in one process.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from arimage.ar.registry import MODELS, ORDERS
from arimage.demo.compare_figure import draw
from arimage.demo.digits import load_digits
from arimage.demo.family import (
    BATCH_SIZE,
    WIDTH,
    digit_tokenizers,
    digits_recipe,
    judged,
    train_run,
    write_tokens,
)
from arimage.demo.recipes import NUM_CLASSES
from arimage.demo.run import balanced
from arimage.eval.runner import evaluate
from arimage.files import read_json, write_json
from arimage.generator import INDEX, ImageGenerator
from arimage.records import changed
from arimage.registry import unknown_name
from arimage.sampling.settings import Settings
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.common import training_device
from arimage.training.flops import Cost, training_cost
from arimage.training.generator_build import build_transformer, make_order
from arimage.training.run_records import VALIDATION

RECORD, FIGURE, MODELS_IN, TOKENS_IN = "compare.json", "compare.png", "models", "tokens"
DEPTH = 4
PER_CLASS = 50  # images that are judged; FID of fewer is higher
TIMED, ROUNDS = 50, 5  # images made at once for the clock, and how often
SETTINGS = Settings(guidance_scale=1.5)  # the same for all
JUDGE = {"features": "digits", "reference": "digits"}


@dataclass(frozen=True)
class Contestant:
    """A family in an order, the tokenizer whose tokens it is trained on, and for how long."""

    family: str
    order: str
    tokenizer: str
    tokens: int
    cost: Cost
    steps: int

    @property
    def name(self) -> str:
        """For people: family/order."""
        return f"{self.family}/{self.order}"


@dataclass
class Comparison:
    """What is compared, where it is kept, what it says.

    Attributes:
        out: folder of the results.
        flops: of each training.
        seed: of each training; images always have the seeds 0, 1, ...
        steps_per_image: what orders that let one choose are asked for.
        only: families ("var") and contestants ("llama/raster"); none means all.
        say: prints a line.
    """

    out: Path
    flops: float
    seed: int = 0
    steps_per_image: Sequence[int] = (2, 4, 8, 16)
    only: Sequence[str] = ()
    say: Callable[[str], None] = print
    entries: dict[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Trains, judges and times what is left to do; writes and returns the record.

        Raises:
            ValueError, KeyError: a name of nothing, a budget below one step, a folder of another
                comparison; nothing is trained. InterruptedError: a signal.
            ModuleNotFoundError: without matplotlib.
        """
        import matplotlib  # noqa: F401  (said before anything is trained)

        record = self.begin()
        tokenizers = digit_tokenizers()
        chosen, record["left_out"] = self.contestants(tokenizers)
        self.keep(record)
        used = {one.tokenizer for one in chosen}
        tokens = write_tokens(
            self.out / TOKENS_IN, {k: v for k, v in tokenizers.items() if k in used}
        )
        record["real"] = floor()
        for number, one in enumerate(chosen, start=1):
            self.say(f"{number} of {len(chosen)}: {one.name}, {one.steps} steps")
            self.entries[one.name] = self.entry(one, tokens)
            self.keep(record)
        self.time_all()
        self.keep(record)
        draw(self.out / FIGURE, record)
        return record

    def begin(self) -> dict[str, Any]:
        """The record of the folder, or a new one."""
        settings = {
            "flops": float(self.flops),
            "seed": self.seed,
            "model": {"width": WIDTH, "depth": DEPTH},
            "batch_size": BATCH_SIZE,
            "images": PER_CLASS * NUM_CLASSES,
            "sampling": SETTINGS.to_json(),
        }
        path = self.out / RECORD
        held = read_json(path) if path.is_file() else {"settings": settings, "entries": {}}
        for key, (old, new) in changed(held["settings"], settings).items():
            raise ValueError(
                f"{self.out} holds a comparison with another {key}: {old}, now {new}; give what it "
                "had, or choose another folder"
            )
        kept = (
            item for item in held["entries"].items() if (self.folder(item[0]) / INDEX).is_file()
        )
        self.entries = dict(kept)
        versions = {name: version(name) for name in ("arimage", "torch")}
        threads = {"device": str(training_device()), "threads": torch.get_num_threads()}
        return {"settings": settings, "versions": versions, **threads, "entries": self.entries}

    def keep(self, record: dict[str, Any]) -> None:
        """Writes the record as far as it is."""
        write_json(self.out / RECORD, record)

    def contestants(
        self, tokenizers: Mapping[str, ImageTokenizer]
    ) -> tuple[list[Contestant], dict[str, str]]:
        """Who takes part, and why the others do not.

        Raises:
            KeyError: ``only`` has a name of nothing. ValueError: a budget below one step.
        """
        chosen, left = [], {}
        for name in wanted(self.only):
            try:
                chosen.append(self.contestant(*name.split("/"), tokenizers))
            except NotTrainable as error:
                left[name] = str(error)
        for one in chosen:
            if one.cost.flops_per_step > self.flops:
                raise ValueError(
                    f"got {self.flops:.3g} FLOPs; a step of {one.name} takes "
                    f"{one.cost.flops_per_step:.3g}: give more, 5e11 for example"
                )
        return chosen, left

    def contestant(
        self, family: str, order: str, tokenizers: Mapping[str, ImageTokenizer]
    ) -> Contestant:
        """On the first tokenizer whose tokens it takes.

        Raises:
            NotTrainable: none.
        """
        if MODELS[family].takes_text:
            raise NotTrainable("it reads prompts, and the digits have classes")
        reasons = []
        for name, tokenizer in tokenizers.items():
            try:
                recipe = digits_recipe(family, order, 1, self.seed, depth=DEPTH)
                transformer = build_transformer(recipe, tokenizer, NUM_CLASSES, None)
                bound = make_order(tokenizer, transformer)
                cost = training_cost(transformer, bound, BATCH_SIZE, BATCH_SIZE)
            except (ValueError, KeyError, NotImplementedError) as error:
                reasons.append(f"{name}: {error.args[0] if error.args else error}")
                continue
            steps = max(1, round(self.flops / cost.flops_per_step))
            return Contestant(family, order, name, tokenizer.slots.num_slots, cost, steps)
        raise NotTrainable("; ".join(reasons))

    def entry(self, one: Contestant, tokens: Mapping[tuple[str, str], Path]) -> dict[str, Any]:
        """Trained unless it is, and judged at every number of steps that it was not judged at."""
        folder = self.folder(one.name)
        held = self.entries.get(one.name, {})
        same = held.get("cost") == asdict(one.cost) and held.get("tokenizer") == one.tokenizer
        if not same or not (folder / INDEX).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # half of a training
            recipe = digits_recipe(one.family, one.order, one.steps, self.seed, depth=DEPTH)
            recipe = replace(recipe, validate_every=one.steps)
            run = train_run(tokens, one.tokenizer, folder, recipe)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            loss = float(run.curve(VALIDATION)[1][-1])
            held = {**asdict(one), VALIDATION.replace(" ", "_"): round(loss, 4), "points": {}}
        generator = self.load(one.name)
        for asked in step_counts(generator, self.steps_per_image):
            generator.settings = SETTINGS.updated({"num_steps": asked})
            passes = str(generator.order(asked).num_steps)
            if passes not in held["points"]:
                scores = judged(generator, PER_CLASS, **JUDGE)
                held["points"][passes] = {"num_steps": asked, **scores}
        return held

    def folder(self, name: str) -> Path:
        """Of a contestant's run and model."""
        return self.out / MODELS_IN / name.replace("/", "-")

    def load(self, name: str) -> ImageGenerator:
        """A trained contestant."""
        exact, device = torch.float32, training_device()
        generator = ImageGenerator.from_pretrained(self.folder(name), dtype=exact, device=device)
        generator.settings = SETTINGS
        return generator

    def time_all(self) -> None:
        """Images per second of every point, their tokens alone, without the decoder.

        One call of each after the other, medians of the rounds.
        """
        calls = []
        labels = [i % NUM_CLASSES for i in range(TIMED)]
        for name, entry in self.entries.items():
            generator = self.load(name)
            calls += [(generator, point) for point in entry["points"].values()]
        self.say(f"measuring speed: {len(calls)} settings, {ROUNDS} rounds")
        times: list[list[float]] = [[] for _ in calls]
        for turn in range(ROUNDS + 1):
            for (generator, point), seconds in zip(calls, times, strict=True):
                began = time.perf_counter()
                for _ in generator.sample(labels, 0, num_steps=point["num_steps"]):
                    pass
                if turn:  # the first round warms up
                    seconds.append(time.perf_counter() - began)
        for (_, point), seconds in zip(calls, times, strict=True):
            point["images_per_second"] = round(TIMED / statistics.median(seconds), 1)


def floor() -> dict[str, float]:
    """FID of as many real train digits: what no model can be expected to beat."""
    report = evaluate(balanced(load_digits()[0], PER_CLASS), metrics=("fid",), **JUDGE)
    return {"fid": round(float(report["fid"].value), 4)}


class NotTrainable(Exception):
    """Why a model is not trained on the digits."""


def all_names() -> list[str]:
    """family/order of everything that is registered and learns something of its own.

    An order whose steps follow from what is drawn (jacobi) gives another's images.
    """
    pairs = ((name, order) for name in MODELS for order in MODELS[name].config_class.orders)
    return [f"{name}/{order}" for name, order in pairs if ORDERS[order].known_steps]


def wanted(only: Sequence[str]) -> list[str]:
    """The contestants that ``only`` names.

    Raises:
        KeyError: a name of nothing.
    """
    names = all_names()
    if not only:
        return names
    for name in only:
        if name not in names and name not in MODELS:
            raise KeyError(unknown_name("contestant", name, [*MODELS, *names]))
    return [name for name in names if name in only or name.partition("/")[0] in only]


def step_counts(generator: ImageGenerator, asked: Sequence[int]) -> list[int | None]:
    """The numbers of steps that the generator's order takes; None is its own."""
    if not ORDERS[generator.transformer.config.order].free_steps:
        return [None]
    found: list[int | None] = []
    for count in asked:
        try:
            generator.order(count)
        except ValueError:  # more than there are tokens, or a number it has no schedule for
            continue
        found.append(count)
    return found or [None]
