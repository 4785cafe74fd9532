"""Two transformers in turn: a large one for the first steps, a small one for the last (CoDe).

Coarse token maps decide what an image shows and need few passes; fine ones have most tokens and
need less of a model (arXiv 2411.17787). Behaviour of czg1225/CoDe@bfb204d models/var.py; there the
second model reads all earlier maps in one pass when it comes in, here each when it is made, which
is the same (``rng="reference"`` does not repeat its draws: it draws earlier maps twice).
"""

from functools import cached_property
from typing import Any, TypeVar

import torch

from arimage.ar.base import Backbone
from arimage.ar.orders.base import Order
from arimage.sampling.loop import Branch
from arimage.sampling.openings import Openings
from arimage.sampling.settings import Settings

G = TypeVar("G", bound="HandsOver")
CLOSE = 1e-2  # of the largest code: the tokenizers may be in other dtypes


class HandsOver:
    """Gives a generator ``hand_over``; ``refiner`` is None where it makes every step itself."""

    transformer: Backbone
    tokenizer: Any
    conditions: Any
    refiner: Any = None
    handover: int = 0

    @cached_property
    def openings(self) -> Openings:
        """First steps that come again."""
        return Openings()

    def hand_over(self: G, refiner: G | None, step: int = 0) -> G:
        """From ``step`` on (the first is 0) the refiner's transformer makes the tokens.

        Settings, tokenizer, seeds and labels stay this generator's; the refiner reads the steps
        before its own as they are made. Neither is saved with the other.

        Args:
            refiner: a generator of the same tokens, in the same order; None undoes it.
            step: 0 is the refiner alone, the number of steps this generator alone.

        Returns:
            The generator itself.

        Raises:
            ValueError: a refiner that does not go with this generator, a step out of range.
        """
        if refiner is not None:
            check_refiner(self, refiner)
            check_step(step, self.order().num_steps)  # type: ignore[attr-defined]
        self.refiner, self.handover = refiner, step
        return self

    @property
    def transformers(self) -> list[Backbone]:
        """The own one and the refiner's."""
        return [self.transformer, *([] if self.refiner is None else [self.refiner.transformer])]

    def branches(self, order: Order, rows: Any, settings: Settings, allocate: bool) -> list[Branch]:
        """What ``loop.generate`` runs for a batch of rows, labels or text.

        Raises:
            ValueError: a step to hand over at that ``settings.num_steps`` does not have.
        """
        spans: list[tuple[int, int | None]] = [(0, None)]
        if self.refiner is not None:
            check_step(self.handover, order.num_steps)
            spans = [(0, self.handover), (self.handover, None)]
        condition, made = self.conditions.prepared(rows), []
        how = condition, settings.guidance(), settings.cache_dtype, allocate
        labels = None if settings.annealing is not None or self.transformer.takes_text else rows
        for model, (first, last) in zip(self.transformers, spans, strict=True):
            if first < (order.num_steps if last is None else last):
                made.append(
                    self.openings.branch(labels, model, order, *how, first=first, last=last)
                )
        return made


def check_step(step: int, num_steps: int) -> None:
    """Raises ValueError unless a step to hand over at is one of 0 to ``num_steps``."""
    if not 0 <= step <= num_steps:
        raise ValueError(
            f"got step {step} to hand over at; expected 0 to {num_steps}, the number of steps"
        )


def check_refiner(drafter: Any, refiner: Any) -> None:
    """Raises ValueError unless one can go on with the tokens of the other, where both live."""
    if refiner is drafter or refiner.refiner is not None:
        raise ValueError(
            "got a refiner that is the generator itself or hands over to another one; give a "
            "generator that makes every step itself"
        )
    ours, theirs = facts(drafter), facts(refiner)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(
                f"got a refiner whose {name} is {theirs[name]} and this generator's is {value}; "
                "it goes on with this generator's tokens: give a model of the same tokens"
            )
    if not share_codes(drafter, refiner):
        raise ValueError(
            "got a refiner whose tokenizer has other codes; it goes on with this generator's "
            "tokens: give a model that was trained on the same tokenizer"
        )


def facts(generator: Any) -> dict[str, Any]:
    """In what two generators must agree, by name."""
    model = generator.transformer
    return {
        "order": model.config.order,
        "vocabulary": model.config.vocab_size,
        "list of token maps": model.slots.grids,
        "code dimension": model.code_dim,
        "number of classes": "text" if model.takes_text else model.config.num_classes,
        "prefix": model.prefix_length,
        "set of options of its order": model.order_options,
        "device": str(model.device),
    }


def share_codes(one: Any, other: Any) -> bool:
    """Whether the ids of two generators mean the same codes."""
    if one.tokenizer is other.tokenizer:
        return True
    mine, theirs = codes(one), codes(other)
    return torch.allclose(mine, theirs, rtol=0, atol=CLOSE * float(mine.abs().max()))


@torch.no_grad()
def codes(generator: Any) -> torch.Tensor:
    """The codes of all tokens, float32 on the CPU."""
    tokenizer = generator.tokenizer
    everything = torch.arange(tokenizer.config.vocab_size, device=tokenizer.device)
    return tokenizer.lookup(everything[None])[0].float().cpu()
