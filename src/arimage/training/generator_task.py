"""The task of training a transformer: one turn, whose draws follow from the step and the image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from arimage.ar.base import Backbone, Lesson
from arimage.ar.draws import drop_labels
from arimage.ar.orders.base import Order
from arimage.ar.parts import token_losses
from arimage.shapes import Float, Int
from arimage.slots import SlotTable
from arimage.training.ar_trainer import lesson_loss, targets_counted, teacher
from arimage.training.common import Loss
from arimage.training.fit import Batch
from arimage.training.loop import Moment, Player, step_seed
from arimage.training.processes import gathered, processes, rank
from arimage.training.token_batches import TrainingTokens
from arimage.training.token_data import TokenBatch
from arimage.training.transformer_recipe import TransformerRecipe

TRANSFORMER = "transformer"
VALIDATION_SEED = 0  # of the masks of orders that draw some


class Teaching(nn.Module):
    """A lesson and its classes to a loss: what is wrapped for several processes."""

    def __init__(self, transformer: Backbone, slots: SlotTable) -> None:
        super().__init__()
        self.transformer, self.slots = transformer, slots

    def forward(
        self,
        lesson: Lesson,
        class_labels: Int[Tensor, " b"],
        counted: Int[Tensor, " maps"] | None = None,
        shares: int = 1,
    ) -> Loss:
        """Mean cross-entropy (nats) over the targets that count, and that of each token map.

        Args:
            counted: targets of each token map that count in the step; whole numbers, since FSDP
                rounds a module's arguments under mixed precision. None counts those of the lesson.
            shares: lessons of the step, whose mean the loop takes.
        """
        by = None if counted is None else counted / shares
        return lesson_loss(self.losses(lesson, class_labels), lesson, self.slots, by)

    def losses(self, lesson: Lesson, class_labels: Int[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """Cross-entropy (nats) of every target."""
        context = self.transformer.prepare(class_labels)
        hidden = self.transformer(lesson.inputs, context, lesson.step)
        return token_losses(self.transformer, hidden, lesson.targets)


@dataclass(frozen=True)
class Part:
    """A micro-batch, and the process' whole batch of the step, ``parts`` of them."""

    tokens: TokenBatch
    whole: TokenBatch
    parts: int


class GeneratorTask:
    """Trains a transformer in place.

    Label drops, random orders and masks of an image follow from the step's seed and which image
    it is, so that they do not depend on batches, processes and micro-batches. Dropout follows from
    the step's seed and the process. Where an order masks tokens, the loss is the mean over those of
    the whole step: they are counted before its first micro-batch, over all processes.

    Args:
        transformer: where it shall live.
        order: of the lessons, there too.
        recipe: label dropout, random orders, rates.

    Raises:
        ValueError: random orders for a model that knows none.
    """

    def __init__(self, transformer: Backbone, order: Order, recipe: TransformerRecipe) -> None:
        self.model, self.order, self.recipe = transformer, order, recipe
        self.teach = teacher(order, transformer, recipe)
        self.players = [Player(TRANSFORMER, Teaching(transformer, order.fuser.slots), recipe)]
        self.counted: Tensor | None = None  # of the step that is computed

    def split(self, batch: TokenBatch, count: int) -> Sequence[Part]:
        """Micro-batches."""
        rows = (batch.ids, batch.labels, batch.index)
        chunks = list(zip(*(part.chunk(count) for part in rows), strict=True))
        return [Part(TokenBatch(*chunk, batch.epoch), batch, len(chunks)) for chunk in chunks]

    def turns(
        self, modules: dict[str, nn.Module], batch: Part, moment: Moment
    ) -> Iterator[tuple[str, Loss]]:
        """One turn."""
        if moment.first:
            torch.manual_seed(moment.seed + rank())
            self.counted = self.count(batch.whole, moment) if self.order.masks else None
        lesson, labels = self.taught(batch.tokens, moment)
        shares = batch.parts * processes()
        yield TRANSFORMER, modules[TRANSFORMER](lesson, labels, self.counted, shares)

    def taught(self, batch: TokenBatch, moment: Moment) -> tuple[Lesson, Int[Tensor, " b"]]:
        """The lesson of a batch and its classes, some dropped."""
        draws = [image_generator(moment.seed, i) for i in batch.index.tolist()]
        rate, null = self.recipe.label_dropout, self.model.config.null_class
        labels = drop_labels(batch.labels, rate, null, draws).to(self.order.device)
        given = Batch(batch.index, draws, moment.progress)
        return self.teach(batch.ids.to(self.order.device), given), labels

    def count(self, batch: TokenBatch, moment: Moment) -> Int[Tensor, " maps"]:
        """Targets of each token map that count in a step, in the batches of all processes."""
        lesson, _ = self.taught(batch, moment)
        counted = targets_counted(lesson.counts, self.order.fuser.slots)
        return gathered(counted[None]).sum(0)

    def after(self, moment: Moment) -> dict[str, Tensor]:
        """Nothing to do."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Empty: everything follows from the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse."""


def image_generator(seed: int, image: int) -> torch.Generator:
    """Of the draws of an image at a step of that seed."""
    return torch.Generator().manual_seed(step_seed(seed, image))


@torch.no_grad()
def validation_sums(
    transformer: Backbone,
    order: Order,
    data: TrainingTokens,
    size: int,
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """Cross-entropy of held-out tokens given their classes, in eval mode.

    Returns:
        (2, token maps) float64: sums in nats, and over how many tokens, of this process' share.
    """
    slots, transformer = order.fuser.slots, transformer.eval()
    teaching, sums = Teaching(transformer, slots), torch.zeros(2, slots.num_scales).double()
    scales = slots.scale.to(order.device)
    for start in range(rank * size, len(data), world * size):
        index = torch.arange(start, min(start + size, len(data)))
        ids, labels = data.rows(index)
        draws = [image_generator(VALIDATION_SEED, i) for i in index.tolist()]
        lesson = order.lesson(ids.to(order.device), draws)
        losses = teaching.losses(lesson, labels.to(order.device)).double() * lesson.counts
        for row, values in enumerate((losses, lesson.counts.double())):
            found = values.sum(0)
            sums[row] += torch.zeros_like(sums[row]).to(found).index_add(0, scales, found).cpu()
    return sums


def validation_losses(sums: Tensor) -> dict[str, float]:
    """From sums of all processes: the mean per token, and with several token maps of each."""
    found = {"validation loss": float(sums[0].sum() / sums[1].sum())}
    if sums.shape[1] > 1:
        means = (sums[0] / sums[1]).tolist()
        found |= {f"validation scale {k}": value for k, value in enumerate(means)}
    return found
