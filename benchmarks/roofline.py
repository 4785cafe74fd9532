"""The least time that an image can take on a machine: what must be read and what must be computed.

    python benchmarks/roofline.py                 the published sizes on an H200, as a table

A step lasts at least as long as its bytes at the rate of the memory, and at least as long as its
products at the rate of a large one; steps follow one another, so

    seconds = sum over steps of max(bytes / bytes_per_second, flops / flops_per_second)

Counted per step: every weight of the blocks and of the head once; keys and values written, and
read up to the current position; logits in float32 and what layers hand on to one another
(``BLOCK_VALUES``) where a step is more than one token per row, since a single token's stay in the
processor's cache. adaLN of the class is computed once per call, as tables: one row per sequence in
VAR, one for every position and distinct class in RAR. A product of n x i by i x o is 2 n i o FLOPs.
With guidance there are two rows per image in every step, also before the head. Left out: norms,
softmax, sampling, the time to start a kernel. The decoder's products are counted by running it
without data, and its bytes are those that go into and out of its convolutions.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from arimage.generator import ImageGenerator
from arimage.tokenizers.base import ImageTokenizer

# Times that a token's values pass between memory and one block, if kernels are fused. Of its width:
# x read, queries, keys and values written, queries read (keys and values are the cache's), the
# attention's output written and read, the skip read, x written; then for the MLP x read, the skip
# read, x written. Of the hidden layer: written and read.
BLOCK_VALUES, HIDDEN_VALUES = 12, 2
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Machine:
    """What a machine reaches: bytes per second from memory, FLOPs per second in large products."""

    bytes_per_second: float
    flops_per_second: float


# Datasheet bandwidth, and bfloat16 products of random matrices as measured on one.
H200 = Machine(4.8e12, 790e12)


@dataclass(frozen=True)
class Work:
    """Bytes moved and FLOPs computed in one step."""

    bytes: float
    flops: float

    def seconds(self, machine: Machine) -> float:
        """The lower bound of its time."""
        return max(self.bytes / machine.bytes_per_second, self.flops / machine.flops_per_second)


def total(steps: Sequence[Work]) -> Work:
    """All steps together."""
    return Work(sum(step.bytes for step in steps), sum(step.flops for step in steps))


def bound(steps: Sequence[Work], machine: Machine) -> float:
    """Seconds that the steps take at least, one after the other."""
    return sum(step.seconds(machine) for step in steps)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A transformer as the roofline sees it.

    Attributes:
        depth, width, hidden, vocab_size: as in its config.
        gated: whether the hidden layer has a gate (three matrices instead of two).
        modulated: whether adaLN exists; ``per_position``: a table row for each position.
        groups: positions of each step.
    """

    depth: int
    width: int
    hidden: int
    vocab_size: int
    gated: bool
    modulated: bool
    per_position: bool
    groups: tuple[int, ...]

    @classmethod
    def of(cls, config: Any) -> "Sizes":
        """Of a config of ``ar/``; ValueError for a family or an order that is not counted."""
        family = config.model_type.removeprefix("arimage_")
        if family not in ("var", "llama", "rar") or config.order == "masked":
            raise ValueError(
                f"got a {family} transformer of order {config.order!r}; the roofline knows var, "
                "llama and rar with a cache"
            )
        scaled = family == "var"
        groups = [side**2 for side in config.scales] if scaled else [1] * math.prod(config.grid)
        groups[0] += family == "rar"  # its sequence begins with a start token before the class
        return cls(
            depth=config.depth,
            width=config.width,
            hidden=round(config.mlp_ratio * config.width) if scaled else config.mlp_hidden,
            vocab_size=config.vocab_size,
            gated=family == "llama",
            modulated=family != "llama",
            per_position=family == "rar",
            groups=tuple(groups),
        )

    @property
    def step_weights(self) -> int:
        """Weights of the matrices that every step reads: the blocks' and the head's."""
        block = 4 * self.width**2 + (2 + self.gated) * self.width * self.hidden
        return self.depth * block + self.vocab_size * self.width

    @property
    def table_weights(self) -> int:
        """Weights of the matrices that make adaLN's tables, read once per call."""
        return self.table_values * self.width if self.modulated else 0

    @property
    def table_values(self) -> int:
        """Values of adaLN for one position or class: six per block, two before the head."""
        return (6 * self.depth + 2) * self.width if self.modulated else 0


