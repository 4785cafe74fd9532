"""How the benchmarks measure: times in turn, what a machine reaches, where a call's time goes.

Every function takes calls without arguments that do the whole of what is measured. A call on a GPU
returns before the device is done, so the clock is read after ``wait``.
"""

import functools
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from roofline import Machine
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from arimage.ar.linear import Linear
from arimage.generator import ImageGenerator
from arimage.sampling.loop import Branch

Call = Callable[[], object]
OTHERS_RUNS = 3  # runs of what is timed beside ours: official loops take seconds a call
# A first call allocates; on a GPU the first ones also capture graphs, choose kernels and compile.
WARM_UPS = {"cpu": 1, "cuda": 3}
KERNEL_LAUNCH = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cuGraphLaunch")
PARTS = ("transformer", "decoder")  # what a profile is told; the rest is sampling
GROUPS = {  # of a profile's operators
    "products": ("mkldnn::_linear_pointwise", "aten::addmm", "aten::mm"),
    "convolutions": ("aten::mkldnn_convolution", "aten::cudnn_convolution"),
    "attention": (
        "aten::_scaled_dot_product",
        "aten::_flash_attention_forward",
        "aten::_efficient_attention_forward",
        "aten::_cudnn_attention_forward",
        "aten::bmm",
        "aten::_softmax",
    ),
}


def kind_of(device: str) -> str:
    """cpu or cuda, of a name such as cuda:1."""
    return device.split(":")[0]


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if kind_of(device) == "cuda":
        torch.cuda.synchronize()


def times_of(calls: dict[str, Call], runs: int, device: str) -> dict[str, list[float]]:
    """Seconds of each run of each call after the warm-ups, taken in turn.

    The first call runs ``runs`` times, those beside it at most ``OTHERS_RUNS`` times.
    """
    counts = {name: min(runs, OTHERS_RUNS) if i else runs for i, name in enumerate(calls)}
    warm_ups = WARM_UPS[kind_of(device)]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(-warm_ups, runs):
        for name, call in calls.items():
            if run >= counts[name]:
                continue
            start = time.perf_counter()
            call()
            wait(device)
            if run >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@torch.no_grad()
