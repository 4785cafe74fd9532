"""The branches of one batch: the model, with guidance, a weaker model, an annealed condition."""

from typing import Any

import torch

from arimage.ar.orders.base import Order
from arimage.sampling.autoguidance import autoguided
from arimage.sampling.cads import anneal
from arimage.sampling.conditions import Rows
from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch
from arimage.sampling.settings import Settings


@torch.no_grad()
def branches_of(
    main: Any,
    guide: Any,
    order: Order,
    rows: Rows,
    settings: Settings,
    noise: Any,
    *,
    allocate: bool = True,
) -> list[Branch]:
    """What ``loop.generate`` adds up for a batch.

    Args:
        main, guide: generators; the second from ``Guidable.guide_of``, or None.
        order: that of ``main``.
        rows: what images are asked for.
        settings: of the call.
        noise: of the batch.
        allocate: caches too; captured steps have their own.

    Raises:
        ValueError: annealing without a class embedding, or with a refiner.
    """
    made = main.branches(order, rows, settings, allocate)
    annealing = settings.condition_annealing()
    if annealing is not None:
        if main.refiner is not None:
            raise ValueError(
                "annealing changes the condition of one model and this generator hands over to "
                "another; leave annealing out, or hand_over(None)"
            )
        condition = main.conditions.prepared(rows)
        return [anneal(branch, condition, annealing, noise) for branch in made]
    if guide is None:
        return made
    condition, how = guide.conditions.prepared(rows), (settings.cache_dtype, allocate)
    weaker = Branch.of(guide.transformer, order, condition, Guidance(), *how)
    return autoguided(made, weaker, float(settings.guide_scale))
