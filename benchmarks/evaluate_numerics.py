"""What do the two costly parts of an evaluation take, and how exact are they?

    python benchmarks/evaluate_numerics.py --trace
    python benchmarks/evaluate_numerics.py --neighbors [--peer PATH] [--images N] [--runs N]

``--trace``: the trace term of a Frechet distance between 2,048 features. Three pairs of covariances
whose distance is known, because S2 = M S1 M with a transport map M: S1 of full rank, with
eigenvalues down to 1e-12, of rank 1,000. Ours against ``scipy.linalg.sqrtm``, the way of most
published code: seconds and error of each. Then sets of 100, 500 and 1,000 images against the
full-rank statistics, where ours works with the images themselves. Factors are made anew each time.

``--neighbors``: precision, recall, density and coverage of N against N images at 64 and 2,048
features, ours against the package ``prdc`` (0.2; PATH is where it was installed), which must give
the same four numbers. prdc measures in the type of its input: values are compared with what it says
of float64 features (of float32 it miscounts near ties), seconds are of float32. Features are
positive parts of normal numbers, as independent as there can be: nothing is near, so nothing can be
skipped. ``peak_gb`` is the most memory of a process that does nothing else, arrays included.

Seconds are CPU seconds of this process on one thread, taken in turn, medians of the runs after a
warm-up. The last line is one JSON object.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.linalg  # noqa: F401  before its threads are limited
import torch
from threadpoolctl import threadpool_limits

from arimage.eval.frechet import frechet
from arimage.eval.moments import Moments
from arimage.eval.neighbors import Balls, ball_hits, tensor

WIDTH = 2048
COUNT = 50_000  # images that the statistics claim to be of; changes nothing but ddof


def in_turn(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """CPU seconds of each call, taken in turn; the first round is a warm-up where runs > 1."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + (runs > 1)):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if run or runs == 1:
                seconds[name].append(time.process_time() - start)
    return seconds


