"""What both trainers share: batches of indices, one optimisation loop, its record."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

BETAS = (0.9, 0.95)  # of AdamW: VAR and LlamaGen (arXiv 2404.02905, 2406.06525)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        batch_size: examples per step.
        learning_rate: peak; a linear warm-up over ``warmup`` of the steps, then a cosine to zero.
        weight_decay: of AdamW, for matrices alone.
        gradient_clip: largest gradient norm.
        ema_decay: of the moving average of the weights; None keeps none.
        seed: of batches, dropout and initialisation.
        progress: show a bar with loss and time left.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    ema_decay: float | None = None
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"got steps {self.steps} and batch_size {self.batch_size}; expected at least 1"
            )


@dataclass
class History:
    """Loss of every step, by name."""

    name: str
    losses: list[float] = field(default_factory=list)


def index_batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless shuffled batches of indices 0..count-1; every epoch sees each once."""
    left = torch.empty(0, dtype=torch.long)
    while True:
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:batch_size]
        left = left[batch_size:]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices with weight decay; vectors and embeddings of one row each without."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def fit(
    name: str,
    model: nn.Module,
    loss_of: Callable[[nn.Module, Tensor, torch.Generator], Tensor],
    count: int,
    recipe: Recipe,
) -> tuple[nn.Module, History]:
    """Trains ``model`` in place on ``count`` examples.

    Args:
        name: shown in the bar.
        loss_of: (model, indices (b,), generator) -> scalar loss; on CPU generators.

    Returns:
        The model with averaged weights (or the trained one without ``ema_decay``), the record.

    Raises:
        FloatingPointError: a loss that is not finite; the step is named.
    """
    from accelerate import Accelerator
    from transformers import get_cosine_schedule_with_warmup

    accelerator = Accelerator()
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate, betas=BETAS
    )
    warmup = round(recipe.warmup * recipe.steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, recipe.steps)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    average = None
    if recipe.ema_decay is not None:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))
    history = History(name)
    batches = index_batches(count, recipe.batch_size, generator)
    bar = tqdm(range(recipe.steps), desc=name, disable=not recipe.progress, mininterval=0.5)
    wrapped.train()
    for step in bar:
        loss = loss_of(wrapped, next(batches), generator)
        history.losses.append(_finite(loss.item(), step, name))
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(model)
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    return (model if average is None else average.module).eval(), history


def _finite(loss: float, step: int, name: str) -> float:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise FloatingPointError(
            f"the loss of {name} is {loss} at step {step + 1}; lower the learning rate"
        )
    return loss
