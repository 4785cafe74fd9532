"""Temperature, top-k, top-p, then an exact draw."""

from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor

from arimage.ar.base import Draw, Noise, Step
from arimage.sampling.guidance import Schedule
from arimage.sampling.samplers.argmax import Argmax
from arimage.sampling.samplers.base import Sampler
from arimage.sampling.temperature import SAME
from arimage.shapes import Float

SMOOTH, SMOOTH_LEAST = 0.27, 0.005  # temperatures of more_smooth, models/var.py as below
SMALLEST = torch.finfo(torch.float32).tiny  # a temperature below it is argmax


@dataclass(frozen=True)
class Categorical(Sampler):
    """Draws from softmax(logits / temperature), truncated.

    Attributes:
        temperature: divides the logits; 0 is argmax.
        top_k: keeps the k largest logits and what ties with the k-th; None is off.
        top_p: keeps the smallest set of most probable tokens whose mass reaches p (nucleus,
            arXiv 1904.09751), after top_k, and what ties with its last; None is off.
        temperature_schedule: what ``temperature`` becomes at each step (sampling/temperature.py).
        more_smooth: also mixes all codes that may be drawn, by a Gumbel softmax that sharpens from
            step to step (VAR's setting of that name; next-scale models only).

    Raises:
        ValueError: a setting out of range.
    """

    temperature: float | int = 1.0
    top_k: int | None = None
    top_p: float | None = None
    more_smooth: bool = False
    temperature_schedule: Schedule = SAME

    def __post_init__(self) -> None:
        temperature, k, p = self.temperature, self.top_k, self.top_p
        if not (isinstance(temperature, Real) and 0 <= temperature < float("inf")):
            raise ValueError(
                f"got temperature {self.temperature}; expected a number >= 0, where 0 is argmax"
            )
        if k is not None and not (isinstance(k, Integral) and k >= 1):
            raise ValueError(f"got top_k {self.top_k}; expected an integer >= 1, or None for off")
        if p is not None and not (isinstance(p, Real) and 0 < p <= 1):
            raise ValueError(f"got top_p {self.top_p}; expected 0 < top_p <= 1, or None for off")

    def __call__(self, logits: Float[Tensor, "b n v"], step: Step, noise: Noise) -> Draw:
        """As the class says."""
        if self.temperature == 0:
            return Argmax()(logits, step, noise)
        probabilities = self.probabilities(logits, self.at(step))
        ids = noise.choose(probabilities, self.top_k)
        chosen = probabilities.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        weights = gumbel_softmax(probabilities, step, noise) if self.more_smooth else None
        return Draw(ids, chosen.log(), weights)

    def draws(self, step: Step, vocab_size: int) -> int:
        """One per token; with ``more_smooth`` also one for each of its codes."""
        if self.temperature == 0:
            return 0
        return step.predicts * (1 + vocab_size if self.more_smooth else 1)

    def at(self, step: Step) -> float | Tensor:
        """The temperature of a step; a tensor where the step's index is one."""
        asked, index, total = float(self.temperature), step.index, step.num_steps
        if self.temperature_schedule == SAME:
            return asked
        if not isinstance(index, Tensor):
            return self.temperature_schedule(asked, index, total)
        table = [self.temperature_schedule(asked, i, total) for i in range(total)]
        return torch.tensor(table, device=index.device)[index].clamp_min(SMALLEST)

    def probabilities(
        self, logits: Float[Tensor, "b n v"], temperature: float | Tensor | None = None
    ) -> Float[Tensor, "b n v"]:
        """The truncated and renormalised softmax that is drawn from, at the one temperature or at
        that of a step.
        """
        temperature = self.temperature if temperature is None else temperature
        largest = logits.amax(-1, keepdim=True)
        if not isinstance(temperature, Tensor):
            temperature = max(temperature, SMALLEST)
        scaled = (logits - largest).float() / temperature
        return truncate(scaled, self.top_k, self.top_p).softmax(-1)


def truncate(
    logits: Float[Tensor, "b n v"], top_k: int | None, top_p: float | None
) -> Float[Tensor, "b n v"]:
    """-inf outside the top k and, of these, the nucleus; what ties with the last of either stays.

    A token is in the nucleus if those before it hold less than ``top_p``. With ``top_k`` only k
    logits are sorted, not the vocabulary.
    """
    some = top_k is not None and top_k < logits.shape[-1]
    nucleus = top_p is not None and top_p < 1
    if not some and not nucleus:
        return logits
    ordered = logits.topk(top_k).values if some else logits.sort(-1, descending=True).values
    logits = logits.masked_fill(logits < ordered[..., -1:], -torch.inf)
    if nucleus:
        mass = (ordered - logits.logsumexp(-1, keepdim=True)).exp().double()
        outside = mass.cumsum(-1) - mass >= top_p
        least = ordered.masked_fill(outside, torch.inf).amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < least, -torch.inf)
    return logits


def gumbel_softmax(
    probabilities: Float[Tensor, "b n v"], step: Step, noise: Noise
) -> Float[Tensor, "b n v"]:
    """Soft choices (arXiv 1611.01144) at the temperatures of VAR's ``more_smooth``.

    FoundationVision/VAR@78b9539 models/var.py autoregressive_infer_cfg.
    """
    ratio = step.index / max(step.num_steps - 1, 1)
    gumbel = noise.gumbel(probabilities[0].numel()).reshape(probabilities.shape)
    scores = probabilities.log() * (1 + ratio) + gumbel.to(probabilities.dtype)
    return (scores / max(SMOOTH * (1 - 0.95 * ratio), SMOOTH_LEAST)).softmax(-1)
