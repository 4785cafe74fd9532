"""Noise: a stream of random numbers per image, so that a seed names an image.

The streams are Philox counters on the host, the same on every device; a draw inverts the
cumulative distribution in float64 with one uniform number per token.
"""

import operator
import secrets
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from arimage.shapes import Float, Int

MAX_SEED = 2**63


class PerImageNoise:
    """One independent stream per image.

    Args:
        seeds: one integer in [0, 2**63) per image.
        device: where draws are needed.

    Raises:
        ValueError: a seed out of range.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str) -> None:
        check_seeds(seeds)
        self.batch, self.device = len(seeds), torch.device(device)
        self._streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]

    def uniform(self, count: int) -> Float[Tensor, "b n"]:
        """``count`` float64 numbers in [0, 1) per image."""
        rows = [stream.random(count) for stream in self._streams]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def gumbel(self, count: int) -> Float[Tensor, "b n"]:
        """``count`` standard Gumbel numbers per image, float64."""
        tiny = torch.finfo(torch.float64).tiny
        return -(-self.uniform(count).clamp_min(tiny).log()).clamp_min(tiny).log()

    def choose(self, probabilities: Float[Tensor, "b n v"]) -> Int[Tensor, "b n"]:
        """Draws an id from each row by inverting its cumulative sum; zero rows never win."""
        cumulative = probabilities.double().cumsum(-1)
        total = cumulative[..., -1:]
        threshold = self.uniform(probabilities.shape[1]).unsqueeze(-1) * total
        ids = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
        last = (cumulative < total).sum(-1)  # the last id with a probability above zero
        return torch.minimum(ids, last)


def make_seeds(seeds: Sequence[int] | int | None, count: int) -> list[int]:
    """One seed per image: as given, counted up from one integer, or fresh.

    Raises:
        ValueError: another number of seeds than images, or a seed out of range.
    """
    if seeds is None:
        return [secrets.randbelow(2**31) for _ in range(count)]
    if isinstance(seeds, int | np.integer):
        made = [int(seeds) + i for i in range(count)]
    else:
        made = [operator.index(seed) for seed in seeds]
    if len(made) != count:
        raise ValueError(
            f"got {count} class labels for {len(made)} seeds; pass one seed per image or a "
            "single seed"
        )
    check_seeds(made)
    return made


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises ValueError unless every seed is in [0, 2**63)."""
    for seed in seeds:
        if not 0 <= seed < MAX_SEED:
            raise ValueError(f"got seed {seed}; expected an integer from 0 to 2**63 - 1")
