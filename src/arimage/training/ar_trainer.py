"""Trains a transformer on tokens: cross-entropy under the order's mask, one trainer for all."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from arimage.ar.base import Backbone, Lesson
from arimage.ar.block_mask import Attention, choose_attention
from arimage.ar.draws import drop_labels
from arimage.ar.layers import ResidualDropout
from arimage.ar.orders.base import Order
from arimage.ar.orders.random import RandomOrder
from arimage.ar.parts import token_losses
from arimage.shapes import Bool, Float, Int
from arimage.slots import SlotTable
from arimage.training.common import History, Loss
from arimage.training.fit import Batch, Watch, fit
from arimage.training.transformer_recipe import TransformerRecipe


def train_transformer(
    transformer: Backbone,
    order: Order,
    ids: Int[Tensor, "n slots"],
    class_labels: Int[np.ndarray, " labels"],
    recipe: TransformerRecipe,
    watch: Watch | None = None,
) -> tuple[Backbone, History]:
    """Trains on tokens of real images, teacher-forced, all steps of the order in one pass.

    Args:
        transformer: trained in place, where it lives; the order must live there too.
        order: gives inputs, targets and the mask.
        ids: tokens of the images.
        class_labels: their classes.
        recipe: how long and how fast.
        watch: as of ``fit``.

    Returns:
        The model with averaged weights, the losses (with several token maps: one part each).

    Raises:
        ValueError: labels of another length or out of range, or a recipe with random orders for a
            model that knows none.
    """
    labels = torch.from_numpy(np.asarray(class_labels))
    check_labels(labels, len(ids), transformer.config.num_classes)
    torch.manual_seed(recipe.seed)
    teach, null = teacher(order, transformer, recipe), transformer.config.null_class

    def loss_of(model: nn.Module, batch: Batch) -> Loss:
        given = drop_labels(labels[batch.index], recipe.label_dropout, null, batch.generator)
        lesson = teach(ids[batch.index].to(order.device), batch)
        context = transformer.prepare(given.to(order.device))
        hidden = model(lesson.inputs, context, lesson.step)
        losses = token_losses(transformer, hidden, lesson.targets)
        return lesson_loss(losses, lesson, order.fuser.slots)

    with drop_paths(transformer, recipe.drop_path * transformer.config.depth):
        trained, history = fit("transformer", transformer, loss_of, len(ids), recipe, watch)
    set_drop_paths(trained, 0.0)  # the average is a copy made inside
    assert isinstance(trained, Backbone)
    return trained, history


def teacher(
    order: Order, transformer: Backbone, recipe: TransformerRecipe
) -> Callable[[Tensor, Batch], Lesson]:
    """The lesson of a batch: the order's, or at first on random paths where the recipe says so.

    Its mask is dense or in blocks, as ``choose_attention`` says.
    """
    check_orders(recipe, transformer)
    attention = choose_attention(recipe.attention, transformer)
    if not recipe.anneal_end:
        return lambda ids, batch: masked_for(attention, order, order.lesson(ids, batch.generator))
    paths = RandomOrder(order.fuser, order.prefix_length, order.device)
    return lambda ids, batch: masked_for(
        attention,
        paths,
        paths.lesson(ids, batch.generator, recipe.random_share(batch.progress)),
    )


def masked_for(attention: Attention, order: Order, lesson: Lesson) -> Lesson:
    """The lesson, with the order's mask in blocks for "flex"; a mask of its own stays dense."""
    if attention == "sdpa" or lesson.step.mask is not order.full_step().mask:
        return lesson
    return dataclasses.replace(lesson, step=dataclasses.replace(lesson.step, mask=order.block_mask))


def check_orders(recipe: TransformerRecipe, transformer: Backbone) -> None:
    """Raises ValueError for random orders and a model that knows none."""
    known = transformer.config.orders
    if recipe.anneal_end and "random" not in known:
        raise ValueError(
            f"the recipe teaches random orders and {type(transformer).__name__} knows "
            f"{', '.join(known)}; use a model that is told which token comes next (rar), or set "
            "anneal_start and anneal_end to 0"
        )


