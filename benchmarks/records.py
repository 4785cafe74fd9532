"""Records of measurements: what was run, on what, with which versions, of which commit."""

import json
import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from arimage import __version__
from arimage.training.session import git_commit

RESULTS = Path(__file__).parent / "results"


def device_name(device: str) -> str:
    """A GPU's own name, or the number of cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu {os.cpu_count()} cores"


def about(model: str, device: str) -> dict[str, Any]:
    """What belongs to a number besides the number.

    The commit is that of the checkout, or the variable COMMIT where the code was copied without
    its repository.
    """
    return {
        "model": model,
        "device": device,
        "device_name": device_name(device),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "commit": os.environ.get("COMMIT") or git_commit(Path(__file__).parent),
        "command": " ".join(["python", *sys.argv]),
        "versions": {
            "arimage": __version__,
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "cuda": torch.version.cuda,
        },
    }


def file_name(record: dict[str, Any]) -> str:
    """``<model>_<device>_torch<version>.json`` in lower case; a build's suffix is left out."""
    device = re.sub(r"[^a-z0-9]+", "-", record["device_name"].lower()).strip("-")
    release = record["versions"]["torch"].split("+")[0]
    return f"{record['model'].lower()}_{device}_torch{release}.json"


def save(record: dict[str, Any], folder: Path) -> Path:
    """Writes the record under its name; an earlier one of the same name is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(record)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path
