"""Trains a tokenizer to reconstruct images: L1 + L2 + the quantizer's own loss."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.images import from_pixels
from arimage.shapes import UInt8
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.common import Batch, History, Loss, Recipe, fit


def train_tokenizer(
    tokenizer: ImageTokenizer, pixels: UInt8[np.ndarray, "n h w 3"], recipe: Recipe
) -> tuple[ImageTokenizer, History]:
    """Trains in place on images of the tokenizer's size, held in memory.

    Raises:
        ValueError: images of another size.
    """
    tokenizer.check_size(pixels.shape[1], pixels.shape[2])
    torch.manual_seed(recipe.seed)

    def loss_of(model: nn.Module, batch: Batch) -> Loss:
        images = from_pixels(pixels[batch.index.numpy()]).to(tokenizer.device)
        if batch.progress == 0:
            with torch.no_grad():
                first = tokenizer.quantize(tokenizer.encode_latents(images))
            tokenizer.quantizer.start(first.rows.flatten(0, 1))
        output, encoding = model(images)
        tokenizer.quantizer.update(encoding.rows.flatten(0, 1))
        l1, l2 = F.l1_loss(output, images), F.mse_loss(output, images)
        return Loss(l1 + l2 + encoding.loss, {"l1": l1, "l2": l2, "codes": encoding.loss})

    trained, history = fit("tokenizer", tokenizer, loss_of, len(pixels), recipe)
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
