"""The largest of logits with Gumbel noise that falls from step to step (TiTok's generators)."""

from dataclasses import dataclass

from torch import Tensor

from arimage.ar.base import Draw, Noise, Step
from arimage.sampling.guidance import Schedule
from arimage.sampling.samplers.base import Sampler
from arimage.sampling.samplers.categorical import Categorical
from arimage.sampling.temperature import SAME
from arimage.shapes import Float

CHOICE_TEMPERATURE = 4.5  # as the masked order's; bytedance/1d-tokenizer@942a96f too


@dataclass(frozen=True)
class Annealed(Sampler):
    """argmax of logits / temperature + h * Gumbel, h = choice_temperature (1 - (t + 1) / steps);
    the last step is argmax (bytedance/1d-tokenizer@942a96f modeling/maskgit.py generate).

    In place of log-probabilities it gives the chosen logits themselves, which that code takes for
    the confidence.

    Attributes:
        temperature, temperature_schedule: as for ``Categorical``; above 0.
        choice_temperature: of the noise, here and on the confidence; None is 4.5.

    Raises:
        ValueError: a temperature that is not above 0.
    """

    temperature: float | int = 1.0
    choice_temperature: float | int | None = None
    temperature_schedule: Schedule = SAME

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"got temperature {self.temperature}; the sampler 'annealed' divides by it: give a "
                "number above 0, or choice_temperature=0 for no noise"
            )

    def __call__(self, logits: Float[Tensor, "b n v"], step: Step, noise: Noise) -> Draw:
        """As the class says."""
        plain = Categorical(self.temperature, temperature_schedule=self.temperature_schedule)
        logits = logits / plain.at(step)
        ids = noise.argmax(logits, self.heat(step))
        return Draw(ids, logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1))

    def heat(self, step: Step) -> float:
        """h at a step; 0 at the last."""
        given = self.choice_temperature
        choice = CHOICE_TEMPERATURE if given is None else given
        return float(choice * (1 - (step.index + 1) / step.num_steps))

    def draws(self, step: Step, vocab_size: int) -> int:
        """One per token, but at the last step."""
        return step.predicts if self.heat(step) else 0