def compared(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each, and how many times the second is slower than the first."""
    seconds = {name: statistics.median(values) for name, values in in_turn(calls, runs).items()}
    ours, theirs = seconds.values()
    return {**{k: round(v, 4) for k, v in seconds.items()}, "ratio": round(theirs / ours, 2)}


def problems() -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Name -> S1, S2 and their distance, tr (I - M) S1 (I - M)."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    root = rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5
    transport = np.eye(WIDTH) + 0.3 * root @ root.T
    away = np.eye(WIDTH) - transport
    spectra = {
        "full": np.geomspace(1, 1e-3, WIDTH),
        "ill": np.geomspace(1, 1e-12, WIDTH),
        "rank_1000": np.where(np.arange(WIDTH) < 1000, 1.0, 0.0),
    }
    found = {}
    for name, spectrum in spectra.items():
        first = (basis * spectrum) @ basis.T
        found[name] = (first, transport @ first @ transport, float(np.trace(away @ first @ away)))
    return found


def statistics_of(covariance: np.ndarray) -> Moments:
    """Moments as they are read from a file."""
    return Moments.from_covariance(np.zeros(WIDTH), covariance, COUNT)


def trace(runs: int) -> dict[str, object]:
    """Seconds and errors of both methods."""
    results: dict[str, object] = {}
    known = problems()
    for name, (first, second, expected) in known.items():
        found: dict[str, float] = {}

        def call(method: str, *pair: Moments, found: dict[str, float] = found) -> None:
            found[method] = frechet(*map(replace, pair), method=method).raw  # copies: no factors

        pair = (statistics_of(first), statistics_of(second))
        methods = ("svd", "sqrtm")
        seconds = compared({m: lambda m=m, p=pair: call(m, *p) for m in methods}, runs)
        errors = {f"{m}_error": float(abs(found[m] - expected)) for m in methods}
        results[name] = {"distance": round(expected, 6), **seconds, **errors}
        print(name, results[name], flush=True)
    rng = np.random.default_rng(1)
    for count in (100, 500, 1000):
        rows = rng.standard_normal((count, WIDTH)).astype(np.float32)
        reference = statistics_of(known["full"][0])

        def score(method: str, rows: np.ndarray = rows, reference: Moments = reference) -> None:
            frechet(Moments.of(rows), replace(reference), method=method)

        calls = {m: lambda m=m, score=score: score(m) for m in ("svd", "sqrtm")}
        results[f"images_{count}"] = compared(calls, runs)
        print(f"{count} images", results[f"images_{count}"], flush=True)
    return results


def sets(images: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and generated features."""
    rng = np.random.default_rng(0)
    real, generated = (rng.standard_normal((images, width), np.float32) for _ in range(2))
    return np.maximum(real, 0), np.maximum(0.98 * generated, 0)


def ours(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """The four numbers as prdc defines them: open balls, five neighbours."""
    around = {side: Balls(side, 5, open=True) for side in ("real", "generated")}
    hits = ball_hits(tensor(real), tensor(generated), around.values())
    by_real, by_generated = hits[around["real"]], hits[around["generated"]]
    return {
        "precision": (by_real.depth > 0).double().mean().item(),
        "recall": (by_generated.depth > 0).double().mean().item(),
        "density": by_real.depth.sum().item() / (5 * len(generated)),
        "coverage": by_real.hit.double().mean().item(),
    }


def theirs(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """prdc's, without what it prints."""
    from prdc import prdc

    prdc.print = lambda *_: None
    return {k: float(v) for k, v in prdc.compute_prdc(real, generated, 5).items()}


def peak_of(which: str, arguments: argparse.Namespace, width: int) -> float:
    """Peak resident GB of one call in a process of its own."""
    command = [sys.executable, __file__, "--peak", which, "--images", str(arguments.images)]
    command += ["--width", str(width)] + (["--peer", arguments.peer] if arguments.peer else [])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def neighbors(arguments: argparse.Namespace) -> dict[str, object]:
    """Seconds, values and peaks of both."""
    results: dict[str, object] = {}
    for width in (64, 2048):
        pair = sets(arguments.images, width)
        calls = {"ours": lambda pair=pair: ours(*pair)}
        values = {"ours": ours(*pair)}
        if arguments.peer:
            calls["prdc"] = lambda pair=pair: theirs(*pair)
            values["prdc"] = theirs(*(rows.astype(np.float64) for rows in pair))
            gap = max(abs(values["ours"][k] - values["prdc"][k]) for k in values["ours"])
            found = {**compared(calls, arguments.runs), "largest_difference": gap}
        else:
            found = {"ours": round(statistics.median(in_turn(calls, arguments.runs)["ours"]), 4)}
        found["values"] = values["ours"]
        found["peak_gb"] = {which: peak_of(which, arguments, width) for which in calls}
        results[f"width_{width}"] = found
        print(width, found, flush=True)
    return results


def print_peak(arguments: argparse.Namespace) -> None:
    """What ``peak_of`` runs."""
    {"ours": ours, "prdc": theirs}[arguments.peak](*sets(arguments.images, arguments.width))
    status = Path("/proc/self/status").read_text()
    print(round(int(status.split("VmHWM:")[1].split()[0]) / 1e6, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--neighbors", action="store_true")
    parser.add_argument("--peer", help="folder with the package prdc")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=WIDTH, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peak", choices=("ours", "prdc"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    if arguments.peer:
        sys.path.append(arguments.peer)
    if arguments.peak:
        return print_peak(arguments)
    results: dict[str, object] = {}
    if arguments.trace:
        results["trace"] = trace(arguments.runs)
    if arguments.neighbors:
        results["neighbors"] = {"images": arguments.images, **neighbors(arguments)}
    packages = ("torch", "numpy", "scipy", "scikit-learn")
    results["versions"] = {name: version(name) for name in packages}
    results["machine"] = f"{platform.machine()}, 1 thread, CPU seconds"
    results["command"] = "python benchmarks/evaluate_numerics.py " + " ".join(
        word for word in sys.argv[1:] if word != arguments.peer
    ).replace("--peer", "--peer PATH")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
