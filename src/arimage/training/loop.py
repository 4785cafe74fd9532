"""The one optimisation loop: players take turns at a batch, then every optimizer steps once.

A tokenizer alone is one player; with a critic there are two. Mixed precision, several processes and
gradient accumulation are accelerate's. A step draws from its own seed, so that a run goes on from a
saved state as if it had never stopped.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from arimage.training.common import Loss, Recipe, on_meta, parameter_groups
from arimage.training.processes import make_accelerator
from arimage.training.sharding import (
    filled,
    is_sharded,
    optimizer_shares,
    shard,
    sharded_average,
    shares,
    whole_state,
    whole_tensor,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

SHOWN_GRADIENTS = 3


@dataclass(frozen=True)
class Player:
    """A module with an optimizer of its own.

    Attributes:
        name: for messages and records.
        module: what is wrapped for several processes; frozen parameters stay as they are.
        recipe: of the optimizer; its steps, batch size and seed are the loop's.
    """

    name: str
    module: nn.Module
    recipe: Recipe


@dataclass(frozen=True)
class Moment:
    """Where the training is.

    Attributes:
        step: steps that are behind.
        steps: all steps.
        seed: of this step's draws, the same in every process.
        first, last: whether this is the step's first, its last micro-batch.
    """

    step: int
    steps: int
    seed: int
    first: bool = True
    last: bool = True

    @property
    def progress(self) -> float:
        """Share of the training that is behind, 0 at the first step and always below 1."""
        return self.step / self.steps


@runtime_checkable
class Task(Protocol):
    """What is trained and how.

    Attributes:
        players: whose gradients are computed, in the order of their turns.
        model: what is averaged and returned; a part of the first player.
    """

    players: Sequence[Player]
    model: nn.Module

    def split(self, batch: Any, count: int) -> Sequence[Any]:
        """A batch as ``count`` micro-batches of one size."""
        ...

    def turns(
        self, modules: dict[str, nn.Module], batch: Any, moment: Moment
    ) -> Iterator[tuple[str, Loss]]:
        """(player, loss) of each turn; gradients are computed between turns.

        ``modules`` are the players' modules, wrapped.
        """
        ...

    def after(self, moment: Moment) -> dict[str, Tensor]:
        """Called when the optimizers have stepped; scalars to record."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What modules and optimizers do not hold."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse."""
        ...


class Loop:
    """The state of one training: steps done, optimizers, averaged weights.

    Args:
        task: what is trained; its modules are where they shall live.
        recipe: steps, seed, schedule; of the first player.
        accelerator: precision and processes; None is a plain one.
        micro_batches: parts of a step's batch that pass one after the other.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        accelerator: "Accelerator | None" = None,
        micro_batches: int = 1,
    ) -> None:
        self.task, self.recipe, self.micro_batches = task, recipe, micro_batches
        self.accelerator = accelerator or make_accelerator()
        self.done = 0
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Any] = {}
        self.blank = on_meta(task.model) if is_sharded(self.accelerator) else None
        self._whole: nn.Module | None = None
        for player in task.players:
            self._prepare(player)
        self.average = None
        if recipe.ema_decay is not None:
            move = moving_average(recipe.ema_decay)
            if self.blank is None:
                self.average = AveragedModel(task.model, multi_avg_fn=move)
            else:
                self.average = sharded_average(self.blank, task.model, move)

    def _prepare(self, player: Player) -> None:
        groups = parameter_groups(player.module, player.recipe.undecayed)
        self.modules[player.name] = player.module
        if not any(group["params"] for group in groups):
            return
        optimizer = torch.optim.AdamW(groups, betas=player.recipe.betas)
        self.optimizers[player.name] = optimizer
        if self.sharded:
            units = self.task.model._no_split_modules
            self.modules[player.name] = shard(self.accelerator, player.module, optimizer, units)
        else:
            with warnings.catch_warnings():  # newer names of DDP's arguments are not in torch 2.11
                warnings.simplefilter("ignore", FutureWarning)
                self.modules[player.name] = self.accelerator.prepare(player.module)

    @property
    def sharded(self) -> bool:
        """Whether weights are shared out over processes."""
        return self.blank is not None

    @property
    def result(self) -> nn.Module:
        """The model with averaged weights, or the trained one where none are kept.

        Raises:
            RuntimeError: its weights are shared out, and this is not inside of ``whole``.
        """
        if self.blank is None:
            return self.task.model if self.average is None else self.average.module
        if self._whole is None:
            raise RuntimeError("the weights are shared out; ask for the result inside of whole()")
        return self._whole

    @contextmanager
    def whole(self, everywhere: bool) -> Iterator[None]:
        """Has all weights of ``result`` where they are shared out; entered by every process.

        ``everywhere``: in every process, else in the main one alone.
        """
        if self.blank is not None:
            model = self.task.model if self.average is None else self.average.module
            keep = everywhere or self.accelerator.is_main_process
            self._whole = filled(self.blank, model, keep)
        try:
            yield
        finally:
            self._whole = None

    def step(self, batch: Any) -> dict[str, float]:
        """One step of every optimizer; what was measured, by name, the mean over processes.

        Raises:
            FloatingPointError: a loss or gradient that is not finite; the step and the largest
                gradients are named, and no weight has changed.
        """
        for module in self.modules.values():
            module.train()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        moment = Moment(self.done, self.recipe.steps, step_seed(self.recipe.seed, self.done))
        measured = self._measure(batch, moment)
        norms = self._clip([player for player in self.task.players if player.name in measured])
        self._check(measured, norms)
        self._advance([player for player in self.task.players if player.name in norms])
        extra = self.task.after(moment)
        if self.average is not None:
            self.average.update_parameters(self.task.model)
        self.done += 1
        return flat(self.task.players, measured) | {k: float(v) for k, v in extra.items()}

    def _measure(self, batch: Any, moment: Moment) -> dict[str, dict[str, float]]:
        """Gradients of all micro-batches; the mean losses of each player over all processes."""
        turns: dict[str, list[Loss]] = {}
        parts = self.task.split(batch, self.micro_batches)
        for i, part in enumerate(parts):
            ends = {"first": i == 0, "last": i == len(parts) - 1}
            now = Moment(moment.step, moment.steps, moment.seed, **ends)
            with ExitStack() as stack:
                if not now.last and not self.sharded:  # else whole gradients would pile up
                    for module in self.modules.values():
                        stack.enter_context(self.accelerator.no_sync(module))
                for name, loss in self.task.turns(self.modules, part, now):
                    turns.setdefault(name, []).append(loss)
                    if name in self.optimizers:
                        self.accelerator.backward(loss.total / len(parts))
        means = {name: mean_of(losses) for name, losses in turns.items()}
        stacked = torch.stack([value.float() for mean in means.values() for value in mean.values()])
        values = iter(self.accelerator.reduce(stacked, "mean").tolist())
        return {name: {key: next(values) for key in mean} for name, mean in means.items()}

    def _clip(self, players: Sequence[Player]) -> dict[str, Tensor]:
        """Clips; the gradient norms before it."""
        norms = {}
        for player in players:
            if player.name in self.optimizers:
                if self.accelerator.scaler is not None:
                    self.accelerator.scaler.unscale_(self.optimizers[player.name])
                limit = player.recipe.gradient_clip or math.inf
                norm = clip_grad_norm_(player.module.parameters(), limit)
                norms[player.name] = whole_tensor(norm)
        return norms

    def _advance(self, players: Sequence[Player]) -> None:
        """One step of these players' optimizers."""
        scaler = self.accelerator.scaler
        for player in players:
            self._rate(player)
            optimizer = self.optimizers[player.name]
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
        if scaler is not None:  # once for all of them
            scaler.update()

    def _check(self, measured: dict[str, dict[str, float]], norms: dict[str, Tensor]) -> None:
        for name, values in measured.items():
            what, value = "loss", values["loss"]
            if math.isfinite(value) and self.accelerator.scaler is None and name in norms:
                what, value = "gradient norm", float(norms[name])
            if not math.isfinite(value):
                parts = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if k != "loss")
                module = next(p.module for p in self.task.players if p.name == name)
                raise FloatingPointError(
                    f"the {what} of {name} is {value} at step {self.done + 1}"
                    f"{f' ({parts})' if parts else ''}; the largest gradients are of "
                    f"{largest_gradients(module)}. Lower the learning rate or clip gradients"
                )

    def _rate(self, player: Player) -> None:
        """Learning rate and weight decay of this step."""
        recipe = player.recipe
        for group in self.optimizers[player.name].param_groups:
            group["lr"] = recipe.rate_at(self.done)
            group["weight_decay"] = recipe.weight_decay_at(self.done) if group["decayed"] else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but the data.

        Where weights are shared out every process asks for it, and the main one has it whole.
        """
        players = {player.name: player.module for player in self.task.players}
        scaler = self.accelerator.scaler
        state = {
            "done": self.done,
            "modules": {name: module.state_dict() for name, module in players.items()},
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "average": None if self.average is None else self.average.state_dict(),
            "task": self.task.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        keep = self.accelerator.is_main_process
        return whole_state(state, keep) if self.sharded else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse; any number of processes may have saved it, sharing or not."""
        self.done = state["done"]
        for player in self.task.players:
            self._load(player.module, state["modules"][player.name])
        for name, optimizer in self.optimizers.items():
            saved = state["optimizers"][name]
            own = optimizer_shares(saved, optimizer) if self.sharded else saved
            optimizer.load_state_dict(own)
        if self.average is not None:
            self._load(self.average, state["average"])
        self.task.load_state_dict(state["task"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _load(self, module: nn.Module, saved: dict[str, Tensor]) -> None:
        own = shares(saved, module.state_dict()) if self.sharded else saved
        module.load_state_dict(own)


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """What moves averaged weights towards those of a step, for ``AveragedModel``.

    The decay grows to ``decay`` as in latent diffusion (CompVis/latent-diffusion@a506df5
    ldm/modules/ema.py) and MaskBit: a decay of 0.9999 alone would leave mostly the weights of the
    first step after fewer than ten thousand.
    """

    @torch.no_grad()
    def move(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        grown = (1 + int(count)) / (10 + int(count))
        torch._foreach_lerp_(averaged, current, 1 - min(decay, grown))

    return move


def mean_of(losses: Sequence[Loss]) -> dict[str, Tensor]:
    """ "loss" and every part, the mean over micro-batches."""
    rows = [{"loss": loss.total, **loss.parts} for loss in losses]
    return {name: torch.stack([row[name].detach() for row in rows]).mean() for name in rows[0]}


def flat(players: Sequence[Player], measured: dict[str, dict[str, float]]) -> dict[str, float]:
    """The first player's "loss" and parts; of others the parts, and the loss by their name."""
    found: dict[str, float] = {}
    for player in players:
        values = dict(measured.get(player.name, {}))
        if found and "loss" in values:
            values = {player.name: values.pop("loss"), **values}
        found |= values
    return found


def step_seed(seed: int, step: int) -> int:
    """A seed of its own for each step of each training, 63 bits."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def largest_gradients(module: nn.Module) -> str:
    """Names and norms of the parameters with the largest gradients, not finite ones first."""
    norms = {
        name: whole_tensor(parameter.grad.float().norm()).item()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    order = sorted(norms, key=lambda name: norms[name] if math.isfinite(norms[name]) else math.inf)
    return ", ".join(f"{name} ({norms[name]:.3g})" for name in order[::-1][:SHOWN_GRADIENTS])
