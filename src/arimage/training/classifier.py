"""Trains the digit classifier that the demo's scores are made with."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from arimage.eval.features.classifier import NUM_CLASSES, SIDE, DigitClassifier
from arimage.eval.features.pixels import grey_thumbnails
from arimage.shapes import Float, Int, UInt8

BATCH = 64
PEAK_RATE = 4e-3
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.05
# Half-widths of the uniform augmentation: radians, relative size, share of the image side.
ROTATION, SCALE, SHIFT = 0.25, 0.12, 0.08


def train_classifier(
    pixels: UInt8[np.ndarray, "n h w 3"],
    labels: Int[np.ndarray, " m"],
    *,
    steps: int,
    seed: int,
    progress: bool = True,
) -> DigitClassifier:
    """A classifier trained on ``pixels`` with AdamW, a one-cycle rate and random affine maps.

    The same seed gives the same weights (up to the CPU's rounding); the caller's random state is
    left as it was.

    Args:
        pixels: uint8 images of any size (resized to 32 x 32 grey).
        labels: classes 0 to 9, one per image.
        steps: batches of 64 images.
        seed: of initial weights, order and augmentation.
        progress: show a bar with the loss.

    Raises:
        ValueError: no images, labels that do not fit, fewer than one step.
    """
    if len(pixels) != len(labels) or not len(labels):
        raise ValueError(f"got {len(labels)} labels for {len(pixels)} images; pass one per image")
    if labels.min() < 0 or labels.max() >= NUM_CLASSES:
        raise ValueError(
            f"got labels from {labels.min()} to {labels.max()}; expected 0 to {NUM_CLASSES - 1}"
        )
    if steps < 1:
        raise ValueError(f"got {steps} steps; expected at least 1")
    images, targets = grey_thumbnails(pixels, SIDE), torch.from_numpy(labels.astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitClassifier()
        _fit(model, images, targets, steps, progress)
    return model.eval()


def _fit(
    model: DigitClassifier,
    images: Float[Tensor, "n 1 h w"],
    targets: Int[Tensor, " n"],
    steps: int,
    progress: bool,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps + 1)
    model.train()
    with tqdm(range(steps), desc="digit classifier", disable=not progress) as bar:
        for _ in bar:
            rows = torch.randint(len(images), (BATCH,))
            logits = model(augment(images[rows]))
            loss = functional.cross_entropy(logits, targets[rows], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def augment(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Each image turned, scaled and shifted a little, at random (torch's global generator)."""
    count = len(images)
    turn, grow, *shift = torch.empty(4, count).uniform_(-1, 1)
    angle, size = turn * ROTATION, 1 + grow * SCALE
    cosine, sine = size * angle.cos(), size * angle.sin()
    x, y = (2 * SHIFT * part for part in shift)  # affine_grid's images are 2 wide
    maps = torch.stack([cosine, -sine, x, sine, cosine, y], dim=1).view(count, 2, 3)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)
