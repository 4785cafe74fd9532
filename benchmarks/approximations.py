"""What do the approximations that are opt-in by name cost, and what do they save?

    python benchmarks/approximations.py [--count 1000] [--runs 3] [--out FILE]
    python benchmarks/approximations.py --published [--runs 1]

On the packaged digits presets in float32: each approximation beside the exact run of the same
seeds. Share of equal ids; guided logits under the exact run's tokens (teacher-forced); FID and
accuracy by the packaged classifier against the held-out digits; CPU milliseconds per image (of all
threads), in turn; bytes of the transformer's weights and of one image's keys and values. "exact,
other seeds" is the yardstick for FID and accuracy: what another draw of the same model moves.
``--published`` times a VAR-d16 and a LlamaGen-B with random weights instead, one image. The last
line is one JSON object.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from systems import ours
from torch import Tensor

from arimage import ImageGenerator, evaluate
from arimage.ar.base import Known
from arimage.demo.run import asked_labels
from arimage.sampling.guidance import Interval, Linear
from arimage.sampling.loop import Branch

CACHE, INT8, FP8 = "fp8 keys and values", "int8 weights", "fp8 weights"
SHARED: dict[str, dict[str, Any]] = {  # name -> the kind of weights, or settings of the call
    INT8: {"weights": "int8"},
    FP8: {"weights": "fp8"},
    CACHE: {"cache_dtype": "fp8"},
    "int8 weights, fp8 keys and values": {"weights": "int8", "cache_dtype": "fp8"},
    "no guidance": {"guidance_scale": 1.0},
}
DIGITS: dict[str, dict[str, dict[str, Any]]] = {
    "digits-var": {
        "guidance off at the last of 4 scales": {"guidance_schedule": Linear(last=2)},
        "guidance at scales 2 and 3 alone": {"guidance_schedule": Interval(1, 2)},
    },
    "digits-llamagen": {
        "guidance off in the second half": {"guidance_schedule": Interval(0, 7)},
        "guidance in the middle half alone": {"guidance_schedule": Interval(4, 11)},
    },
}
PUBLISHED: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "var": (
        "d16",
        {
            "guidance off at the last 2 of 10 scales": {"guidance_schedule": Linear(last=7)},
            "guidance off at the last scale": {"guidance_schedule": Linear(last=8)},
        },
    ),
    "llamagen": (
        "B",
        {"guidance off in the second half": {"guidance_schedule": Interval(0, 127)}},
    ),
}
PROBED = 200  # images whose logits are compared
TIMED = 50  # images per timed call
BATCH = 250


def kept_bytes(tensor: Tensor) -> int:
    """Bytes of a parameter, with the scales of a quantised one."""
    if hasattr(tensor, "qdata"):
        return tensor.qdata.nbytes + tensor.scale.nbytes
    return tensor.nbytes


def weight_bytes(generator: ImageGenerator) -> int:
    """Bytes of the transformer."""
    return sum(kept_bytes(parameter) for parameter in generator.transformer.parameters())


def cache_bytes(generator: ImageGenerator, settings: dict[str, Any]) -> int:
    """Bytes of the keys and values of one image, all rows."""
    chosen = generator.settings.updated(settings)
    order, condition = generator.order(), torch.tensor([0])
    with torch.no_grad():
        branch = Branch.of(
            generator.transformer, order, condition, chosen.guidance(), chosen.cache_dtype
        )
    cache = getattr(branch.cache, "kept", branch.cache)
    return sum(memory.nbytes for memory in (*cache.keys, *cache.values))


def forced_logits(generator: ImageGenerator, ids: Tensor, settings: dict[str, Any]) -> Tensor:
    """Guided logits (n, slots, vocab) of every step, where each step sees the tokens ``ids``."""
    found: list[Tensor] = []
    head = generator.transformer.output
    hook = head.register_forward_hook(lambda module, inputs, out: found.append(out.float()))
    known = Known(ids, torch.ones_like(ids, dtype=torch.bool))
    labels = asked_labels(len(ids) // 10).tolist()
    list(generator.sample(labels, list(range(len(ids))), known, **settings))
    hook.remove()
    return torch.cat(found, dim=1)


def made(generator: ImageGenerator, first_seed: int, count: int, settings: dict[str, Any]) -> Any:
    """``count`` images, the classes in turn."""
    labels = asked_labels(count // 10).tolist()
    seeds = range(first_seed, first_seed + count)
    return generator(labels, seeds=seeds, batch_size=BATCH, output_type="pixels", **settings)


def scores(pixels: Any) -> dict[str, float]:
    """FID and accuracy as the demo has them, by the packaged classifier."""
    labels = asked_labels(len(pixels) // 10)
    call = {"features": "digits", "reference": "digits", "metrics": ("fid", "accuracy")}
    report = evaluate(pixels, labels=labels, **call)
    return {name: round(float(report[name].value), 4) for name in ("fid", "accuracy")}


def in_turn(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median CPU milliseconds of each call after a warm-up, in turn: other jobs do not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if run:
                times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def loaded(load: Callable[[], ImageGenerator], changes: dict[str, Any]) -> tuple[Any, dict]:
    """A generator, quantised if the changes say so, and the settings among them."""
    settings = {name: value for name, value in changes.items() if name != "weights"}
    generator = load()
    if "weights" in changes:
        generator.transformer.quantize(changes["weights"])
    return generator, settings


def digits(name: str, count: int, runs: int) -> dict[str, dict[str, Any]]:
    """A row for each approximation of one preset."""

    def load() -> ImageGenerator:
        return ImageGenerator.from_pretrained(name, dtype=torch.float32)

    exact, (probed, timed) = load(), (min(PROBED, count), min(TIMED, count))
    images = made(exact, 0, count, {})
    reference = forced_logits(exact, images.ids[:probed], {})
    rows: dict[str, dict[str, Any]] = {
        "exact": scores(images.images),
        "exact, other seeds": scores(made(exact, count, count, {}).images),
    }
    rows["exact"]["logits_std"] = round(float(reference.std()), 4)
    calls = {"exact": lambda: made(exact, 0, timed, {})}
    for label, changes in {"exact": {}, **SHARED, **DIGITS[name]}.items():
        generator, settings = loaded(load, changes)
        row = rows.setdefault(label, {})
        row["weight_bytes"] = weight_bytes(generator)
        row["cache_bytes_per_image"] = cache_bytes(generator, settings)
        if label == "exact":
            continue
        other = made(generator, 0, count, settings)
        off = forced_logits(generator, images.ids[:probed], settings) - reference
        row |= scores(other.images)
        row["equal_ids"] = round(float((other.ids == images.ids).float().mean()), 4)
        row["logits_mean_error"] = round(float(off.abs().mean()), 5)
        row["logits_max_error"] = round(float(off.abs().max()), 5)
        calls[label] = lambda generator=generator, settings=settings: made(
            generator, 0, timed, settings
        )
    for label, value in in_turn(calls, runs).items():
        rows[label]["cpu_ms_per_image"] = round(value / timed, 3)
    return rows


def published(model: str, runs: int) -> dict[str, dict[str, Any]]:
    """Times and bytes of a published size with random weights, one image, float32."""
    config, own = PUBLISHED[model]
    whole, small = ours(model, config), ours(model, config)
    small.transformer.quantize("int8")
    rows, calls = {}, {}
    for label, settings in {"exact": {}, INT8: {}, CACHE: SHARED[CACHE], **own}.items():
        generator = small if label == INT8 else whole
        rows[label] = {
            "weight_bytes": weight_bytes(generator),
            "cache_bytes_per_image": cache_bytes(generator, settings),
        }
        calls[label] = lambda generator=generator, settings=settings: generator(
            [1], seeds=0, output_type="pixels", **settings
        )
    for label, value in in_turn(calls, runs).items():
        rows[label]["cpu_ms_per_image"] = round(value, 1)
    return {f"{model}-{config}": rows}


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000, help="images, a multiple of 10")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    if asked.published:
        for model in PUBLISHED:
            found |= published(model, asked.runs)
    else:
        found = {name: digits(name, asked.count, asked.runs) for name in DIGITS}
    for name, rows in found.items():
        for label, row in rows.items():
            print(f"{name:16} {label:40} {row}")
    names = ("arimage", "torch", "torchao", "transformers")
    record = {
        "command": " ".join(["python", *sys.argv]),
        "device": f"CPU, {platform.machine()}, {torch.get_num_threads()} thread(s)",
        "dtype": "float32",
        "versions": {name: version(name) for name in names},
        "count": None if asked.published else asked.count,
        "runs": asked.runs,
        "results": found,
    }
    if asked.out:
        asked.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
