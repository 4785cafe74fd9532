"""Which process this is, and what the others have."""

import torch
import torch.distributed as dist
from torch import Tensor


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
