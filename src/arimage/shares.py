"""Work that processes share without a word to each other: which part is this one's."""

import os

import torch


def own_share() -> tuple[int, int]:
    """(i, n): this is the i-th of the n processes that torchrun or accelerate started, or (0, 1).

    Raises:
        ValueError: RANK and WORLD_SIZE of the environment that do not fit.
    """
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ValueError(
            f"got RANK {rank} and WORLD_SIZE {world} in the environment; expected a rank below the "
            "number of processes: start them with torchrun or accelerate launch"
        )
    return int(rank), int(world)


def own_gpu(device: str, process: int | None = None) -> str:
    """A GPU for each process where ``device`` asks for any of several; else ``device``.

    ``process``: which one of this machine; None is what torchrun or accelerate say.
    """
    if device != "cuda" or torch.cuda.device_count() < 2:
        return device
    process = int(os.environ.get("LOCAL_RANK", "0")) if process is None else process
    return f"cuda:{process % torch.cuda.device_count()}"
