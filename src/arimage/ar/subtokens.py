"""Ids in parts: a token of several bits as groups of bits, some of which may be unknown.

A token with an unknown part is an id below zero that still says the known parts; UNKNOWN, -1, is
the one without any.
"""

import torch
from torch import Tensor

from arimage.shapes import Int


def split_ids(ids: Int[Tensor, "*b n"], splits: int, size: int) -> Int[Tensor, "*b n s"]:
    """The parts of each id, the lowest bits first; UNKNOWN where one is not known.

    Args:
        size: values of a part, a power of 2.
    """
    place = torch.arange(splits, device=ids.device)
    known = ids.unsqueeze(-1) // size**place % size
    partly = (-1 - ids.unsqueeze(-1)) // (size + 1) ** place % (size + 1) - 1
    return torch.where(ids.unsqueeze(-1) < 0, partly, known)


def join_ids(parts: Int[Tensor, "*b n s"], size: int) -> Int[Tensor, "*b n"]:
    """The inverse of ``split_ids``."""
    place = torch.arange(parts.shape[-1], device=parts.device)
    known = (parts * size**place).sum(-1)
    partly = -1 - ((parts + 1) * (size + 1) ** place).sum(-1)
    return torch.where((parts < 0).any(-1), partly, known)
