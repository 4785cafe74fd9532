"""How well a tokenizer gives an image back: PSNR and SSIM per pair, use of the codebook.

Both compare uint8 pixels (data range 255) pair by pair, so the mean over images does not depend on
batches, and order matters only in that pairs must match. A set against itself has PSNR inf
(no error to measure) and SSIM 1.

PSNR = 10 log10(255^2 / MSE), the MSE over all pixels and channels of one image.
SSIM: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity",
eq. 13, with K1 = 0.01, K2 = 0.03 and an 11 x 11 Gaussian window of sigma 1.5, over windows that
fit inside the image, averaged over the three channels (the paper's images are grey).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from arimage.shapes import Float

DATA_RANGE = 255.0
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2


def psnr(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " b"]:
    """Peak signal-to-noise ratio in dB of each pair of uint8 (b, h, w, 3) images; inf if equal.

    Raises:
        ValueError: arrays that are not uint8 pixels of one shape.
    """
    _check_pair(a, b)
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))
    ratio = np.full(len(a), np.inf)
    np.divide(DATA_RANGE**2, error, out=ratio, where=error > 0)
    return 10 * np.log10(ratio)


def ssim(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " b"]:
    """Structural similarity (at most 1) of each pair of uint8 (b, h, w, 3) images.

    Raises:
        ValueError: arrays that are not uint8 pixels of one shape, images below 11 x 11.
    """
    _check_pair(a, b)
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
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, WINDOW)
    rows = functional.conv2d(maps, weights, groups=3)
    return functional.conv2d(rows, weights.transpose(2, 3), groups=3)


def _channels(image: np.ndarray) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    for array in (a, b):
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            raise ValueError(
                f"got {array.dtype} of shape {array.shape}; expected uint8 pixels (b, h, w, 3)"
            )
    if a.shape != b.shape:
        raise ValueError(f"got pairs of shapes {a.shape} and {b.shape}; expected equal shapes")


@dataclass(frozen=True)
class CodebookUse:
    """``share`` of the codes that occur at all, in [0, 1]; ``perplexity``, exp of the entropy of
    their frequencies (nats): vocab_size when all are equally frequent, 1 when one is used."""

    share: float
    perplexity: float


def codebook_use(ids: Any, vocab_size: int) -> CodebookUse:
    """How much of a codebook a set of token ids uses; ids of any shape (array or CPU tensor).

    Raises:
        ValueError: no ids, ids that are not integers in [0, vocab_size).
    """
    flat = np.asarray(ids).ravel()
    if not flat.size or flat.dtype.kind not in "iu":
        raise ValueError(f"got {flat.size} ids of type {flat.dtype}; expected integers, at least 1")
    if flat.min() < 0 or flat.max() >= vocab_size:
        raise ValueError(
            f"got ids from {flat.min()} to {flat.max()}; vocab_size {vocab_size} allows 0 to "
            f"{vocab_size - 1}"
        )
    counts = np.bincount(flat, minlength=vocab_size)
    used = counts[counts > 0] / flat.size
    entropy = -(used * np.log(used)).sum()
    return CodebookUse(share=len(used) / vocab_size, perplexity=float(np.exp(entropy)))
