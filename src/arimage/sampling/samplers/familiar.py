"""Draws token maps of familiar sizes; others get the most probable tokens (FlexVAR)."""

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor

from arimage.ar.base import Draw, Noise, Step
from arimage.sampling.samplers.categorical import Categorical
from arimage.shapes import Float

# jiaosiyu1999/FlexVAR@04462cb models/flexvar.py autoregressive_infer_cfg
SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 23, 24, 32)
LARGEST = 16  # max_pn there


@dataclass(frozen=True)
class Familiar(Categorical):
    """As ``Categorical`` for square token maps whose side is one of ``SIDES`` and for others, all
    of them up to ``largest`` ** 2 cells; elsewhere the most probable token alone.

    The published code has square maps alone. Numbers are drawn for every token, as there.
    """

    largest: int = LARGEST

    def __call__(self, logits: Float[Tensor, "b n v"], step: Step, noise: Noise) -> Draw:
        """As the class says."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(Categorical)}
        if not self.knows(step.predicts) and self.temperature:
            fields |= {"top_k": 1}
        return Categorical(**fields)(logits, step, noise)

    def knows(self, cells: int) -> bool:
        """Whether tokens of a map of so many cells are drawn."""
        side = math.isqrt(cells)
        return cells <= self.largest**2 and (side * side != cells or side in SIDES)
