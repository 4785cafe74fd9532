"""Small things that metrics over single images have in common."""

import math
from collections.abc import Hashable
from typing import Any

import numpy as np

Shared = dict[Hashable, Any]  # what the metrics of one evaluation leave for each other


def joined(pieces: list[np.ndarray], shared: Shared) -> np.ndarray:
    """The pieces as one array: the same array for every metric that holds the same pieces."""
    key = ("joined", *map(id, pieces))
    if key not in shared:
        whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        shared[key] = (whole, list(pieces))  # held, so that their ids are not given away
    return shared[key][0]


def check_same_width(generated: np.ndarray, real: np.ndarray) -> None:
    """ValueError unless both sets have equally many features per image."""
    if generated.shape[1] != real.shape[1]:
        raise ValueError(
            f"got {generated.shape[1]} features per image and a reference of "
            f"{real.shape[1]}; use one feature extractor for both"
        )


def binomial_error(share: float, count: int) -> float:
    """The standard error of a share of ``count`` independent images."""
    return math.sqrt(share * (1 - share) / count)
