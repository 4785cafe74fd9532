"""The one loop: next-token, next-scale and masked generation are orders, not loops."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from arimage.ar.base import Backbone, Cache, Context, Known, Noise, State, Step
from arimage.ar.orders.base import Order
from arimage.sampling.cache import cache_dtype, check_cache_dtype, make_cache
from arimage.sampling.guidance import Guidance
from arimage.sampling.samplers.base import Sampler
from arimage.shapes import Float


@dataclass(frozen=True)
class Branch:
    """One model with its conditions as extra rows of one call.

    Rows are [condition; null]; the null rows exist from the first step to the last one where
    guidance is on, because their keys and values are read later.

    Attributes:
        context: of all rows.
        cache: of all rows; None where the order keeps none.
        guidance: scale and schedule.
    """

    model: Backbone
    context: Context
    cache: Cache | None
    guidance: Guidance

    @classmethod
    def of(
        cls,
        model: Backbone,
        order: Order,
        condition: Any,
        guidance: Guidance,
        kept_as: str | None = None,
    ) -> "Branch":
        """Prepares the context and allocates the cache for a batch of conditions.

        ``kept_as``: ``Settings.cache_dtype``. ValueError for "fp8" where nothing is kept.
        """
        check_cache_dtype(kept_as, order)
        model.pack()
        if guidance.last_active(order.num_steps) >= 0:
            condition = model.with_null(condition)
        context, cache = model.prepare(condition), None
        if order.cached:
            rows, device = len(context.prefix), context.prefix.device
            dtype = cache_dtype(model.dtype, device, order)
            cache = make_cache(kept_as, model.cache_shape, rows, order.length, dtype, device)
        return cls(model, context, cache, guidance)

    def logits(self, inputs: Tensor | None, step: Step, batch: int) -> Float[Tensor, "b n v"]:
        """Guided float32 logits (b, n, vocab) of one step."""
        s = self.guidance.at(step.index, step.num_steps)
        guided = step.index <= self.guidance.last_active(step.num_steps)
        context, cache = self.context, self.cache
        if not guided and len(context.prefix) > batch:
            context, cache = context.rows(batch), cache and cache.rows(batch)
        if guided:
            step = step.tiled(2)
            inputs = None if inputs is None else torch.cat([inputs, inputs])
        hidden = self.model(inputs, context, step, cache)
        if guided:  # the head is affine, so mixing before it halves its work
            hidden = hidden[batch:] + s * (hidden[:batch] - hidden[batch:])
        return self.model.head(hidden).float()


def generate(
    branches: Sequence[Branch],
    order: Order,
    sampler: Sampler,
    noise: Noise,
    known: Known | None = None,
) -> Iterator[State]:
    """Yields the state after each step; previews and editing come for free.

    Args:
        branches: models whose guided logits are added (one, as a rule).
        order: owns the state.
        sampler: logits to ids.
        noise: random draws, one stream per image.
        known: tokens that are given.

    Raises:
        FloatingPointError: NaN or infinity in the logits; the step is named.
    """
    noise.skip(branches[0].model.unused_draws)
    state = order.start(noise, known)
    while (step := order.next_step(state)) is not None:
        state = advance(branches, order, sampler, noise, state, step)
        yield state


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
    logits = reduce(torch.add, (b.logits(inputs, step, noise.batch) for b in branches))
    check_finite(logits, step)
    return order.commit(state, step, sampler(logits, step, noise), noise)


def check_finite(logits: Tensor, step: Step) -> None:
    """Raises FloatingPointError unless the largest logit of every row is finite."""
    if not bool(logits.amax(-1).isfinite().all()):
        raise FloatingPointError(
            f"NaN or infinity in the logits at step {step.index + 1} of {step.num_steps}: the "
            "weights hold NaN or the dtype overflows; check the checkpoint or use float32"
        )
