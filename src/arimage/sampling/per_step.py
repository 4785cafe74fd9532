"""Guidance as a list: a share of it for each step, or for each token map.

For a next-scale model steps are token maps, and maps are bands of frequency: this is the table of
guidance by frequency (FreCaS, arXiv 2410.18410) for tokens. Every other schedule is such a list,
made by a formula.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from arimage.sampling.guidance import Pass, Schedule


@dataclass(frozen=True)
class PerStep(Schedule):
    """s = 1 + (scale - 1) shares[step]: with ``guidance_scale=2`` simply 1 + the share.

    Attributes:
        shares: one for each step; or one for each token map, where a map takes several steps.

    Raises:
        ValueError: none, or one that is negative or not finite; another number than there are
            steps or token maps, when it is asked.
    """

    shares: Sequence[float | int] = (1.0,)

    def __post_init__(self) -> None:
        shares = tuple(float(share) for share in self.shares)
        if not shares or not all(math.isfinite(s) and s >= 0 for s in shares):
            raise ValueError(
                f"got shares {list(shares)} of guidance; expected numbers >= 0, one for each step"
            )
        object.__setattr__(self, "shares", shares)

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As the class says."""
        if len(self.shares) != num_steps:
            raise ValueError(
                f"got {len(self.shares)} shares of guidance for {num_steps} steps; give one for "
                "each step, or one for each token map"
            )
        return 1 + (scale - 1) * self.shares[index]

    def bound(self, passes: Sequence[Pass], num_slots: int) -> "PerStep":
        """A share for each step, where there is one for each token map."""
        if not 1 < passes[-1].count == len(self.shares) != len(passes):
            return self
        return dataclasses.replace(self, shares=[self.shares[each.index] for each in passes])
