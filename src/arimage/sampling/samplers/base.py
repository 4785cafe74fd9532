"""The contract of a sampler: guided logits to chosen ids."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from arimage.ar.base import Draw, Noise, Step
from arimage.shapes import Float


class Sampler(ABC):
    """Called once per step with float32 logits (b, n, vocab) of the slots to predict."""

    @abstractmethod
    def __call__(self, logits: Float[Tensor, "b n v"], step: Step, noise: Noise) -> Draw:
        """The ids and their log-probabilities after truncation."""

    def draws(self, step: Step, vocab_size: int) -> int:
        """Uniform numbers per image that a step takes of the noise: one per token as a rule."""
        return step.predicts

    def part(self, index: int) -> "Sampler":
        """The sampler of a token's part ``index``; see ``ar.parts``."""
        return self


@dataclass(frozen=True)
class PartSampler(Sampler):
    """A sampler for each part of a token; the last one for all that follow."""

    samplers: tuple[Sampler, ...]

    def __call__(self, logits: Float[Tensor, "b n v"], step: Step, noise: Noise) -> Draw:
        """As the first part's."""
        return self.samplers[0](logits, step, noise)

    def draws(self, step: Step, vocab_size: int) -> int:
        """As the first part's."""
        return self.samplers[0].draws(step, vocab_size)

    def part(self, index: int) -> Sampler:
        """As the class says."""
        return self.samplers[min(index, len(self.samplers) - 1)]
