"""One model, one loss, examples in memory: the optimisation loop with shuffled indices."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from arimage.ar.draws import Draws
from arimage.training.common import History, Loss, Recipe
from arimage.training.loop import Loop, Moment, Player


@dataclass(frozen=True)
class Batch:
    """One step's examples.

    Attributes:
        index: which examples, (b,).
        generator: of the step's own draws, on the CPU; or one for each example.
        progress: share of the training that is behind, 0 at the first step and always below 1.
    """

    index: Tensor
    generator: Draws
    progress: float


LossOf = Callable[[nn.Module, Batch], Loss]
Watch = Callable[[int, nn.Module], None]


def index_batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless shuffled batches of indices 0..count-1; every epoch sees each once."""
    left = torch.empty(0, dtype=torch.long)
    while True:
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:batch_size]
        left = left[batch_size:]


class Single:
    """A task of one player; batches are of indices."""

    def __init__(self, player: Player, loss_of: LossOf, generator: torch.Generator) -> None:
        self.players, self.model = [player], player.module
        self.loss_of, self.generator = loss_of, generator

    def split(self, batch: Tensor, count: int) -> Sequence[Tensor]:
        """Pieces of the batch."""
        return batch.chunk(count)

    def turns(
        self, modules: dict[str, nn.Module], batch: Tensor, moment: Moment
    ) -> Iterator[tuple[str, Loss]]:
        """One turn."""
        (name,) = modules
        yield name, self.loss_of(modules[name], Batch(batch, self.generator, moment.progress))

    def after(self, moment: Moment) -> dict[str, Tensor]:
        """Nothing to do."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Of the draws."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self.generator.set_state(state["generator"])


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
        FloatingPointError: a loss or gradient that is not finite; the step is named.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    loop = Loop(Single(Player(name, model, recipe), loss_of, generator), recipe)
    return run_loop(name, loop, index_batches(count, recipe.batch_size, generator), watch)


def run_loop(
    name: str, loop: Loop, batches: Iterator[Any], watch: Watch | None = None
) -> tuple[nn.Module, History]:
    """All steps of a loop on batches in memory; arguments and results as of ``fit``."""
    history, recipe = History(name), loop.recipe
    bar = tqdm(range(recipe.steps), desc=name, disable=not recipe.progress, mininterval=0.5)
    for _ in bar:
        history.note(loop.step(next(batches)))
        if watch is not None:
            watch(loop.done, loop.result)
        bar.set_postfix(loss=f"{history.losses[-1]:.4f}", refresh=False)
    return loop.result.eval(), history