def transformer_steps(
    config: Any, batch: int, itemsize: int = 2, guided: bool = True
) -> list[Work]:
    """The work of each step for ``batch`` images with distinct classes.

    Args:
        config: of the transformer.
        batch: images.
        itemsize: bytes of a weight, a key, an activation.
        guided: two rows per image, or one.
    """
    sizes, rows = Sizes.of(config), batch * (1 + guided)
    prepared = rows
    if sizes.per_position:  # the null class is one for all images
        prepared = (batch + guided) * sum(sizes.groups)
    tables = Work(
        (sizes.table_weights + prepared * sizes.table_values) * itemsize,
        2 * sizes.table_weights * prepared,
    )
    steps, past = [], 0
    for count in sizes.groups:
        past += count
        steps.append(one_step(sizes, rows, count, past, itemsize))
    return [total([tables, steps[0]]), *steps[1:]]


def one_step(sizes: Sizes, rows: int, count: int, length: int, itemsize: int) -> Work:
    """``count`` tokens per row, attending to ``length`` positions, themselves included."""
    tokens, layer = rows * count, sizes.depth * sizes.width
    cache = 2 * layer * rows * (count + length)
    between = sizes.depth * (BLOCK_VALUES * sizes.width + HIDDEN_VALUES * sizes.hidden)
    handed = tokens * (between * itemsize + sizes.vocab_size * FLOAT32) if count > 1 else 0
    table = tokens * sizes.table_values if sizes.per_position else 0
    return Work(
        (sizes.step_weights + cache + table) * itemsize + handed,
        2 * sizes.step_weights * tokens + 4 * layer * tokens * length,
    )


def decoder_work(tokenizer: ImageTokenizer, batch: int, itemsize: int = 2) -> Work:
    """Of the decoder for ``batch`` images, counted on a copy without data."""
    with torch.device("meta"):
        model = type(tokenizer)(tokenizer.config).eval()
    values = 0

    def seen(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal values
        values += inputs[0].numel() + output.numel()

    hooks = [m.register_forward_hook(seen) for m in model.modules() if isinstance(m, nn.Conv2d)]
    height, width = model.slots.grids[-1]
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model.decode_canvas(torch.zeros(1, model.config.code_dim, height, width, device="meta"))
    for hook in hooks:
        hook.remove()
    return Work(batch * values * itemsize, batch * counted.get_total_flops())


def image_bound(generator: ImageGenerator, batch: int, machine: Machine) -> dict[str, Any]:
    """Lower bounds of one call, from labels to pixels, in ms per image, and its work.

    Returns:
        transformer_ms, decoder_ms, total_ms per image; bytes and flops of the whole batch.
    """
    itemsize = generator.transformer.dtype.itemsize
    guided = generator.settings.guidance_scale != 1
    steps = transformer_steps(generator.transformer.config, batch, itemsize, guided)
    decoder = decoder_work(generator.tokenizer, batch, generator.tokenizer.dtype.itemsize)
    parts = {"transformer": bound(steps, machine), "decoder": decoder.seconds(machine)}
    everything = total([*steps, decoder])
    return {
        **{f"{name}_ms": 1000 * seconds / batch for name, seconds in parts.items()},
        "total_ms": 1000 * sum(parts.values()) / batch,
        "bytes": everything.bytes,
        "flops": everything.flops,
    }


PUBLISHED = (
    ("var", "d16"),
    ("var", "d30"),
    ("llamagen", "B"),
    ("llamagen", "XL"),
    ("rar", "B"),
)


def main() -> None:
    """The published sizes in bfloat16 on a machine of the given rates."""
    from systems import ours

    parser = argparse.ArgumentParser()
    parser.add_argument("--bandwidth", type=float, default=4800, help="GB/s")
    parser.add_argument("--rate", type=float, default=790, help="TFLOP/s")
    parser.add_argument("--batch", default="1,64")
    asked = parser.parse_args()
    machine, rows = Machine(asked.bandwidth * 1e9, asked.rate * 1e12), []
    for model, config in PUBLISHED:
        with torch.device("meta"):
            generator = ours(model, config)
        generator.tokenizer.to(torch.bfloat16)
        generator.transformer.to(torch.bfloat16)
        for batch in (int(b) for b in asked.batch.split(",")):
            found = image_bound(generator, batch, machine)
            rows.append({"model": f"{model}-{config}", "batch": batch, **found})
            times = ", ".join(f"{n[:-3]} {found[n]:.2f} ms" for n in found if n.endswith("_ms"))
            print(
                f"{model}-{config} batch {batch}: {times}; {1000 / found['total_ms']:.0f} images/s"
            )
    print(json.dumps({"gb_per_s": asked.bandwidth, "tflop_per_s": asked.rate, "rows": rows}))


if __name__ == "__main__":
    main()
