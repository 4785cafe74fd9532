"""How long does an image take, from class label to pixels, and how long with the official code?

    python benchmarks/generate.py --model var --config d16 --device cpu --batch 1,4 [--peer PATH]
    python benchmarks/generate.py --model llamagen --config B --dtype float32 --transformers
    python benchmarks/generate.py --model rar --config B --peer PATH --memory

Random weights of the published sizes, the official sampling settings (``SETTINGS`` of systems.py).
PATH is a checkout of the official repository: its loop then runs in the same process with the same
weights, in turn with ours, and the ratio of the medians is printed. dtype ``default`` is this
package's own for the device beside the official code's, float32. ``--transformers`` compares tokens
per second with ``transformers``' Llama, no pixels. ``--shares`` profiles one of our calls and
measures what the machine reaches in products, convolutions and reading. ``--memory`` reads each
one's peak in a process of its own. The last line is one JSON object.
"""

import argparse
import functools
import json
import platform
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from systems import PEERS, Peer, TransformersLlama, ours, ours_from
from torch.profiler import ProfilerActivity, profile

from arimage.ar.linear import Linear
from arimage.generator import ImageGenerator
from arimage.pretrained import default_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def call_ours(generator: ImageGenerator, batch: int) -> Callable[[], object]:
    """One call of this package."""
    labels = [i % 1000 for i in range(batch)]
    return lambda: generator(labels, seeds=0, batch_size=batch, output_type="pixels")


def call_peer(peer: Peer, batch: int, dtype: torch.dtype, device: str) -> Callable[[], object]:
    """One call of the official loop."""
    labels = torch.arange(batch, device=device) % 1000

    def run() -> object:
        with torch.no_grad():
            return peer.images(labels, dtype).mul(255).byte().cpu()

    return run


def in_turn(calls: dict[str, Callable[[], object]], runs: int, device: str) -> dict[str, float]:
    """Median seconds of each call after a warm-up, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if run:
                times[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(values), 4) for name, values in times.items()}


def call_tokens(generator: ImageGenerator, batch: int) -> Callable[[], object]:
    """Our loop without the decoder."""
    labels = [i % 1000 for i in range(batch)]
    return lambda: deque(generator.sample(labels, list(range(batch))), maxlen=1)


GROUPS = {  # of a profile's operators
    "products": ("mkldnn::_linear_pointwise", "aten::addmm", "aten::mm"),
    "convolutions": ("aten::mkldnn_convolution", "aten::cudnn_convolution"),
    "attention": ("aten::_scaled_dot_product", "aten::bmm", "aten::_softmax"),
}


def shares(call: Callable[[], object], device: str) -> dict[str, float]:
    """Share of the time of one call in each group of operators."""
    kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA][: 1 + device.startswith("cuda")]
    with profile(activities=kinds) as record:
        call()
    found = dict.fromkeys((*GROUPS, "rest"), 0.0)
    for event in record.key_averages():
        matches = (group for group, names in GROUPS.items() if event.key.startswith(names))
        time_of = event.self_device_time_total or event.self_cpu_time_total
        found[next(matches, "rest")] += time_of
    return {group: round(value / sum(found.values()), 3) for group, value in found.items()}


def ceilings(dtype: torch.dtype, device: str) -> dict[str, float]:
    """What the machine reaches alone: products and convolutions in GFLOP/s, reading in GB/s."""
    layer = Linear(1024, 4096, device=device, dtype=dtype)
    layer.pack()
    rows = torch.randn(2048, 1024, device=device, dtype=dtype)
    conv = torch.nn.Conv2d(160, 160, 3, padding=1, device=device, dtype=dtype)
    image = torch.randn(1, 160, 256, 256, device=device, dtype=dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    large = torch.ones(2**28 // dtype.itemsize, device=device, dtype=dtype)
    with torch.no_grad():
        calls = {
            "products": (lambda: layer(rows), 2 * 2048 * 1024 * 4096),
            "convolutions": (lambda: conv(image), 2 * 160 * 160 * 9 * 256 * 256),
            "reading": (large.amax, 2**28),
        }
        seconds = in_turn({name: call for name, (call, _) in calls.items()}, 9, device)
    return {name: round(work / seconds[name] / 1e9, 1) for name, (_, work) in calls.items()}


def peak_of(which: str, arguments: argparse.Namespace, batch: int, dtype: str) -> float:
    """Peak resident GB of one call in a process of its own."""
    command = [sys.executable, __file__, "--peak", which, "--model", arguments.model]
    command += ["--config", arguments.config, "--device", arguments.device]
    command += ["--batch", str(batch), "--dtype", dtype]
    command += ["--peer", arguments.peer] if arguments.peer else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def print_peak(which: str, arguments: argparse.Namespace) -> None:
    """What ``peak_of`` runs: builds one system alone and prints its peak in GB."""
    batch, device = int(arguments.batch), arguments.device
    mine, theirs = dtypes(arguments.dtype, device)
    if which == "peer":
        peer = PEERS[arguments.model](arguments.peer, arguments.config, device)
        call_peer(peer, batch, theirs, device)()
    else:
        generator = cast(ours(arguments.model, arguments.config), mine).to(device)
        call_ours(generator, batch)()
    # Not getrusage: its peak is carried over from the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e6)


def dtypes(name: str, device: str) -> tuple[torch.dtype, torch.dtype]:
    """Ours and the official code's."""
    if name == "default":
        return default_dtype(device), torch.float32
    return DTYPES[name], DTYPES[name]