@torch.no_grad()
def score_tokens(
    transformer: Backbone,
    order: Order,
    ids: Int[Tensor, "n slots"],
    class_labels: Int[np.ndarray, " labels"],
    batch_size: int = 256,
) -> dict[str, float]:
    """Mean cross-entropy (nats per token) of real tokens given their classes, in eval mode.

    "loss", and with several token maps one entry each. Orders that draw a mask draw it from seed 0.

    Raises:
        ValueError: labels of another length or out of range.
    """
    labels = torch.from_numpy(np.asarray(class_labels))
    check_labels(labels, len(ids), transformer.config.num_classes)
    generator, history, weights = torch.Generator().manual_seed(0), History("transformer"), []
    transformer.eval()
    for i in range(0, len(ids), batch_size):
        rows = slice(i, i + batch_size)
        lesson = order.lesson(ids[rows].to(order.device), generator)
        context = transformer.prepare(labels[rows].to(order.device))
        hidden = transformer(lesson.inputs, context, lesson.step)
        losses = token_losses(transformer, hidden, lesson.targets)
        history.add(lesson_loss(losses, lesson, order.fuser.slots))
        weights.append(int(lesson.counts.sum()))
    curves = {"loss": history.losses, **history.parts}
    return {name: float(np.average(curve, weights=weights)) for name, curve in curves.items()}


def lesson_loss(
    losses: Float[Tensor, "b n"],
    lesson: Lesson,
    slots: SlotTable,
    counted: Float[Tensor, " maps"] | None = None,
) -> Loss:
    """Mean cross-entropy (nats) over the targets that count, and that of each token map.

    Every token weighs the same, so the finest maps weigh most (38 % the last of VAR at 256 px).

    Args:
        losses: of every target (``ar.parts.token_losses``).
        counted: targets of each token map to divide by instead; by default those that count here.
    """
    parts = {}
    if slots.num_scales > 1:
        for k in range(slots.num_scales):
            span = slice(*slots.span(k))
            count = None if counted is None else counted[k]
            parts[f"scale {k}"] = mean_of(losses[:, span], lesson.counts[:, span], count)
    count = None if counted is None else counted.sum()
    return Loss(mean_of(losses, lesson.counts, count), parts)


def targets_counted(counts: Bool[Tensor, "b n"], slots: SlotTable) -> Int[Tensor, " maps"]:
    """How many targets of each token map count; of one map all, whatever their number."""
    if slots.num_scales == 1:
        return counts.sum()[None]
    return torch.stack([counts[:, slice(*slots.span(k))].sum() for k in range(slots.num_scales)])


def mean_of(
    losses: Float[Tensor, "b n"],
    counts: Bool[Tensor, "b n"],
    count: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the tokens that count; or their sum by ``count``."""
    return (losses * counts).sum() / (counts.sum() if count is None else count)


def set_drop_paths(model: nn.Module, rate: float) -> None:
    """Share of dropped branches: none in the first block, linearly up to ``rate`` in the last."""
    branches = [m for m in model.modules() if isinstance(m, ResidualDropout)]
    for branch, share in zip(branches, torch.linspace(0, rate, len(branches)), strict=True):
        branch.path = float(share)


@contextmanager
def drop_paths(model: nn.Module, rate: float) -> Iterator[None]:
    """``set_drop_paths`` while the block runs.

    Raises:
        ValueError: a rate of one or more.
    """
    if not 0 <= rate < 1:
        raise ValueError(
            f"got a drop_path that reaches {rate:g} in the last block; expected below 1: lower "
            "the recipe's drop_path, which is multiplied by the depth"
        )
    set_drop_paths(model, rate)
    try:
        yield
    finally:
        set_drop_paths(model, 0.0)


def check_labels(labels: Tensor, count: int, num_classes: int) -> None:
    """Raises ValueError unless there is one label in 0..num_classes-1 per image."""
    if len(labels) != count:
        raise ValueError(f"got {len(labels)} class labels for {count} images; give one per image")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"got class labels from {int(labels.min())} to {int(labels.max())}; expected 0 to "
            f"{num_classes - 1}"
        )
