"""The contract of a sampler: guided logits to chosen ids."""

from abc import ABC, abstractmethod

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
