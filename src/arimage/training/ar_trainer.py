"""Trains a transformer on tokens: cross-entropy under the order's mask, one trainer for all."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.ar.base import Backbone, drop_labels
from arimage.ar.orders.base import Order
from arimage.shapes import Float, Int
from arimage.training.common import History, Recipe, fit

LABEL_DROPOUT = 0.1  # of VAR and LlamaGen; the null class learns the unconditional model


def train_transformer(
    transformer: Backbone,
    order: Order,
    ids: Int[Tensor, "n slots"],
    class_labels: Int[np.ndarray, " labels"],
    recipe: Recipe,
    label_dropout: float = LABEL_DROPOUT,
) -> tuple[Backbone, History]:
    """Trains on tokens of real images.

    Args:
        transformer: trained in place.
        order: gives inputs, targets and the mask.
        ids: tokens of the images.
        class_labels: their classes.
        recipe: how long and how fast.
        label_dropout: share of labels replaced by the null class.

    Returns:
        The model with averaged weights, the losses.

    Raises:
        ValueError: labels of another length or out of range.
    """
    labels = torch.from_numpy(np.asarray(class_labels))
    check_labels(labels, len(ids), transformer.config.num_classes)
    torch.manual_seed(recipe.seed)
    step = order.full_step()

    def loss_of(model: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        null = transformer.config.null_class
        batch = drop_labels(labels[index], label_dropout, null, generator)
        lesson = order.lesson(ids[index].to(order.device), generator)
        context = transformer.prepare(batch.to(order.device))
        hidden = model(lesson.inputs, context, step)
        return token_loss(transformer.head(hidden), lesson.targets, lesson.counts)

    trained, history = fit("transformer", transformer, loss_of, len(ids), recipe)
    assert isinstance(trained, Backbone)
    return trained, history


def token_loss(
    logits: Float[Tensor, "b n v"], targets: Int[Tensor, "b n"], counts: Tensor
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) over the targets that count."""
    losses = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    return (losses * counts).sum() / counts.sum()


def check_labels(labels: Tensor, count: int, num_classes: int) -> None:
    """Raises ValueError unless there is one label in 0..num_classes-1 per image."""
    if len(labels) != count:
        raise ValueError(f"got {len(labels)} class labels for {count} images; give one per image")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"got class labels from {int(labels.min())} to {int(labels.max())}; expected 0 to "
            f"{num_classes - 1}"
        )
