"""Thumbnails as features: 8 x 8 grey pixels. No weights, so anyone can repeat the numbers."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from arimage.eval.base import FeatureBatch
from arimage.shapes import Float, Int, UInt8

SIDE = 8


def grey_thumbnails(
    pixels: UInt8[np.ndarray, "b h w 3"], side: int
) -> Float[Tensor, "b 1 {side} {side}"]:
    """The mean of R, G and B in [0, 1], area-averaged to ``side`` x ``side``, float32."""
    grey = torch.from_numpy(pixels.astype(np.float32).mean(axis=3) / 255)
    return functional.interpolate(grey[:, None], size=(side, side), mode="area")


class PixelFeatures:
    """``pixels``: 64 features in [0, 1] per image, no class probabilities."""

    name = "pixels"

    def __call__(
        self, pixels: UInt8[np.ndarray, "b h w 3"], labels: Int[np.ndarray, " b"] | None = None
    ) -> FeatureBatch:
        """Features (b, 64), float32."""
        features = grey_thumbnails(pixels, SIDE).flatten(1).numpy()
        return FeatureBatch(extractor=self.name, features=features, labels=labels)
