"""Means over the processes of a training, with gradients."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def process_mean(x: Tensor) -> Tensor:
    """The mean of every process' ``x``; ``x`` itself where there is one process.

    Its gradient is averaged likewise, so that after the averaging of parameters' gradients (DDP)
    each process has the gradient of the mean of all processes' losses.
    """
    return _Mean.apply(x) if processes() > 1 else x


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _averaged(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / processes()


class _Mean(torch.autograd.Function):
    """d(mean of losses)/d(x of process i) is the sum over losses of their gradients / processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _averaged(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _averaged(gradient)


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
