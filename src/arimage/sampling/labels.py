"""Class labels: numbers or names, one per image (drawn ones come from the noise)."""

import operator
from collections.abc import Sequence

import numpy as np

from arimage.registry import unknown_name


def read_labels(
    class_labels: Sequence[int | str] | int | str, num_classes: int, names: Sequence[str]
) -> list[int]:
    """Class labels as integers in 0..num_classes, the last of which is "no class".

    Raises:
        ValueError: no label, or one out of range. KeyError: an unknown class name.
    """
    if isinstance(class_labels, int | str | np.integer):
        class_labels = [class_labels]
    labels = [_read(label, num_classes, names) for label in class_labels]
    if not labels:
        raise ValueError("got no class label; give at least one")
    return labels


def _read(label: int | str, num_classes: int, names: Sequence[str]) -> int:
    if isinstance(label, str):
        if label not in names:
            raise KeyError(unknown_name("class name", label, names))
        return list(names).index(label)
    index = operator.index(label)
    if not 0 <= index <= num_classes:
        raise ValueError(
            f"got class label {label}; expected 0 to {num_classes - 1}, or {num_classes} for no "
            "class"
        )
    return index


def count_images(
    labels: int | None, count: int | None, seeds: object, of: str = "class labels"
) -> int:
    """How many images: of ``labels`` (or prompts), or ``count``, or one per seed of a list.

    Raises:
        ValueError: labels and a count, or neither of the three, or a count below 1.
    """
    if labels is not None and count is not None:
        raise ValueError(f"got {of} and count {count}; pass one of them")
    if labels is not None:
        return labels
    if count is None and isinstance(seeds, Sequence):
        count = len(seeds)
    if count is None:
        raise ValueError(
            "got neither class_labels nor count; pass labels, or count for labels drawn from the "
            "seeds"
        )
    if count < 1:
        raise ValueError(f"got count {count}; expected an integer >= 1")
    return count
