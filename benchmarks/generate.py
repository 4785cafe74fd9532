"""How long does an image take, from class label to pixels, and how long with the official code?

    python benchmarks/generate.py --model var --config d16 --device cpu --batch 1,4 [--peer PATH]

Random weights of the published sizes, VAR's sampling settings (cfg 1.5, top-k 900, top-p 0.96).
PATH is a checkout of the official repository: its loop then runs in the same process with the same
weights, in turn with ours, and the ratio of the medians is printed; float32 plainly, bfloat16 under
autocast as its demo does. ``--memory`` reads each one's peak in a process of its own. The last line
is one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from arimage.ar.convert.var import VARLayout
from arimage.ar.var import VARConfig, VARModel
from arimage.generator import ImageGenerator
from arimage.sampling.settings import Settings
from arimage.tokenizers.convert.var import VARTokenizerLayout
from arimage.tokenizers.multiscale_vq import MultiScaleVQConfig, MultiScaleVQTokenizer

SCALES = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
SETTINGS = Settings(guidance_scale=2.5, guidance_schedule="linear", top_k=900, top_p=0.96)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def random_generator(depth: int) -> ImageGenerator:
    """VAR of a published depth with its tokenizer, as initialised."""
    torch.manual_seed(0)
    width = 64 * depth
    transformer = VARModel(
        VARConfig(
            scales=SCALES,
            depth=depth,
            width=width,
            num_heads=depth,
            vocab_size=4096,
            code_dim=32,
            num_classes=1000,
        )
    )
    tokenizer = MultiScaleVQTokenizer(
        MultiScaleVQConfig(
            image_size=256,
            downsample_factor=16,
            channels=160,
            channel_multipliers=[1, 1, 2, 2, 4],
            num_res_blocks=2,
            latent_channels=32,
            vocab_size=4096,
            code_dim=32,
            scales=SCALES,
            quantizer="vq_learned",
        )
    )
    return ImageGenerator(tokenizer, transformer, SETTINGS)


def peer_models(path: str, depth: int, device: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The official tokenizer and transformer with small random weights."""
    sys.path.insert(0, path)
    from models import build_vae_var  # type: ignore[import-not-found]

    torch.manual_seed(0)
    resets = {c: c.reset_parameters for c in (torch.nn.Linear, torch.nn.LayerNorm, torch.nn.Conv2d)}
    tokenizer, transformer = build_vae_var(device=device, patch_nums=tuple(SCALES), depth=depth)
    for cls, reset in resets.items():  # it switches them off for every model of the process
        cls.reset_parameters = reset
    with torch.no_grad():
        for name, parameter in tokenizer.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    for model in (tokenizer, transformer):
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    return tokenizer, transformer


def from_peer(tokenizer: torch.nn.Module, transformer: torch.nn.Module) -> ImageGenerator:
    """Our generator with the peer's weights."""
    parts = []
    for layout, source in ((VARTokenizerLayout(), tokenizer), (VARLayout(), transformer)):
        hints = {} if parts else {"scales": SCALES}
        converted = layout.convert(source.state_dict(), **hints)
        model = layout.model(converted.config)
        model.load_state_dict(converted.weights)
        parts.append(model)
    return ImageGenerator(*parts, SETTINGS)


def call_ours(generator: ImageGenerator, batch: int) -> Callable[[], object]:
    """One call of this package."""
    labels = [i % 1000 for i in range(batch)]
    return lambda: generator(labels, seeds=0, batch_size=batch, output_type="pixels")


def call_peer(transformer: torch.nn.Module, batch: int, dtype: str) -> Callable[[], object]:
    """One call of the official loop, as its demo makes it."""
    device = next(transformer.parameters()).device
    labels = torch.arange(batch, device=device) % 1000

    def run() -> object:
        half = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
        with torch.inference_mode(), half:
            image = transformer.autoregressive_infer_cfg(
                B=batch, label_B=labels, cfg=1.5, top_k=900, top_p=0.96, g_seed=0
            )
        return image.mul(255).byte().cpu()

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
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def peak_of(which: str, arguments: argparse.Namespace, batch: int, dtype: str) -> float:
    """Peak resident GB of one call in a process of its own."""
    command = [sys.executable, __file__, "--peak", which, "--config", arguments.config]
    command += ["--batch", str(batch), "--dtype", dtype, "--device", arguments.device]
    command += ["--peer", arguments.peer] if arguments.peer else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def print_peak(which: str, arguments: argparse.Namespace) -> None:
    """What ``peak_of`` runs: builds one system alone and prints its peak in GB."""
    depth, batch, dtype = int(arguments.config[1:]), int(arguments.batch), arguments.dtype
    if which == "peer":
        call_peer(peer_models(arguments.peer, depth, arguments.device)[1], batch, dtype)()
    else:
        generator = random_generator(depth)
        for model in (generator.tokenizer, generator.transformer):
            model.to(DTYPES[dtype])
        call_ours(generator.to(arguments.device), batch)()
    # Not getrusage: its peak is carried over from the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e6)


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """A row per dtype and batch."""
    depth, rows = int(arguments.config[1:]), []
    peer = peer_models(arguments.peer, depth, arguments.device) if arguments.peer else None
    for dtype in arguments.dtype.split(","):
        generator = from_peer(*peer) if peer else random_generator(depth)
        for model in (generator.tokenizer, generator.transformer):
            model.to(DTYPES[dtype])
        generator.to(arguments.device)
        for batch in (int(b) for b in arguments.batch.split(",")):
            calls = {"arimage": call_ours(generator, batch)}
            if peer:
                calls["peer"] = call_peer(peer[1], batch, dtype)
            row: dict[str, object] = {"dtype": dtype, "batch": batch}
            row["seconds"] = in_turn(calls, arguments.runs, arguments.device)
            if peer:
                seconds = row["seconds"]
                row["ratio"] = round(seconds["peer"] / seconds["arimage"], 2)
            if arguments.memory:
                names = ("arimage", "peer") if peer else ("arimage",)
                row["peak_gb"] = {n: round(peak_of(n, arguments, batch, dtype), 2) for n in names}
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="var", choices=["var"])
    parser.add_argument("--config", default="d16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--dtype", default="float32,bfloat16")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer", help="a checkout of the official repository")
    parser.add_argument("--memory", action="store_true", help="also peak memory")
    parser.add_argument("--peak", choices=["arimage", "peer"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
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
