"""How long until the first image? Times fresh processes; medians of several runs.

    python benchmarks/startup.py [--runs 5]

``import arimage`` must stay far below a second, because every script and ``--help`` pays it;
``arimage generate`` is the whole way from the shell to a PNG, most of it torch and transformers.
The last line is one JSON object.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


def seconds(command: list[str], runs: int) -> float:
    """Median wall time of a command after one warm-up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return round(statistics.median(times[1:]), 3)


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "digits.png")
        cli = [python, "-m", "arimage.cli"]
        record = {
            "python": seconds([python, "-c", "pass"], runs),
            "import arimage": seconds([python, "-c", "import arimage"], runs),
            "import torch": seconds([python, "-c", "import torch"], runs),
            "arimage --help": seconds([*cli, "--help"], runs),
            "arimage generate": seconds([*cli, "generate", "--classes", "0-9", "--out", out], runs),
        }
    versions = {name: version(name) for name in ("arimage", "torch", "transformers")}
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    for name, value in record.items():
        print(f"{name:20} {value:.3f} s")
    print(json.dumps({"seconds": record, "runs": runs, "machine": machine, "versions": versions}))


if __name__ == "__main__":
    main()
