"""Nearest neighbours between sets of features, tile by tile: memory is one tile, not n x n."""

import torch
from torch import Tensor

from arimage.shapes import Bool, Float

TILE = 4096  # rows and columns; one tile of float64 distances is 134 MB


def squared_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Squared Euclidean distances by one matrix product; equal rows are at exactly 0.

    The product cancels, leaving up to d * eps * (|a|^2 + |b|^2) of noise where 0 belongs, so what
    is below that is set to 0. In float64 nothing that float32 features can tell apart is lost
    for d up to several thousand.
    """
    scale = a.square().sum(1)[:, None] + b.square().sum(1)
    distances = torch.addmm(scale, a, b.T, alpha=-2)
    noise = a.shape[1] * torch.finfo(a.dtype).eps
    return distances.masked_fill_(distances <= noise * scale, 0.0)


def kth_nearest(rows: Float[Tensor, "n d"], k: int, *, tile: int = TILE) -> Float[Tensor, " n"]:
    """Squared distance from each row to its k-th nearest other row (itself excluded by index).

    Raises:
        ValueError: not more than k rows.
    """
    if len(rows) <= k:
        raise ValueError(
            f"got {len(rows)} images; the {k}-th nearest neighbour needs more than {k}"
        )
    radii = []
    for start in range(0, len(rows), tile):
        queries = rows[start : start + tile]
        best = rows.new_full((len(queries), 0), torch.inf)
        for left in range(0, len(rows), tile):
            distances = squared_distances(queries, rows[left : left + tile])
            if left == start:
                distances.fill_diagonal_(torch.inf)
            best = torch.cat([best, distances], dim=1)
            best = best.topk(min(k, best.shape[1]), dim=1, largest=False).values
        radii.append(best[:, k - 1])
    return torch.cat(radii)


def nearest(
    queries: Float[Tensor, "n d"], rows: Float[Tensor, "m d"], *, tile: int = TILE
) -> Float[Tensor, " n"]:
    """Squared distance from each query to its nearest row."""
    found = []
    for start in range(0, len(queries), tile):
        part = queries[start : start + tile]
        best = part.new_full((len(part),), torch.inf)
        for left in range(0, len(rows), tile):
            distances = squared_distances(part, rows[left : left + tile])
            best = torch.minimum(best, distances.amin(1))
        found.append(best)
    return torch.cat(found)


def inside_any(
    queries: Float[Tensor, "n d"],
    centres: Float[Tensor, "m d"],
    radii: Float[Tensor, " m"],
    *,
    tile: int = TILE,
) -> Bool[Tensor, " n"]:
    """Whether each query is within (``<=``) the squared radius of at least one centre."""
    found = []
    for start in range(0, len(queries), tile):
        part = queries[start : start + tile]
        hit = torch.zeros(len(part), dtype=torch.bool)
        for left in range(0, len(centres), tile):
            distances = squared_distances(part, centres[left : left + tile])
            hit |= (distances <= radii[left : left + tile]).any(1)
        found.append(hit)
    return torch.cat(found)
