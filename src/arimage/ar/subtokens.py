"""Ids in parts: a token of several bits as groups of bits, some of which may be unknown.

A token with an unknown part is an id below zero that still says the known parts; UNKNOWN, -1, is
the one without any.
"""

import torch
from torch import Tensor

from arimage.ar.parts import join_ids, split_ids
from arimage.shapes import Int


def split_open(ids: Int[Tensor, "*b n"], splits: int, size: int) -> Int[Tensor, "*b n s"]:
    """The parts of each id, the lowest bits first; UNKNOWN where one is not known.

    Args:
        size: values of a part, a power of 2.
    """
    known = torch.stack(split_ids(ids, [size] * splits), -1)
    partly = torch.stack(split_ids(-1 - ids, [size + 1] * splits), -1) - 1
    return torch.where(ids.unsqueeze(-1) < 0, partly, known)


def join_open(parts: Int[Tensor, "*b n s"], size: int) -> Int[Tensor, "*b n"]:
    """The inverse of ``split_open``."""
    splits = parts.shape[-1]
    known = join_ids(parts.unbind(-1), [size] * splits)
    partly = -1 - join_ids((parts + 1).unbind(-1), [size + 1] * splits)
    return torch.where((parts < 0).any(-1), partly, known)
