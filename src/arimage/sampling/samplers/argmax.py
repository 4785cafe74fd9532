"""The most probable token; draws nothing."""

from dataclasses import dataclass

from torch import Tensor

from arimage.ar.base import Draw, Noise, Step
from arimage.sampling.samplers.base import Sampler
from arimage.shapes import Float


@dataclass(frozen=True)
class Argmax(Sampler):
    """Greedy; log-probabilities are those of the plain softmax."""

    def __call__(self, logits: Float[Tensor, "b n v"], step: Step, noise: Noise) -> Draw:
        """As the class says."""
        best = logits.log_softmax(-1).max(-1)
        return Draw(best.indices, best.values)

    def draws(self, step: Step, vocab_size: int) -> int:
        """None."""
        return 0
