"""Where and how to compute: which process this is, what the others have."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from arimage.training.sharding import asked_for, sharding_plugin, use

if TYPE_CHECKING:
    from accelerate import Accelerator


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if processes() > 1 else 0


def gathered(x: Tensor) -> Tensor:
    """Every process' ``x`` (all of one shape) in the order of their ranks, along the first axis."""
    if processes() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(processes())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def make_accelerator(
    precision: str | None = None,
    trackers: Sequence[str] = (),
    folder: str | Path | None = None,
    shard: bool | None = None,
) -> "Accelerator":
    """Where and how to compute; ``accelerate launch`` or ``torchrun`` say how many processes.

    Args:
        precision: "no" (float32), "bf16" or "fp16"; None is what the launcher says, else "no".
        trackers: names of accelerate's trackers.
        folder: where trackers write.
        shard: as ``sharding_plugin``.

    Raises:
        ValueError: a precision that the device cannot do, sharding that cannot be.
        ModuleNotFoundError: no such tracker.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    on_cpu = not torch.accelerator.is_available()
    if precision == "fp16" and on_cpu:
        raise ValueError("got precision fp16, which needs a GPU; use bf16, or no for float32")
    for tracker in trackers:
        if find_spec(tracker) is None:
            raise ModuleNotFoundError(f"no module named {tracker!r}", name=tracker)
    AcceleratorState._reset_state()  # the last training's precision would stay
    plugin = sharding_plugin(shard)
    with asked_for(plugin):
        accelerator = Accelerator(
            device_placement=False,
            cpu=on_cpu,  # else several processes would not find together
            mixed_precision=precision,
            fsdp_plugin=plugin,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],  # codebooks
            log_with=list(trackers) or None,
            project_dir=folder,
        )
    if plugin is not None:
        use(plugin, accelerator)
    return accelerator
