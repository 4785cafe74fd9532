"""Two processes that train together over gloo, as ``torchrun`` starts them."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def two_processes(script, *arguments):
    """Runs a script twice, with ranks 0 and 1, beside the block; fails if one of them does.

    Yields a list that has what each printed once the block has ended.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    here = Path(__file__).parent
    paths = [here.parents[1] / "src", here, here.parent]
    setting = {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            env={**os.environ, **setting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = []
    try:
        yield said
    finally:
        found = [(*worker.communicate(timeout=300), worker.returncode) for worker in workers]
    for printed, errors, code in found:
        assert code == 0, errors[-2000:]
        said.append(printed)
