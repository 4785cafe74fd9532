"""Locality-aware order in groups (LPD, arXiv 2507.01957).

Tokens of a group lie far from each other and near tokens that are there already. Behaviour of
mit-han-lab/lpd@f447b83: orders/lpd_order.py for the paths, models/lpd.py and models/mask.py for the
rule: queries of a group see each other, besides tokens of groups before. In training the paths are
random; the groups are those of decoding here, and drawn from several schedules there.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from arimage.ar.base import QUERY, Descriptors, Noise
from arimage.ar.orders.base import check_steps
from arimage.ar.orders.grouped import GroupedOrder
from arimage.shapes import Bool, Int
from arimage.slots import Fuser

STEPS = {256: 20, 1024: 48}  # of the published scores: scripts/eval
NEAR = 1.0  # sum of 1 / distance to neighbours that are there: run_lpd_order.py proximity_threshold

# slots -> tokens of each group: orders/group_sizes_lookup.json; "3*2" is 3, twice
TABLES = {
    256: (
        "1 15 24 32 40 45 49 50",
        "1 7 11 15 19 22 25 28 30 32 33*2",
        "1 4 6 8 11 13 15 17 19 20 22 23 24*3 25",
        "1 2 4 5 7 8 10 11 12 14 15 16 17 18*2 19*2 20*3",
        "1 2 3 4 5 6 7 8 9 10 11*2 12 13 14*3 15*2 16*3 17*2",
        "1*2 2*2 3*2 4 5*2 6*2 7*2 8*2 9*2 10*3 11*4 12*8",
        "1*10 2*7 3*7 4*9 5*11 6*20",
        "1*41 2*46 3*41",
    ),
    1024: (
        "1 4 6 9 11 13 16 18 20 23 25 27 29 31 33 35 36 38 40 41 42 44 45 46 47 48*2 49*2 50*3",
        "1 2 4 6 7 9 10 12 13 15 16 18 19 20 22 23 24 26 27 28 29 30 31 32 33 34 35*2 36 37*2 "
        "38*2 39*3 40*4",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23*2 24 25 26*2 27 28*2 "
        "29*2 30*2 31*2 32*3 33*7 34",
        "1*2 2 3 4*2 5 6 7 8*2 9 10 11*2 12 13 14*2 15 16*2 17 18*2 19*2 20 21*2 22*2 23*2 "
        "24*2 25*3 26*3 27*5 28*6 29*3",
        "1*2 2*2 3*2 4 5*2 6*2 7 8*2 9*2 10*2 11 12*2 13*2 14*2 15*2 16*2 17*2 18*3 19*2 20*3 "
        "21*3 22*3 23*5 24*6 25*8",
        "1*4 2*2 3*3 4*2 5*3 6*3 7*2 8*3 9*3 10*3 11*3 12*3 13*3 14*4 15*4 16*4 17*6 18*6 "
        "19*7 20*12",
        "1*5 2*4 3*4 4*4 5*3 6*4 7*4 8*5 9*4 10*4 11*6 12*5 13*6 14*7 15*8 16*13 17*10",
        "1*10 2*6 3*7 4*7 5*7 6*7 7*8 8*9 9*9 10*11 11*14 12*26 13*7",
        "1*15 2*11 3*10 4*12 5*12 6*13 7*14 8*17 9*23 10*33",
        "1*22 2*15 3*16 4*16 5*19 6*21 7*27 8*55 10",
        "1*32 2*21 3*21 4*24 5*27 6*37 7*62",
        "1*39 2*28 3*31 4*34 5*44 6*80",
        "1*162 2*188 3*162",
    ),
}


def group_sizes(num_slots: int, num_steps: int) -> list[int]:
    """Tokens of each step: the published table's, or what a cosine asks for, one at first.

    Raises:
        ValueError: more steps than slots, or none.
    """
    check_steps(num_steps, num_slots)
    for line in TABLES.get(num_slots, ()):
        sizes = read_sizes(line)
        if len(sizes) == num_steps:
            return sizes
    if num_steps == 1:
        return [num_slots]
    open_after = [math.cos(math.pi / 2 * i / num_steps) for i in range(num_steps + 1)]
    wanted = [(a - b) * num_slots for a, b in pairwise(open_after)]
    sizes = [1, *(max(1, round(size)) for size in wanted[1:])]
    while (excess := sum(sizes) - num_slots) != 0:  # where it changes a size least
        step = -1 if excess > 0 else 1
        change = {i: abs(sizes[i] + step - wanted[i]) / wanted[i] for i in range(1, num_steps)}
        fit = [i for i in change if sizes[i] + step >= 1]
        sizes[min(fit, key=change.__getitem__)] += step
    return sizes


def read_sizes(line: str) -> list[int]:
    """ "1*2 5" -> [1, 1, 5]."""
    pairs = (entry.split("*") for entry in line.split())
    return [int(size) for size, *count in pairs for _ in range(int(count[0]) if count else 1)]


class LocalGroupsOrder(GroupedOrder):
    """20 steps for 256 slots, 48 for 1024.

    Args:
        path, num_steps, sizes: as for every order of groups.
        repulsion: rows or columns between two tokens of a group that are chosen by nearness.
    """

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        path: Tensor | None = None,
        num_steps: int | None = None,
        sizes: Sequence[int] | None = None,
        repulsion: int = 2,
    ) -> None:
        self.repulsion = repulsion
        super().__init__(fuser, prefix_length, device, path, num_steps, sizes)

    def choose_sizes(self, num_slots: int, num_steps: int | None) -> list[int]:
        """The published ones where there are any; else as many per side as for 256 slots."""
        few = min(num_slots, round(STEPS[256] * math.sqrt(num_slots / 256)))
        steps = STEPS.get(num_slots, few) if num_steps is None else num_steps
        return group_sizes(num_slots, steps)

    def draw_paths(self, noise: Noise) -> Int[Tensor, "b slots"]:
        """Each image's own; published code reads them from a file."""
        count = len(self.sizes) * self.num_slots
        chance = noise.gumbel(count).double().cpu().numpy()
        chance = chance.reshape(noise.batch, len(self.sizes), self.num_slots)
        paths = local_paths(self.fuser.slots.grids[-1], self.sizes, self.repulsion, chance)
        return torch.from_numpy(paths).to(self.device)

    def sees(self, query: Descriptors, key: Descriptors) -> Bool[Tensor, "q k"]:
        """Also the queries of its own group, of a query."""
        queries = (query.kind[:, None] == QUERY) & (key.kind[None] == QUERY)
        return super().sees(query, key) | (queries & (query.group[:, None] == key.group[None]))


