"""The one loop: next-token, next-scale and masked generation are orders, not loops."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from arimage.ar.base import Backbone, Cache, Context, Draw, Known, Noise, State, Step
from arimage.ar.orders.base import Order
from arimage.ar.parts import join_ids
from arimage.sampling.cache import Opening, cache_dtype, check_cache_dtype, make_cache
from arimage.sampling.groups import BUCKET
from arimage.sampling.guidance import Guidance
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.base import Sampler
from arimage.shapes import Float, Int


@dataclass(frozen=True)
class Branch:
    """One model with its conditions as extra rows of one call.

    Rows are [condition; null]; the null rows exist from the first step to the last one where
    guidance is on, because their keys and values are read later.

    Attributes:
        context: of all rows.
        cache: of all rows; None where the order keeps none.
        guidance: scale and schedule.
        kept_as: of keys and values, ``Settings.cache_dtype``.
        first, last: its logits count from step ``first`` on, to the one before ``last`` (None: to
            the end). Before, it is run for what it remembers; after, not at all.
        weight: of its guided logits in the sum over branches, a number or (); None is 1.
        opening: its first step, where that was made before (openings.py).
    """

    model: Backbone
    context: Context
    cache: Cache | None
    guidance: Guidance
    kept_as: str | None = None
    first: int = 0
    last: int | None = None
    weight: Any = None
    opening: Opening | None = None

    @classmethod
    def of(
        cls,
        model: Backbone,
        order: Order,
        condition: Any,
        guidance: Guidance,
        kept_as: str | None = None,
        allocate: bool = True,
        *,
        first: int = 0,
        last: int | None = None,
        made: tuple[Context, Opening] | None = None,
    ) -> "Branch":
        """Prepares the context and allocates the cache for a batch of conditions.

        ``kept_as``: ``Settings.cache_dtype``. ``made``: the context and the first step, where they
        are known. ValueError for "fp8" where nothing is kept.
        """
        check_cache_dtype(kept_as, order)
        guidance, guided = bound(guidance, model, order)
        pack(model, order, len(condition) * (1 + guided))
        context, opening = made or (None, None)
        if context is None:
            context = model.prepare(model.with_null(condition) if guided else condition)
        branch = cls(model, context, None, guidance, kept_as, first, last, opening=opening)
        if not allocate:
            return branch
        cache = branch.new_cache(order)
        if opening is not None:
            opening.fill(cache)
        return dataclasses.replace(branch, cache=cache)

    def new_cache(self, order: Order) -> Cache | None:
        """Memory for all rows, or None where neither the model nor the order keeps any."""
        rows, device = len(self.context.prefix), self.context.prefix.device
        own = self.model.new_cache(rows, device)
        if own is not None or not order.cached:
            return own
        dtype = cache_dtype(self.model.dtype, device, order)
        length = order.length
        if self.last is not None:  # whole buckets, since captured steps read those
            used = max(order.step(i).stop for i in range(self.last))
            length = min(length, -(-used // BUCKET) * BUCKET)
        return make_cache(self.kept_as, self.model.cache_shape, rows, length, dtype, device)

    def speaks(self, index: int) -> bool:
        """Whether its logits count at a step."""
        return self.first <= index and (self.last is None or index < self.last)

    def follows(self, index: int) -> bool:
        """Whether it is run at a step for what it remembers alone."""
        return index < self.first and self.cache is not None

    def hidden(self, inputs: Tensor | None, step: Step, batch: int) -> Float[Tensor, "r n width"]:
        """Hidden states of one step; the null rows last, while guidance needs them."""
        if self.opening is not None and not step.moves and step.index == 0:
            return self.opening.hidden
        guided = self.guidance.guides(step.index, step.num_steps)
        context, cache = self.context, self.cache
        if not guided and len(context.prefix) > batch:
            context, cache = context.rows(batch), cache and cache.rows(batch)
        if guided:
            step = step.tiled(2)
            inputs = None if inputs is None else torch.cat([inputs, inputs])
        return self.model(inputs, context, step, cache)

    def mixed(
        self,
        hidden: Float[Tensor, "r n width"],
        step: Step,
        batch: int,
        chosen: Sequence[Int[Tensor, "b n"]] = (),
    ) -> Float[Tensor, "b m v"]:
        """Guided float32 logits of the tokens' next part, given the parts ``chosen``, by weight."""
        part, guided = len(chosen), len(hidden) > batch
        if guided:
            chosen = [torch.cat([ids, ids]) for ids in chosen]
        hidden = self.model.within(hidden, chosen)
        if guided:  # the head is affine, so mixing before it halves its work
            s = self.guidance.part(part).of(step)
            hidden = hidden[batch:] + times(hidden[:batch] - hidden[batch:], s)
        logits = self.model.heads[part](hidden).float()
        return logits if self.weight is None else logits * self.weight

    def skip(self, step: Step, noise: Noise) -> None:
        """Passes over what published code draws unused at each pass of the model
        (``Backbone.pass_draws``), of which it makes two where it guides; streams of one's own have
        nothing unused."""
        if not self.model.pass_draws or isinstance(noise, PerImageNoise):
            return
        for _ in range(1 + self.guidance.doubles(int(step.index), step.num_steps)):
            noise.skip(self.model.pass_draws)


