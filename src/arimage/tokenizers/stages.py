"""Reconstructions to look at and to score: after each token map, and beside their originals."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from arimage.images import from_pixels, to_pixels
from arimage.shapes import Float, Int, UInt8
from arimage.sheets import sheet
from arimage.tokenizers.base import ImageTokenizer


def decode_stages(
    tokenizer: ImageTokenizer, ids: Int[Tensor, "b slots"]
) -> Iterator[Float[Tensor, "b 3 h w"]]:
    """Complete ids to images in [-1, 1], once for each token map: what the maps so far say.

    The last are those of ``decode``; a tokenizer with one map gives these alone.

    Raises:
        ValueError: ids of another length or out of range.
    """
    tokenizer.check_ids(ids)
    canvas = tokenizer.blank(len(ids))
    for scale in range(tokenizer.slots.num_scales):
        start, stop = tokenizer.slots.span(scale)
        slots = torch.arange(start, stop, device=ids.device)
        canvas = tokenizer.fuse(canvas, scale, slots, tokenizer.lookup(ids[:, start:stop]))
        yield tokenizer.decode_canvas(canvas).clamp(-1, 1)


def reconstruct_stages(
    tokenizer: ImageTokenizer,
    *,
    whole: bool = False,
    seen: Callable[[Int[Tensor, "b slots"]], None] | None = None,
) -> Callable[[np.ndarray], Iterator[np.ndarray]]:
    """A function from uint8 pixels (b, h, w, 3) to what they are after each token map, in turn.

    Args:
        tokenizer: in eval mode.
        whole: only after the last map, which is ``tokenizer.reconstruct``.
        seen: shown the ids of each batch (to count codes).

    Raises:
        ValueError: when called, pixels of another size.
    """

    @torch.no_grad()
    def reconstruct(pixels: np.ndarray) -> Iterator[np.ndarray]:
        ids = tokenizer.encode(from_pixels(pixels).to(tokenizer.device))
        if seen is not None:
            seen(ids)
        images = iter([tokenizer.decode(ids)]) if whole else decode_stages(tokenizer, ids)
        yield from map(to_pixels, images)

    return reconstruct


def sample_grid(
    tokenizer: ImageTokenizer, pixels: UInt8[np.ndarray, "n h w 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Originals above what the tokenizer makes of them, with names: a picture of a training.

    The tokenizer is left as it was, in training mode or not.

    Raises:
        ValueError: no image, pixels of another size.
    """
    with evaluating(tokenizer):
        (decoded,) = reconstruct_stages(tokenizer, whole=True)(pixels)
    return sheet({"original": pixels, "reconstruction": decoded})


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every part in eval mode, and afterwards as it was (frozen parts may not be training)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.train(mode)  # parents come first, so that each part has its own word
