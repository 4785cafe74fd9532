"""What all trainers share: how fast to train, what a loss is, its record."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from arimage.training.schedules import Cosine, Schedule, half_cosine

META = torch.device("meta")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        batch_size: examples per step.
        learning_rate: the peak, for ``rate_batch`` examples per step.
        rate_batch: the peak grows with batch_size / rate_batch; None leaves it as given.
        schedule: share of the peak at each step.
        weight_decay: of AdamW, for matrices alone.
        final_weight_decay: reached over half a cosine; None keeps ``weight_decay``.
        undecayed: names of parameters or modules that are not decayed, matrices included.
        betas: of AdamW.
        gradient_clip: largest gradient norm; None does not clip.
        ema_decay: of the moving average of the weights; None keeps none.
        seed: of batches, dropout and initialisation.
        progress: show a bar with loss and time left.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    rate_batch: int | None = None
    schedule: Schedule = field(default_factory=Cosine)
    weight_decay: float = 0.05
    final_weight_decay: float | None = None
    undecayed: tuple[str, ...] = ()
    betas: tuple[float, float] = (0.9, 0.95)  # VAR and LlamaGen (arXiv 2404.02905, 2406.06525)
    gradient_clip: float | None = 1.0
    ema_decay: float | None = None
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"got steps {self.steps} and batch_size {self.batch_size}; expected at least 1"
            )
        for name in ("learning_rate", "rate_batch", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"got {name} {value}; expected a positive number")
        for name in ("weight_decay", "final_weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"got {name} {value}; expected zero or a positive number")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"got ema_decay {self.ema_decay}; expected 0 to below 1")

    def rate_at(self, step: int) -> float:
        """The learning rate of step 0 <= step < steps."""
        batches = 1.0 if self.rate_batch is None else self.batch_size / self.rate_batch
        return self.learning_rate * batches * self.schedule.factor(step, self.steps)

    def weight_decay_at(self, step: int) -> float:
        """The weight decay of step 0 <= step < steps."""
        if self.final_weight_decay is None:
            return self.weight_decay
        return half_cosine(self.weight_decay, self.final_weight_decay, step, self.steps)


@dataclass(frozen=True)
class Loss:
    """What is minimised, and parts of it that are recorded beside it."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class History:
    """Loss of every step, and of its parts, by name."""

    name: str
    losses: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    def add(self, loss: Loss) -> None:
        """Records a step."""
        scalars = [loss.total, *loss.parts.values()]
        total, *parts = torch.stack([scalar.detach() for scalar in scalars]).tolist()
        self.losses.append(total)
        for name, value in zip(loss.parts, parts, strict=True):
            self.parts.setdefault(name, []).append(value)

    def note(self, measured: dict[str, float]) -> None:
        """Records a step's "loss" and parts, as the loop measured them."""
        for name, value in measured.items():
            curve = self.losses if name == "loss" else self.parts.setdefault(name, [])
            curve.append(value)

    def recent(self, count: int = 20) -> dict[str, float]:
        """Mean of the last ``count`` steps: "loss" and every part."""
        curves = {"loss": self.losses, **self.parts}
        return {name: sum(c[-count:]) / len(c[-count:]) for name, c in curves.items()}


def training_device() -> torch.device:
    """Where accelerate would train: a GPU if there is one."""
    from accelerate import Accelerator

    return Accelerator().device


def parameter_groups(model: nn.Module, undecayed: Sequence[str] = ()) -> list[dict[str, object]]:
    """Two groups of AdamW: what weight decay pulls at, then what it does not.

    Vectors and biases are never decayed, nor is anything whose name has one of ``undecayed``
    between its dots.
    """
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            free = parameter.ndim <= 1 or name.endswith("bias")
            groups[free or not set(undecayed).isdisjoint(name.split("."))].append(parameter)
    return [{"params": params, "decayed": not i} for i, params in enumerate(groups)]


def on_meta(module: M) -> M:
    """A copy whose parameters and buffers have shapes and no values; the original is not copied."""
    memo: dict[int, Tensor] = {}
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device=META)
        memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device=META)
    return copy.deepcopy(module, memo)