def bound(guidance: Guidance, model: Backbone, order: Order) -> tuple[Guidance, bool]:
    """The same for the steps of an order and for what a model remembers of them; whether it needs
    null rows.
    """
    steps = [order.step(i) for i in range(order.num_steps)]
    remembers = order.cached or model.new_cache(1, torch.device("meta")) is not None
    guidance = guidance.bound(steps, order.num_slots, remembers)
    return guidance, guidance.last_active(order.num_steps) >= 0


def pack(model: Backbone, order: Order, rows: int) -> None:
    """Prepares the weights for steps like the one in the middle; ``rows`` of the batch."""
    model.pack(rows * order.step(order.num_steps // 2).positions.shape[-1])


def times(x: Tensor, s: float | Tensor) -> Tensor:
    """x * s, rounded once to the dtype of ``x``, also where ``s`` is a tensor of more digits."""
    if not isinstance(s, Tensor):
        return x * s
    s = s.to(x.device)
    return (x.to(torch.promote_types(x.dtype, torch.float32)) * s).to(x.dtype)


Advance = Callable[[Sequence[Branch], Order, Sampler, Noise, State, Step], State]


def generate(
    branches: Sequence[Branch],
    order: Order,
    sampler: Sampler,
    noise: Noise,
    known: Known | None = None,
    run: Advance | None = None,
) -> Iterator[State]:
    """Yields the state after each step; previews and editing come for free.

    Args:
        branches: models whose guided logits are added, each by its weight, where several speak
            (one, as a rule); the first says how published code draws.
        order: owns the state.
        sampler: logits to ids.
        noise: random draws, one stream per image.
        known: tokens that are given.
        run: makes a step in place of ``advance``: the same function, captured (compiled.py).

    Raises:
        FloatingPointError: NaN or infinity in the logits; the step is named. On a CPU at that step,
            elsewhere after the last one, so that no step waits for the device.
    """
    noise = noise.apart() if branches[0].model.draws_apart else noise
    noise.skip(branches[0].model.unused_draws)
    state = order.start(noise, known)
    while (step := order.next_step(state)) is not None:
        state = (run or advance)(branches, order, sampler, noise, state, step)
        if state.ids.device.type == "cpu":
            check_finite(state, order.num_steps)
        yield state
    check_finite(state, order.num_steps)


@torch.no_grad()
def advance(
    branches: Sequence[Branch],
    order: Order,
    sampler: Sampler,
    noise: Noise,
    state: State,
    step: Step,
) -> State:
    """The state after one step: what the order feeds, guided logits, a draw, what it commits."""
    inputs = order.inputs(state, step)
    for branch in branches:
        if branch.follows(state.step):
            branch.hidden(inputs, step, noise.batch)
    speaking = [branch for branch in branches if branch.speaks(state.step)]
    hidden = [branch.hidden(inputs, step, noise.batch) for branch in speaking]
    branches[0].skip(step, noise)
    draws: list[Draw] = []
    for part in range(len(sizes := speaking[0].model.parts)):  # of the tokens: most have one
        chosen = [draw.ids for draw in draws]
        pairs = zip(speaking, hidden, strict=True)
        logits = reduce(torch.add, (b.mixed(h, step, noise.batch, chosen) for b, h in pairs))
        state = dataclasses.replace(state, broken=first_broken(logits, step, state.broken))
        draws.append(sampler.part(part)(logits, step, order.stream(noise, step)))
    return order.commit(state, step, join_draws(draws, sizes), noise)


def join_draws(draws: Sequence[Draw], sizes: Sequence[int]) -> Draw:
    """Whole tokens from the draws of their parts."""
    if len(draws) == 1:
        return draws[0]
    ids = join_ids([draw.ids for draw in draws], sizes)
    return Draw(ids, torch.stack([draw.log_probs for draw in draws]).sum(0))


def first_broken(logits: Tensor, step: Step, before: Tensor | None) -> Tensor:
    """The first step so far where some row has no finite largest logit; ``num_steps`` if none."""
    none = torch.full((), step.num_steps, device=logits.device) if before is None else before
    fine = logits.amax(-1).isfinite().all()
    return torch.where(fine, none, none.clamp_max(step.index))


def check_finite(state: State, num_steps: int) -> None:
    """Raises FloatingPointError if a step so far is broken; the one wait for the device."""
    broken = num_steps if state.broken is None else int(state.broken)
    if broken < num_steps:
        raise FloatingPointError(
            f"NaN or infinity in the logits at step {broken + 1} of {num_steps}: the "
            "weights hold NaN or the dtype overflows; check the checkpoint or use float32"
        )
