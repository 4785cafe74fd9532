"""How long does a folder of images take, from PNG files to FID, and how long with other tools?

    python benchmarks/evaluate_images.py [--count 96] [--size 256] [--runs 3] [--peers] [--memory]

Two folders of smooth random images are compared by FID (and one of them by the Inception Score)
with random weights in the published layout, so nothing is downloaded. ``--peers`` runs
torch-fidelity and pytorch-fid in the same process, in turn with ours, on the same folders and
weights; they must be installed (pytorch-fid needs scipy < 1.18, both need torchvision). Their FID
must agree with ours; pytorch-fid has a front end of its own, so ours is computed with that, too.

``whole`` holds medians of complete calls after a warm-up: weights, files, network, distance.
``extraction`` is the network alone, pixels in memory, because with few images a good part of each
tool's time is the distance. ``--memory`` reads each one's peak in a process of its own. The last
line is one JSON object.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from arimage.eval.features.inception import InceptionFeatures
from arimage.eval.features.inception_layers import InceptionV3
from arimage.eval.runner import evaluate
from arimage.images import list_images, read_image

PEERS = ("torch-fidelity", "pytorch-fid")
METRICS = ["fid", "inception_score"]
FOLDERS = ("generated", "real")


def make_inputs(folder: Path, count: int, size: int) -> None:
    """Two folders of PNG files and weights.pth, the same for the same arguments."""
    for seed, name in enumerate(FOLDERS):
        (folder / name).mkdir()
        rng = np.random.default_rng(seed)
        for i in range(count):
            coarse = rng.integers(0, 256 - 40 * seed, (6 + 2 * seed, 8, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
            image.save(folder / name / f"{i:04d}.png")
    torch.save(random_weights(), folder / "weights.pth")


def random_weights() -> dict[str, torch.Tensor]:
    """The published names and shapes; scales keep activations alive through the network."""
    generator = torch.Generator().manual_seed(0)
    means = {"bn.weight": 1.0, "running_var": 1.0}
    weights = {}
    for name, tensor in InceptionV3().state_dict().items():
        if tensor.is_floating_point():
            fans = tensor[0].numel() if tensor.ndim > 1 else 0
            std = (2 / fans) ** 0.5 if fans else 0.05
            mean = next((m for end, m in means.items() if name.endswith(end)), 0.0)
            tensor = mean + std * torch.randn(tensor.shape, generator=generator)
        weights[name] = tensor
    return weights


def fid_of_arimage(folder: Path, front_end: str = "tf1") -> float:
    """One call of this package."""
    report = evaluate(
        folder / "generated",
        metrics=METRICS,
        reference=folder / "real",
        features=InceptionFeatures(folder / "weights.pth", front_end=front_end),
    )
    return report["fid"].details["raw"]


def fid_of_torch_fidelity(folder: Path) -> float:
    """One call of torch-fidelity, its defaults."""
    import torch_fidelity

    found = torch_fidelity.calculate_metrics(
        input1=str(folder / "generated"),
        input2=str(folder / "real"),
        cuda=False,
        fid=True,
        isc=True,
        cache=False,
        verbose=False,
        feature_extractor_weights_path=str(folder / "weights.pth"),
    )
    return found["frechet_inception_distance"]


def fid_of_pytorch_fid(folder: Path) -> float:
    """One call of pytorch-fid, the defaults of its command line."""
    from pytorch_fid import fid_score, inception

    weights = torch.load(folder / "weights.pth", weights_only=True)
    inception.load_state_dict_from_url = lambda *arguments, **options: weights
    paths = [str(folder / name) for name in FOLDERS]
    return float(fid_score.calculate_fid_given_paths(paths, 50, "cpu", 2048, 2))


CALLS: dict[str, Callable[[Path], float]] = {
    "arimage": fid_of_arimage,
    "torch-fidelity": fid_of_torch_fidelity,
    "pytorch-fid": fid_of_pytorch_fid,
}


def extractors(folder: Path, names: list[str]) -> dict[str, Callable[[], object]]:
    """Calls of each network alone, on the first 48 images, in batches as each tool has them."""
    paths = list_images(folder / "generated")[:48]
    pixels = np.stack([read_image(path) for path in paths])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    ours = InceptionFeatures(folder / "weights.pth")
    calls: dict[str, Callable[[], object]] = {"arimage": lambda: ours(pixels)}
    if "torch-fidelity" in names:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        theirs = FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(folder / "weights.pth"),
        )
        calls["torch-fidelity"] = lambda: without_gradients(theirs, images)
    if "pytorch-fid" in names:
        from pytorch_fid import inception

        weights = torch.load(folder / "weights.pth", weights_only=True)
        inception.load_state_dict_from_url = lambda *arguments, **options: weights
        network = inception.InceptionV3([3]).eval()
        calls["pytorch-fid"] = lambda: without_gradients(network, images / 255)
    return calls


def without_gradients(network: Callable[[torch.Tensor], object], images: torch.Tensor) -> object:
    """As both tools call it."""
    with torch.no_grad():
        return network(images)


def in_turn(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each call after a warm-up, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if run:
                times[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def rates(seconds: dict[str, float], images: int) -> dict[str, object]:
    """Seconds, images per second, and ours over the fastest other."""
    found: dict[str, object] = {
        "seconds": seconds,
        "images per second": {name: round(images / s, 2) for name, s in seconds.items()},
    }
    others = [value for name, value in seconds.items() if name != "arimage"]
    if others:
        found["ratio to the fastest peer"] = round(min(others) / seconds["arimage"], 2)
    return found


def peak_of(name: str, folder: Path) -> float:
    """Peak resident GB of one call in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, "--inputs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(float(done.stdout.strip().splitlines()[-1]), 2)


def print_peak(name: str, folder: Path) -> None:
    """What ``peak_of`` runs."""
    CALLS[name](folder)
    # Not getrusage: its peak is carried over from the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e6)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Scores, times and memory."""
    names = ["arimage", *(PEERS if arguments.peers else ())]
    fid = {name: CALLS[name](folder) for name in names}
    if "pytorch-fid" in fid:
        fid["arimage, front end of pytorch-fid"] = fid_of_arimage(folder, "pytorch-fid")
    print("fid", fid, flush=True)
    whole = in_turn({name: lambda n=name: CALLS[n](folder) for name in names}, arguments.runs)
    print("seconds", whole, flush=True)
    alone = extractors(folder, names)
    record: dict[str, object] = {
        "fid": fid,
        "whole": rates(whole, 2 * arguments.count),
        "extraction": rates(in_turn(alone, arguments.runs), min(48, arguments.count)),
    }
    if arguments.memory:
        record["peak_gb"] = {name: peak_of(name, folder) for name in names}
    return record


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=96, help="images in each of two folders")
    parser.add_argument("--size", type=int, default=256, help="pixels per side")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="also torch-fidelity and pytorch-fid")
    parser.add_argument("--memory", action="store_true", help="also peak memory")
    parser.add_argument("--peak", choices=list(CALLS), help=argparse.SUPPRESS)
    parser.add_argument("--inputs", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.peak, Path(arguments.inputs))
        return
    with tempfile.TemporaryDirectory() as name:
        make_inputs(Path(name), arguments.count, arguments.size)
        measured = measure(arguments, Path(name))
    packages = ("arimage", "torch", *(PEERS if arguments.peers else ()))
    record = {
        "images": 2 * arguments.count,
        "size": arguments.size,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": {package: version(package) for package in packages},
        **measured,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
