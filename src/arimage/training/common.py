"""What all trainers share: batches of indices, one optimisation loop, its record."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from arimage.training.schedules import Cosine, Schedule, half_cosine


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
        gradient_clip: largest gradient norm.
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
    gradient_clip: float = 1.0
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
        """Records a step.

        Raises:
            FloatingPointError: a loss that is not finite; the step is named.
        """
        scalars = [loss.total, *loss.parts.values()]
        total, *parts = torch.stack([scalar.detach() for scalar in scalars]).tolist()
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the loss of {self.name} is {total} at step {len(self.losses) + 1}; lower the "
                "learning rate"
            )
        self.losses.append(total)
        for name, value in zip(loss.parts, parts, strict=True):
            self.parts.setdefault(name, []).append(value)

    def recent(self, count: int = 20) -> dict[str, float]:
        """Mean of the last ``count`` steps: "loss" and every part."""
        curves = {"loss": self.losses, **self.parts}
        return {name: sum(c[-count:]) / len(c[-count:]) for name, c in curves.items()}


@dataclass(frozen=True)
class Batch:
    """One step's examples.

    Attributes:
        index: which examples, (b,).
        generator: of the step's own draws, on the CPU.
        progress: share of the training that is behind, 0 at the first step and always below 1.
    """

    index: Tensor
    generator: torch.Generator
    progress: float


LossOf = Callable[[nn.Module, Batch], Loss]
Watch = Callable[[int, nn.Module], None]


def training_device() -> torch.device:
    """Where accelerate would train: a GPU if there is one."""
    from accelerate import Accelerator

    return Accelerator().device


def index_batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless shuffled batches of indices 0..count-1; every epoch sees each once."""
    left = torch.empty(0, dtype=torch.long)
    while True:
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:batch_size]
        left = left[batch_size:]


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


def fit(
    name: str,
    model: nn.Module,
    loss_of: LossOf,
    count: int,
    recipe: Recipe,
    watch: Watch | None = None,
) -> tuple[nn.Module, History]:
    """Trains ``model`` in place, where it lives, on ``count`` examples.

    Args:
        name: shown in the bar.
        loss_of: (model, batch) -> loss.
        watch: called after each step with the steps done and the model that would be returned.

    Returns:
        The model with averaged weights (or the trained one without ``ema_decay``), the record.

    Raises:
        FloatingPointError: a loss that is not finite; the step is named.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(device_placement=False)
    generator = torch.Generator().manual_seed(recipe.seed)
    groups = parameter_groups(model, recipe.undecayed)
    wrapped, optimizer = accelerator.prepare(model, torch.optim.AdamW(groups, betas=recipe.betas))
    average = None
    if recipe.ema_decay is not None:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))
    history = History(name)
    batches = index_batches(count, recipe.batch_size, generator)
    bar = tqdm(range(recipe.steps), desc=name, disable=not recipe.progress, mininterval=0.5)
    for step in bar:
        wrapped.train()
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(step)
            group["weight_decay"] = recipe.weight_decay_at(step) if group["decayed"] else 0.0
        loss = loss_of(wrapped, Batch(next(batches), generator, step / recipe.steps))
        history.add(loss)
        optimizer.zero_grad()
        accelerator.backward(loss.total)
        accelerator.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        if watch is not None:
            watch(step + 1, model if average is None else average.module)
        bar.set_postfix(loss=f"{history.losses[-1]:.4f}", refresh=False)
    return (model if average is None else average.module).eval(), history
