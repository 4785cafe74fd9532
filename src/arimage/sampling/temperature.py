"""The temperature of each step: schedules that multiply what the user asked for."""

from dataclasses import dataclass

from arimage.sampling.guidance import Constant, Schedule

SAME = Constant()  # as it was asked for, at every step


@dataclass(frozen=True)
class Sharpening(Schedule):
    """temperature / f, f ** (1/power) linear from ``first`` to ``last``; twice that at the first
    ``warm_up`` steps (valeoai/Halton-MaskGIT@f61b0a1 Sampler/halton_sampler.py, which multiplies
    logits by f).

    Raises:
        ValueError: a factor that is not above 0.
    """

    first: float = 1.0
    last: float = 1.2
    power: float = 1.0
    warm_up: int = 0

    def __post_init__(self) -> None:
        if min(self.first, self.last) <= 0:
            raise ValueError(
                f"got first {self.first} and last {self.last}; expected factors above 0 that the "
                "logits are multiplied by"
            )

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As the class says."""
        factor = self.first + (self.last - self.first) * index / max(num_steps - 1, 1)
        return scale / factor**self.power * (2 if index < self.warm_up else 1)


@dataclass(frozen=True)
class Falling(Schedule):
    """temperature times 0.5 + 0.8 (1 - (t + 1) / num_steps), the sampling annealing of
    markweberdev/maskbit@5ea3d73 modeling/modules/sampling.py.
    """

    def __call__(self, scale: float, index: int, num_steps: int) -> float:
        """As the class says."""
        return scale * (0.5 + 0.8 * (1 - (index + 1) / num_steps))