def ceilings(dtype: torch.dtype, device: str, runs: int = 9) -> dict[str, float]:
    """What the machine reaches alone: products and convolutions in GFLOP/s, memory in GB/s.

    Sizes are such that a GPU takes a millisecond or more and no cache holds what is read.
    ``reading`` counts bytes read; ``copying`` those read and those written.
    """
    gpu = kind_of(device) == "cuda"
    product, work = large_product(dtype, device)
    images = 16 if gpu else 1
    conv = torch.nn.Conv2d(160, 160, 3, padding=1, device=device, dtype=dtype)
    image = torch.randn(images, 160, 256, 256, device=device, dtype=dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    size = 2**32 if gpu else 2**28
    large = torch.ones(size // dtype.itemsize, device=device, dtype=dtype)
    other = torch.empty_like(large)
    tasks: dict[str, tuple[Call, float]] = {
        "products": (product, work),
        "convolutions": (lambda: conv(image), images * 2 * 160 * 160 * 9 * 256 * 256),
        "reading": (large.amax, size),
        "copying": (lambda: other.copy_(large), 2 * size),
    }
    found = {}
    for name, (call, work) in tasks.items():
        (seconds,) = times_of({name: call}, runs, device).values()
        found[name] = round(work / statistics.median(seconds) / 1e9, 1)
    return found


def large_product(dtype: torch.dtype, device: str) -> tuple[Call, float]:
    """A product of random matrices as large as it is fast, and its FLOPs."""
    if kind_of(device) == "cuda":
        side = 8192
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        return lambda: a @ b, 2 * side**3
    layer = Linear(1024, 4096, device=device, dtype=dtype)
    layer.pack()
    rows = torch.randn(2048, 1024, device=device, dtype=dtype)
    return lambda: layer(rows), 2 * 2048 * 1024 * 4096


def machine_of(found: dict[str, float]) -> Machine:
    """The best of what ``ceilings`` measured: no time can be below the bound by luck."""
    memory = max(found["reading"], found["copying"])
    return Machine(memory * 1e9, max(found["products"], found["convolutions"]) * 1e9)


@contextmanager
def named_ranges() -> Iterator[None]:
    """Inside, a profile has the ranges ``transformer`` and ``decoder``."""

    def named(function: Callable, name: str) -> Callable:
        @functools.wraps(function)
        def run(*arguments: object, **options: object) -> object:
            with record_function(name):
                return function(*arguments, **options)

        return run

    with (
        patch.object(Branch, "of", staticmethod(named(Branch.of, "transformer"))),
        patch.object(Branch, "hidden", named(Branch.hidden, "transformer")),
        patch.object(Branch, "mixed", named(Branch.mixed, "transformer")),
        patch.object(ImageGenerator, "decode", named(ImageGenerator.decode, "decoder")),
    ):
        yield


def shares(call: Call, device: str) -> dict[str, dict[str, float]]:
    """Where the time of one call goes, uncompiled: ``parts`` of the model, ``groups`` of operators.

    On a GPU the time is that of the kernels, without what they wait for. ``sampling`` is what is
    neither transformer nor decoder: guidance's draw, the order's bookkeeping, pixels.
    """
    gpu = kind_of(device) == "cuda"
    kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA][: 1 + gpu]
    with named_ranges(), profile(activities=kinds) as record:
        with record_function("call"):
            call()
            wait(device)
    events = [e for e in record.key_averages() if e.device_type == DeviceType.CPU]
    whole, own = ("device_time_total" if gpu else "cpu_time_total"), "self_cpu_time_total"
    own = "self_device_time_total" if gpu else own
    seconds = {e.key: getattr(e, whole) for e in events if e.key in ("call", *PARTS)}
    parts = {name: seconds.get(name, 0.0) / seconds["call"] for name in PARTS}
    parts["sampling"] = 1 - sum(parts.values())
    groups = grouped((e.key, getattr(e, own)) for e in events if e.key not in seconds)
    return {
        "parts": {name: round(share, 3) for name, share in parts.items()},
        "groups": {name: round(share, 3) for name, share in groups.items()},
    }


def grouped(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Shares of operators' own times by the groups of ``GROUPS``."""
    found = dict.fromkeys((*GROUPS, "rest"), 0.0)
    for key, value in times:
        matches = (group for group, names in GROUPS.items() if key.startswith(names))
        found[next(matches, "rest")] += value
    return {group: value / sum(found.values()) for group, value in found.items()}


def launches(call: Call, device: str) -> dict[str, int]:
    """How often one call asks its device for something.

    Returns:
        On a GPU ``kernels``, those that ran, and ``launches``, the times that the host started one
        or a graph of them. On a CPU ``operator_calls``.
    """
    if kind_of(device) != "cuda":
        with OperatorCalls() as counted:
            call()
        return {"operator_calls": counted.count}
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        call()
        wait(device)
    return count_launches((e.name, e.device_type == DeviceType.CUDA) for e in record.events())


def count_launches(events: Iterable[tuple[str, bool]]) -> dict[str, int]:
    """Of a profile's events as (name, whether it ran on the GPU)."""
    counts = Counter()
    for name, on_gpu in events:
        if on_gpu:
            counts["kernels"] += not name.startswith(("Memcpy", "Memset"))
        else:
            counts["launches"] += name.startswith(KERNEL_LAUNCH)
    return {"kernels": counts["kernels"], "launches": counts["launches"]}


class OperatorCalls(TorchDispatchMode):
    """Counts the operators that reach a device's own code."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += 1
        return function(*arguments, **(options or {}))


def peak_on_gpu(call: Call, device: str, foreign: int) -> dict[str, float]:
    """Peak GB during a call.

    Returns:
        ``arimage``, what tensors took less ``foreign`` bytes that are other systems'; ``reserved``,
        what torch held for all systems, with the working memory of captured graphs.
    """
    wait(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    wait(device)
    taken = torch.cuda.max_memory_allocated(device) - foreign
    held = torch.cuda.max_memory_reserved(device)
    return {"arimage": round(taken / 1e9, 3), "reserved": round(held / 1e9, 3)}
