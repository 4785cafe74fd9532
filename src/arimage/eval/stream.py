"""Whatever a caller calls images, as uint8 batches of one size, in order, read once."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from arimage.images import to_rgb
from arimage.shapes import Int, UInt8

# One (n, h, w, 3) uint8 array, or an iterable of such arrays or of PIL images. Checked in _checked,
# piece by piece, because an annotation cannot say what to do instead.
Images = Any


def pixel_batches(images: Images, batch_size: int = 256) -> Iterator[UInt8[np.ndarray, "b h w 3"]]:
    """Yields ``images`` in order as batches of exactly ``batch_size`` (the last may be smaller).

    The batches do not depend on how the caller cut the stream, so no score does either.

    Args:
        images: one uint8 (n, h, w, 3) array, or an iterable of such arrays or of PIL images
            (converted to RGB). All of one size.
        batch_size: images per batch, at least 1.

    Raises:
        TypeError, ValueError: something that is not uint8 pixels, images of two sizes, no image.
    """
    if batch_size < 1:
        raise ValueError(f"got batch_size {batch_size}; expected at least 1")
    waiting: list[np.ndarray] = []
    room = batch_size
    size: tuple[int, ...] | None = None
    given = 0
    for position, piece in enumerate(_pieces(images)):
        piece = _checked(piece, position)
        size = size or piece.shape[1:]
        given += len(piece)
        if piece.shape[1:] != size:
            raise ValueError(
                f"image input {position} is {piece.shape[1]} x {piece.shape[2]} pixels, the first "
                f"is {size[0]} x {size[1]}; bring all images to one size"
            )
        while len(piece):
            waiting.append(piece[:room])
            piece, room = piece[room:], room - len(waiting[-1])
            if not room:
                yield _joined(waiting)
                waiting, room = [], batch_size
    if waiting:
        yield _joined(waiting)
    if not given:
        raise ValueError("got no image to evaluate; pass at least one")


def labelled_batches(
    images: Images, labels: Any, batch_size: int
) -> Iterator[tuple[UInt8[np.ndarray, "b h w 3"], Int[np.ndarray, " b"] | None]]:
    """``pixel_batches`` with the labels that belong to each batch (None when there are none).

    Raises:
        ValueError: as ``pixel_batches``; labels that are not integers or not one per image.
    """
    known = None if labels is None else _label_array(labels)
    done = 0
    for pixels in pixel_batches(images, batch_size):
        start, done = done, done + len(pixels)
        if known is not None and done > len(known):
            raise ValueError(
                f"got {len(known)} labels for at least {done} images; pass one label per image"
            )
        yield pixels, None if known is None else known[start:done]
    if known is not None and done != len(known):
        raise ValueError(f"got {len(known)} labels for {done} images; pass one label per image")


def read_labels(labels: Any, count: int) -> Int[np.ndarray, " n"] | None:
    """``labels`` as an array, one per image; None if there are none.

    Raises:
        ValueError: labels that are not integers or not one per image.
    """
    if labels is None:
        return None
    known = _label_array(labels)
    if len(known) != count:
        raise ValueError(f"got {len(known)} labels for {count} images; pass one label per image")
    return known


def _label_array(labels: Any) -> Int[np.ndarray, " n"]:
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"got labels of shape {array.shape} and type {array.dtype}; "
            "expected one integer class label per image"
        )
    if array.size and array.min() < 0:
        raise ValueError(f"got the label {array.min()}; classes count from 0")
    return array.astype(np.int64)


def _pieces(images: Images) -> Iterator[Any]:
    """The stream as the caller cut it, unchecked."""
    if isinstance(images, np.ndarray | torch.Tensor | Image.Image):
        yield images
    elif isinstance(images, Iterable):
        yield from images
    else:
        yield images


def _checked(piece: Any, position: int) -> UInt8[np.ndarray, "b h w 3"]:
    if isinstance(piece, Image.Image):
        return np.asarray(to_rgb(piece, f"image input {position}"))[None]
    fits = isinstance(piece, np.ndarray) and piece.ndim == 4 and piece.shape[3] == 3
    if fits and piece.dtype == np.uint8:
        return piece
    shape, kind = getattr(piece, "shape", None), getattr(piece, "dtype", "")
    got = type(piece).__name__ if shape is None else f"{kind} of shape {tuple(shape)}"
    raise (ValueError if shape is not None else TypeError)(
        f"image input {position} is {got}; expected uint8 pixels (n, h, w, 3) as a numpy array, or "
        "PIL images (arimage.images.to_pixels turns float images in [-1, 1] into pixels)"
    )


def _joined(pieces: list[np.ndarray]) -> UInt8[np.ndarray, "b h w 3"]:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
