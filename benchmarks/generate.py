"""How long does an image take, from class label to pixels, and how far is that from the bound?

    python benchmarks/generate.py --model var --config d16 --device cpu --batch 1,4 [--peer PATH]
    python benchmarks/generate.py --model llamagen --config B --gpt-fast --transformers
    python benchmarks/generate.py --model rar --config B --peer PATH --memory
    python benchmarks/generate.py --model var --config d30 --device cuda --batch 1,64 \\
        --dtype bfloat16 --runs 20 --save

Random weights of the published sizes, the official sampling settings (``SETTINGS`` of systems.py).
A row per dtype and batch: median and 95th percentile of a call, images per second, how often the
host asks the device for something, and the ratio to the roofline: the bound of roofline.py from
the rates that the machine reaches alone, measured on the spot (``ceilings``).

Beside it, in turn in the same process: PATH is a checkout of the official repository, whose loop
runs with the same weights; ``--gpt-fast`` (llamagen) is a plain compiled loop with a static cache,
``--transformers`` (llamagen) plain ``generate``, both tokens alone, no pixels. dtype ``default`` is
this package's own for the device beside the official code's, float32. ``--mode`` is how the
generator is compiled; as a rule graphs on a GPU. ``--shares`` profiles one of our calls, not
compiled: parts of the model, groups of operators. Peak memory is read on a GPU always, elsewhere
with ``--memory``, in a process of its own. The last line is one JSON object, which ``--save`` also
writes to results/ (or the folder named), again after each row.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measures import (
    Call,
    ceilings,
    kind_of,
    launches,
    machine_of,
    peak_on_gpu,
    percentile,
    shares,
    times_of,
)
from records import RESULTS, about, save
from roofline import Machine, image_bound
from static_llama import StaticLlama
from systems import LLAMAGEN, PEERS, SIDES, Peer, TransformersLlama, ours, ours_from

from arimage.generator import ImageGenerator
from arimage.pretrained import default_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = ("off", "graphs", "compile")


def labels_of(batch: int) -> list[int]:
    """Distinct classes, as far as there are any."""
    return [i % 1000 for i in range(batch)]


def call_ours(generator: ImageGenerator, batch: int) -> Call:
    """One call of this package."""
    labels = labels_of(batch)
    return lambda: generator(labels, seeds=0, batch_size=batch, output_type="pixels")


def call_tokens(generator: ImageGenerator, batch: int) -> Call:
    """Our loop without the decoder."""
    labels = labels_of(batch)
    return lambda: deque(generator.sample(labels, list(range(batch))), maxlen=1)


def call_peer(peer: Peer, batch: int, dtype: torch.dtype, device: str) -> Call:
    """One call of the official loop."""
    labels = torch.arange(batch, device=device) % 1000

    def run() -> object:
        with torch.no_grad():
            return peer.images(labels, dtype).mul(255).byte().cpu()

    return run


def call_gpt_fast(llama: StaticLlama, batch: int, dtype: torch.dtype) -> Call:
    """An image's tokens of the plain compiled loop."""
    llama.to(dtype)
    return lambda: llama.tokens(batch).cpu()


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


def build(asked: argparse.Namespace, peer: Peer | None, dtype: torch.dtype) -> ImageGenerator:
    """Our generator on the device, made there: a large one's initial weights take long on a CPU."""
    with torch.device(asked.device):
        generator = ours_from(peer, asked.model) if peer else ours(asked.model, asked.config)
    return cast(generator, dtype).to(asked.device)


def mode_of(asked: argparse.Namespace) -> str:
    """The mode asked for, or the rule: graphs on a GPU where generators can be compiled.

    Raises:
        SystemExit: another mode than off, and this version has none.
    """
    able = hasattr(ImageGenerator, "compile")
    rule = "graphs" if able and kind_of(asked.device) == "cuda" else "off"
    mode = asked.mode or rule
    if mode != "off" and not able:
        raise SystemExit(f"got --mode {mode}; this version's generators have no compile(): use off")
    return mode


def set_mode(generator: ImageGenerator, mode: str) -> None:
    """Compiles a generator, or stops that; nothing where there is no such method."""
    if hasattr(generator, "compile"):
        generator.compile(mode)