def cast(generator: ImageGenerator, dtype: torch.dtype) -> ImageGenerator:
    """Both models in ``dtype``."""
    generator.tokenizer.to(dtype)
    generator.transformer.to(dtype)
    return generator


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """A row per dtype and batch."""
    model, config, device = arguments.model, arguments.config, arguments.device
    peer = PEERS[model](arguments.peer, config, device) if arguments.peer else None
    llama = TransformersLlama(config, device) if arguments.transformers else None
    rows = []
    for name in arguments.dtype.split(","):
        mine, theirs = dtypes(name, device)
        generator = cast(ours_from(peer, model) if peer else ours(model, config), mine).to(device)
        for batch in (int(b) for b in arguments.batch.split(",")):
            calls = {"arimage": call_ours(generator, batch)}
            if peer:
                calls["peer"] = call_peer(peer, batch, theirs, device)
            if llama:
                calls["arimage tokens"] = call_tokens(generator, batch)
                calls["transformers"] = functools.partial(llama.tokens, batch, theirs)
            seconds = in_turn(calls, arguments.runs, device)
            row: dict[str, object] = {"dtype": name, "batch": batch, "seconds": seconds}
            if peer:
                row["ratio"] = round(seconds["peer"] / seconds["arimage"], 2)
            if llama:
                ratio = seconds["transformers"] / seconds["arimage tokens"]
                row["tokens per second, ratio"] = round(ratio, 2)
            if arguments.shares:
                row["shares"] = shares(calls["arimage"], device)
                row["ceilings"] = ceilings(mine, device)
            if arguments.memory:
                names = ("arimage", "peer") if peer else ("arimage",)
                row["peak_gb"] = {n: round(peak_of(n, arguments, batch, name), 2) for n in names}
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="var", choices=list(PEERS))
    parser.add_argument("--config", help="d16, ... for var; B, L, ... elsewhere")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--dtype", default="float32,bfloat16", help="also: default")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer", help="a checkout of the official repository")
    parser.add_argument("--transformers", action="store_true", help="llamagen: also its Llama")
    parser.add_argument("--shares", action="store_true", help="also where our time goes")
    parser.add_argument("--memory", action="store_true", help="also peak memory")
    parser.add_argument("--peak", choices=["arimage", "peer"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.config = arguments.config or ("d16" if arguments.model == "var" else "B")
    if arguments.peak:
        print_peak(arguments.peak, arguments)
        return
    rows = measure(arguments)
    record = {
        "model": f"{arguments.model}-{arguments.config}",
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "peer": Path(arguments.peer).name if arguments.peer else None,
        "versions": {name: version(name) for name in ("arimage", "torch", "transformers")},
        "rows": rows,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
