"""Trains a tokenizer on images in memory: L1 + L2 + the quantizer's own loss."""

from itertools import chain

import numpy as np
import torch
from torch import Tensor

from arimage.images import from_pixels
from arimage.shapes import UInt8
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.common import History, Recipe
from arimage.training.fit import index_batches, run_loop
from arimage.training.loop import Loop
from arimage.training.losses.registry import LOSSES
from arimage.training.objective import Images, Objective, Term
from arimage.training.tokenizer_task import Rates, TokenizerTask

TERMS = ("l1", "l2", "codebook")


def train_tokenizer(
    tokenizer: ImageTokenizer, pixels: UInt8[np.ndarray, "n h w 3"], recipe: Recipe
) -> tuple[ImageTokenizer, History]:
    """Trains in place on images of the tokenizer's size.

    Raises:
        ValueError: images of another size.
    """
    tokenizer.check_size(pixels.shape[1], pixels.shape[2])
    objective = Objective(tokenizer, {name: Term(1.0, LOSSES[name]()) for name in TERMS})
    task = TokenizerTask(objective, None, Rates(recipe, recipe))
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = (
        Images(from_pixels(pixels[index.numpy()]).to(tokenizer.device), index)
        for index in index_batches(len(pixels), recipe.batch_size, generator)
    )
    first = next(batches)
    task.start(first, recipe.seed)
    trained, history = run_loop("tokenizer", Loop(task, recipe), chain([first], batches))
    assert isinstance(trained, ImageTokenizer)
    return trained, history


@torch.no_grad()
def encode_all(
    tokenizer: ImageTokenizer, pixels: UInt8[np.ndarray, "n h w 3"], batch_size: int = 256
) -> Tensor:
    """Ids (n, num_slots) of all images, int64 on the CPU."""
    tokenizer.eval()
    parts = []
    for i in range(0, len(pixels), batch_size):
        images = from_pixels(pixels[i : i + batch_size]).to(tokenizer.device)
        parts.append(tokenizer.encode(images).cpu())
    return torch.cat(parts)


@torch.no_grad()
def decode_all(tokenizer: ImageTokenizer, ids: Tensor, batch_size: int = 256) -> Tensor:
    """Images (n, 3, H, W) in [-1, 1] of all ids, on the CPU."""
    tokenizer.eval()
    parts = [
        tokenizer.decode(ids[i : i + batch_size].to(tokenizer.device)).cpu()
        for i in range(0, len(ids), batch_size)
    ]
    return torch.cat(parts)