def bytes_of(*models: torch.nn.Module | None) -> int:
    """What parameters and buffers of models take."""
    tensors = [t for m in models if m is not None for t in (*m.parameters(), *m.buffers())]
    return sum(t.numel() * t.itemsize for t in tensors)


class Others:
    """The systems beside ours, built as asked."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.device, config = asked.device, asked.config
        path = asked.peer
        self.peer = PEERS[asked.model](path, config, self.device) if path else None
        self.llama = TransformersLlama(config, self.device) if asked.transformers else None
        self.plain = None
        if asked.gpt_fast:
            plain = StaticLlama(LLAMAGEN[config], length=SIDES.get(config, 16) ** 2)
            self.plain = plain.to(self.device).eval().compile_step()

    def calls(self, generator: ImageGenerator, batch: int, dtype: torch.dtype) -> dict[str, Call]:
        """By name; with those that make tokens alone comes our loop without the decoder."""
        calls: dict[str, Call] = {}
        if self.peer:
            calls["peer"] = call_peer(self.peer, batch, dtype, self.device)
        if self.llama or self.plain:
            calls["arimage tokens"] = call_tokens(generator, batch)
        if self.llama:
            calls["transformers"] = functools.partial(self.llama.tokens, batch, dtype)
        if self.plain:
            calls["gpt-fast"] = call_gpt_fast(self.plain, batch, dtype)
        return calls

    def bytes(self) -> int:
        """What they hold."""
        peer = (self.peer.tokenizer, self.peer.transformer) if self.peer else ()
        return bytes_of(*peer, self.llama and self.llama.model, self.plain)


def timings(times: dict[str, list[float]], batch: int) -> dict[str, Any]:
    """Medians, 95th percentiles, rates and ratios of the times of calls."""
    seconds = {name: round(statistics.median(values), 6) for name, values in times.items()}
    own = seconds["arimage"]
    row: dict[str, Any] = {
        "seconds": seconds,
        "p95": {name: round(percentile(values, 0.95), 6) for name, values in times.items()},
        "runs": {name: len(values) for name, values in times.items()},
        "ms_per_image": round(1000 * own / batch, 3),
        "p95_ms_per_image": round(1000 * percentile(times["arimage"], 0.95) / batch, 3),
        "images_per_second": round(batch / own, 3),
    }
    if "peer" in seconds:
        row["ratio"] = round(seconds["peer"] / own, 2)
    for name in ("transformers", "gpt-fast"):
        if name in seconds:
            ratios = row.setdefault("tokens per second, ratio", {})
            ratios[name] = round(seconds[name] / seconds["arimage tokens"], 2)
    return row


def against_roofline(
    generator: ImageGenerator, batch: int, seconds: float, machine: Machine
) -> dict[str, float]:
    """The bound in ms per image, how many times longer a call takes, and the rates it reaches."""
    found = image_bound(generator, batch, machine)
    memory, rate = found["bytes"] / seconds, found["flops"] / seconds
    return {
        "transformer_ms": round(found["transformer_ms"], 3),
        "decoder_ms": round(found["decoder_ms"], 3),
        "total_ms": round(found["total_ms"], 3),
        "ratio": round(1000 * seconds / batch / found["total_ms"], 2),
        "gb_per_s": round(memory / 1e9, 2),
        "of_memory": round(memory / machine.bytes_per_second, 3),
        "gflop_per_s": round(rate / 1e9, 2),
        "of_products": round(rate / machine.flops_per_second, 3),
    }


def one_row(
    generator: ImageGenerator,
    others: Others,
    asked: argparse.Namespace,
    name: str,
    batch: int,
    reached: dict[str, float],
) -> dict[str, Any]:
    """All that is measured of one dtype and batch."""
    device, mode, own = asked.device, mode_of(asked), call_ours(generator, batch)
    calls = {"arimage": own, **others.calls(generator, batch, dtypes(name, device)[1])}
    timed = timings(times_of(calls, asked.runs, device), batch)
    row = {"dtype": name, "batch": batch, "mode": mode, **timed, "ceilings": reached}
    seconds = timed["seconds"]["arimage"]
    row["roofline"] = against_roofline(generator, batch, seconds, machine_of(reached))
    if kind_of(device) == "cuda":
        row["peak_gb"] = peak_on_gpu(own, device, others.bytes())
    elif asked.memory:
        names = ("arimage", "peer") if others.peer else ("arimage",)
        row["peak_gb"] = {n: round(peak_of(n, asked, batch, name), 2) for n in names}
    if mode == "off" or kind_of(device) == "cuda":
        counts = launches(own, device)
        row["per_image"] = {what: round(count / batch, 1) for what, count in counts.items()}
    if asked.shares:
        set_mode(generator, "off")
        found = shares(own, device)
        row |= {"parts": found["parts"], "shares": found["groups"]}
        set_mode(generator, mode)
    return row


def measure(asked: argparse.Namespace, done: Callable[[list[dict[str, Any]]], None]) -> None:
    """A row per dtype and batch; ``done`` is told all of them after each."""
    others, rows = Others(asked), []
    for name in asked.dtype.split(","):
        dtype = dtypes(name, asked.device)[0]
        reached = ceilings(dtype, asked.device, min(9, asked.runs))
        generator = build(asked, others.peer, dtype)
        set_mode(generator, mode_of(asked))
        for batch in (int(b) for b in asked.batch.split(",")):
            rows.append(one_row(generator, others, asked, name, batch, reached))
            print(rows[-1], flush=True)
            done(rows)


def peak_of(which: str, asked: argparse.Namespace, batch: int, dtype: str) -> float:
    """Peak resident GB of one call in a process of its own."""
    command = [sys.executable, __file__, "--peak", which, "--model", asked.model]
    command += ["--config", asked.config, "--device", asked.device, "--mode", mode_of(asked)]
    command += ["--batch", str(batch), "--dtype", dtype]
    command += ["--peer", asked.peer] if asked.peer else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def print_peak(which: str, asked: argparse.Namespace) -> None:
    """What ``peak_of`` runs: builds one system alone and prints its peak in GB."""
    batch, device = int(asked.batch), asked.device
    mine, theirs = dtypes(asked.dtype, device)
    if which == "peer":
        peer = PEERS[asked.model](asked.peer, asked.config, device)
        call_peer(peer, batch, theirs, device)()
    else:
        generator = build(asked, None, mine)
        set_mode(generator, mode_of(asked))
        call_ours(generator, batch)()
    # Not getrusage: its peak is carried over from the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e6)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The options; SystemExit for some that do not go together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="var", choices=list(PEERS))
    parser.add_argument("--config", help="d16, ... for var; B, L, ... elsewhere; tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--dtype", default="float32,bfloat16", help="also: default")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mode", choices=MODES, help="of ImageGenerator.compile")
    parser.add_argument("--peer", help="a checkout of the official repository")
    parser.add_argument("--gpt-fast", action="store_true", help="llamagen: also a compiled loop")
    parser.add_argument("--transformers", action="store_true", help="llamagen: also its Llama")
    parser.add_argument("--shares", action="store_true", help="also where our time goes")
    parser.add_argument("--memory", action="store_true", help="also peak memory")
    parser.add_argument("--save", nargs="?", const=RESULTS, type=Path, help="folder, or results/")
    parser.add_argument("--peak", choices=["arimage", "peer"], help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    asked.config = asked.config or ("d16" if asked.model == "var" else "B")
    if (asked.gpt_fast or asked.transformers) and asked.model != "llamagen":
        parser.error(f"--gpt-fast and --transformers are Llamas; got --model {asked.model}")
    return asked


def main() -> None:
    """Runs, prints and saves."""
    asked = parse()
    if asked.peak:
        print_peak(asked.peak, asked)
        return
    record = about(f"{asked.model}-{asked.config}", asked.device)
    record["peer"] = Path(asked.peer).name if asked.peer else None

    def done(rows: list[dict[str, Any]]) -> None:
        record["rows"] = rows
        if asked.save:
            save(record, asked.save)

    measure(asked, done)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
