"""Trains the digit classifier that the demo's scores are made with."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from arimage.eval.features.classifier import NUM_CLASSES, SIDE, DigitClassifier
from arimage.eval.features.pixels import grey_thumbnails
from arimage.shapes import Int, UInt8
from arimage.training.augment import Jitter, jitter_images
from arimage.training.common import Loss, Recipe
from arimage.training.fit import Batch, fit

BATCH = 64
PEAK_RATE = 4e-3
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.05
JITTER = Jitter(rotation=0.25, scale=0.12, shift=0.08)


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

    def loss_of(model: nn.Module, batch: Batch) -> Loss:
        logits = model(jitter_images(images[batch.index], JITTER, batch.generator))
        wanted = targets[batch.index]
        smoothed = functional.cross_entropy(logits, wanted, label_smoothing=LABEL_SMOOTHING)
        return Loss(smoothed)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recipe = Recipe(
            steps=steps,
            batch_size=BATCH,
            learning_rate=PEAK_RATE,
            weight_decay=WEIGHT_DECAY,
            seed=seed,
            progress=progress,
        )
        model, _ = fit("classifier", DigitClassifier(), loss_of, len(images), recipe)
    assert isinstance(model, DigitClassifier)
    return model
