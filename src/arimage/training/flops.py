"""Floating-point operations of a training step and of an image, counted from the layers that run.

The model is copied to torch's meta device, where shapes flow and nothing is computed, and the real
training step or decoding loop runs there under ``torch.utils.flop_counter``: the count is of the
products that are dispatched, whatever the family, adapters and checkpointing. A product of (m, k)
and (k, n) is 2 m k n. Norms, activations, softmax, samplers and optimizers are not counted, nor
is the tokenizer. Attention is counted in full, as 4 queries x keys x width, with keys that a
mask hides: the usual convention (arXiv 2204.02311, appendix B), which no kernel can change.
Sampling has no masks but counts of its own: a step's keys are those in the cache by then.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from arimage.ar.base import Backbone, Lesson, Step
from arimage.ar.orders.base import Order
from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch
from arimage.sampling.noise import PerImageNoise
from arimage.training.common import META, on_meta
from arimage.training.generator_task import Teaching


@dataclass(frozen=True)
class Cost:
    """What a training costs.

    Attributes:
        parameters: of the transformer.
        parameters_without_embeddings: without its embedding tables, whose rows are looked up.
        flops_per_step: forward and backward pass of all images of a step.
    """

    parameters: int
    parameters_without_embeddings: int
    flops_per_step: int


def training_cost(transformer: Backbone, order: Order, batch_size: int, size: int) -> Cost:
    """Of steps of ``batch_size`` images, ``size`` of which pass together (a micro-batch)."""
    flops = training_flops(transformer, order, size) * (batch_size // size)
    return Cost(*count_parameters(transformer), flops)


def count_parameters(transformer: nn.Module) -> tuple[int, int]:
    """(all parameters, those that are in no embedding table)."""
    tables = {id(m.weight) for m in transformer.modules() if isinstance(m, nn.Embedding)}
    sizes = [(p.numel(), id(p) in tables) for p in transformer.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, table in sizes if not table)


def training_flops(transformer: Backbone, order: Order, images: int = 1) -> int:
    """FLOPs of the forward and backward pass of a batch, by running both on the meta device.

    Three times the forward pass, less what needs no gradient (inputs, frozen weights), and more
    where activations are computed again. RAR makes adaLN tables per distinct class: there are as
    many as ``images`` may have.

    Args:
        transformer: any of classes, left as it is; with checkpointing or adapters as they are.
        order: of its lessons, bound to the tokenizer.
        images: that pass together.

    Raises:
        ValueError: a model of text.
    """
    ids = torch.zeros(1, order.num_slots, dtype=torch.long, device=order.device)
    lesson = tiled(order.lesson(ids, torch.Generator().manual_seed(0)), images)
    labels = distinct_classes(transformer, images)
    teaching = Teaching(on_meta(transformer).train(), order.fuser.slots)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        teaching(lesson, labels).total.backward()
    return counter.get_total_flops()


def generation_flops(
    transformer: Backbone, order: Order, guidance: Guidance | None = None, images: int = 1
) -> int:
    """FLOPs of generating ``images`` images of distinct classes: every pass of the decoding loop.

    Keys and values come from the cache, guidance adds its rows for as long as it is on, and the
    head sees them mixed, as in ``sampling.loop``. The tokenizer's decoder is not counted.

    Args:
        transformer: of classes; left as it is.
        order: that it is sampled in, bound to the tokenizer.
        guidance: None is off.
        images: made together.

    Raises:
        ValueError: a model of text, or an order whose passes are not known beforehand.
    """
    if not order.known_steps:
        raise ValueError(
            f"the passes of {type(order).__name__} depend on what is drawn; count those of 'raster'"
        )
    guidance, model = guidance or Guidance(), on_meta(transformer).eval().requires_grad_(False)
    state = order.start(PerImageNoise(range(images), order.device))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        branch = Branch.of(model, order, distinct_classes(transformer, images), guidance)
    total, alike = counter.get_total_flops(), defaultdict(list)
    for index in range(order.num_steps):
        step = order.next_step(dataclasses.replace(state, step=index))
        assert step is not None
        guided = branch.guidance.guides(index, order.num_steps)
        alike[len(step.positions), step.predicts, guided, index == 0].append(step)

    def count(step: Step) -> int:
        inputs = order.inputs(dataclasses.replace(state, step=step.index), step)
        inputs = None if inputs is None else inputs.to(META)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            hidden = branch.hidden(inputs, moved(step), images)
            chosen = [torch.zeros(images, step.predicts, dtype=torch.long, device=META)]
            for part in range(len(model.parts)):
                branch.mixed(hidden, moved(step), images, chosen * part)
        return counter.get_total_flops()

    return total + sum(series(count, steps) for steps in alike.values())


def series(count: Callable[[Step], int], steps: Sequence[Step]) -> int:
    """The sum of ``count`` over steps that differ in the keys they see alone.

    It grows linearly with those, so the first and the last step say what is between: 256 passes of
    a next-token model are counted by two.
    """
    first, last = count(steps[0]), count(steps[-1])
    keys = [step.stop - steps[0].stop for step in steps]
    slope = (last - first) // keys[-1] if keys[-1] else 0
    return sum(first + slope * more for more in keys)


def distinct_classes(transformer: Backbone, rows: int) -> Tensor:
    """Labels (rows,) on the CPU, where models can look at them: meta tensors hold no values."""
    if transformer.takes_text:
        raise ValueError(
            f"got {type(transformer).__name__}, which reads prompts; FLOPs are counted of models "
            "of classes"
        )
    return torch.arange(rows) % transformer.config.num_classes


def moved(step: Step) -> Step:
    """The step with its tensors on the meta device."""
    fields = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    tensors = {name: v.to(META) for name, v in fields.items() if isinstance(v, Tensor)}
    return dataclasses.replace(step, **tensors)


def tiled(lesson: Lesson, images: int) -> Lesson:
    """The lesson of one image for ``images`` of them, on the meta device."""
    parts = (lesson.inputs, lesson.targets, lesson.counts)
    many = (part.to(META).expand(images, *part.shape[1:]) for part in parts)
    return Lesson(*many, moved(lesson.step).tiled(images))
