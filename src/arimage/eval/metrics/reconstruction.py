"""How well a tokenizer gives an image back, pixel by pixel: PSNR and SSIM.

Both compare uint8 pixels (data range 255, the same as 1 for images in [0, 1]) pair by pair; a score
is the mean over images. A set against itself has PSNR inf (no error to measure) and SSIM 1.

PSNR = 10 log10(255^2 / MSE), the MSE over all pixels and channels of one image.
SSIM: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity",
eq. 13, with K1 = 0.01, K2 = 0.03 and an 11 x 11 Gaussian window of sigma 1.5, over windows that
fit inside the image, averaged over the three channels (the paper's images are grey).

LlamaGen's published SSIM is another number: FoundationVision/LlamaGen@5a50452
tokenizer/tokenizer_image/reconstruction_vq_ddp.py says data_range=2 for images in [0, 1], which
makes the constants of eq. 13 four times ours and the value higher, over uniform 7 x 7 windows; its
PSNR is ours.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from arimage.eval.codebook import CodebookUse, codebook_use
from arimage.eval.pairs import PairMetric, check_pair
from arimage.shapes import Float

__all__ = ["PSNR", "SSIM", "CodebookUse", "codebook_use", "psnr", "ssim"]

DATA_RANGE = 255.0
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2


def psnr(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " b"]:
    """Peak signal-to-noise ratio in dB of each pair of uint8 (b, h, w, 3) images; inf if equal.

    Raises:
        ValueError: arrays that are not uint8 pixels of one shape.
    """
    check_pair(a, b)
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))
    ratio = np.full(len(a), np.inf)
    np.divide(DATA_RANGE**2, error, out=ratio, where=error > 0)
    return 10 * np.log10(ratio)


def ssim(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " b"]:
    """Structural similarity (at most 1) of each pair of uint8 (b, h, w, 3) images.

    Raises:
        ValueError: arrays that are not uint8 pixels of one shape, images below 11 x 11.
    """
    check_pair(a, b)
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(
            f"got images of {a.shape[1]} x {a.shape[2]} pixels; SSIM's window needs at least "
            f"{WINDOW} x {WINDOW}"
        )
    # One image at a time: five float64 maps of a whole batch would be gigabytes at 256 pixels.
    return np.array([_ssim(_channels(x), _channels(y)) for x, y in zip(a, b, strict=True)])


def _ssim(x: Float[Tensor, "3 h w"], y: Float[Tensor, "3 h w"]) -> float:
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    variance_x, variance_y = xx - mean_x**2, yy - mean_y**2
    covariance = xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return (luminance * structure).mean().item()


def _blur(maps: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 height width"]:
    """Gaussian window means, where the window fits: the 2-D Gaussian is a product of two 1-D."""
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=maps.device) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, WINDOW)
    rows = functional.conv2d(maps, weights, groups=3)
    return functional.conv2d(rows, weights.transpose(2, 3), groups=3)


def _channels(image: np.ndarray) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)


class PSNR(PairMetric):
    """``psnr``: mean over images of each one's decibels, inf as soon as one is given back exactly;
    details say how many are, and the mean of the others."""

    name = "psnr"
    higher_is_better = True

    def values(self, originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
        """As ``psnr``."""
        return psnr(originals, reconstructions)

    def details(self, values: Float[np.ndarray, " n"]) -> dict[str, float]:
        """``identical`` pairs, where there are some, and ``mean_of_others``."""
        others = values[np.isfinite(values)]
        if len(others) == len(values):
            return {}
        found = {"identical": float(len(values) - len(others))}
        return found | ({"mean_of_others": math.fsum(others) / len(others)} if len(others) else {})


class SSIM(PairMetric):
    """``ssim``: mean over images."""

    name = "ssim"
    higher_is_better = True

    def values(self, originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
        """As ``ssim``."""
        return ssim(originals, reconstructions)