def local_paths(
    grid: tuple[int, int],
    sizes: Sequence[int],
    repulsion: int,
    chance: np.ndarray,
) -> Int[np.ndarray, "b slots"]:
    """Paths of a batch, group by group.

    First those near what was there before the group: by nearness (the sum of 1 / distance to
    neighbours), with none within ``repulsion`` rows and columns of each other. Then those that are
    farthest from the group so far.

    Args:
        chance: (b, groups, slots) numbers; where nearness is the same, the smallest comes first.
    """
    batch, slots = len(chance), grid[0] * grid[1]
    images, cell = np.arange(batch), np.stack(np.divmod(np.arange(slots), grid[1]), axis=1)
    apart = np.abs(cell[:, None] - cell[None])
    distance, steps = np.sqrt((apart.astype(np.float64) ** 2).sum(-1)), apart.max(-1)
    pull = np.where(steps == 1, 1 / np.maximum(distance, 1), 0.0)
    nearness = np.zeros((batch, slots))
    taken = np.zeros((batch, slots), dtype=bool)
    path = np.empty((batch, 0), dtype=np.int64)
    for size, numbers in zip(sizes, chance.swapaxes(0, 1), strict=True):
        order = np.lexsort((numbers, -nearness))
        rank = np.empty((batch, slots))
        np.put_along_axis(rank, order, np.arange(slots, dtype=np.float64)[None], axis=1)
        group = choose_group(size, rank, nearness, taken, (steps <= repulsion, distance), numbers)
        for slot in group.T:
            nearness += pull[slot]
            taken[images, slot] = True
        path = np.concatenate([path, group], axis=1)
    return path


def choose_group(
    size: int,
    rank: np.ndarray,
    nearness: np.ndarray,
    taken: np.ndarray,
    geometry: tuple[np.ndarray, np.ndarray],
    numbers: np.ndarray,
) -> Int[np.ndarray, "b size"]:
    """The slots of one group of each image, in the order in which they are chosen."""
    close, distance = geometry
    images, far = np.arange(len(rank)), np.full(rank.shape, np.inf)
    wanted, barred = ~taken & (nearness >= NEAR), np.zeros_like(taken)
    late = rank + wanted * rank.shape[1]  # those passed over come after those that are not near
    free, chosen = ~taken, []
    last = free.sum(1) == size  # all that are left: as they come
    for _ in range(size):
        near = wanted & ~barred & free
        slot, some = np.where(near, rank, np.inf).argmin(1), near.any(1)
        if not some.all():
            spread = np.where(free, np.where(last[:, None], 0.0, far), -1.0)
            best = spread == spread.max(1, keepdims=True)
            alone = np.isinf(far[:, :1]) & ~last[:, None]  # the first of its group
            first = np.where(alone, numbers, late)
            slot = np.where(some, slot, np.where(best, first, np.inf).argmin(1))
        chosen.append(slot)
        free[images, slot] = False
        barred |= close[slot]
        np.minimum(far, distance[slot], out=far)
    return np.stack(chosen, axis=1)
