"""Nearest neighbours between sets of features, tile by tile: memory is one tile, not n x n.

Float32 products search, float64 differences decide. A tile holds a lower bound of each squared
distance: what it is at least, whatever float32 has rounded away. Pairs whose bounds leave an
answer open are measured again in float64, coordinate by coordinate. So answers are those of
float64, equal images are at distance exactly 0, and neither tiles nor float32 show.

The bound: a sum of d products in precision u is off by at most d * u * |a| |b|, in any order
(Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from arimage.shapes import Bool, Float, Int

TILE = 1024  # rows and columns; one tile of float32 bounds is 4 MB
SPARE = 3  # candidates beyond k: enough that few rows need a second look
CHUNK = 256  # rows, where each coordinate is touched: what fits into a cache
ENTRIES = 2**19  # coordinates compared in float64 at once: 4 MB
TINY = 1e-30  # far above what float32 loses near 0, far below the largest norm, which is about 1


def tensor(rows: Float[np.ndarray, "n d"], device: str = "cpu") -> Float[Tensor, "n d"]:
    """The rows on a device, without a copy where they can be shared."""
    return torch.from_numpy(np.require(rows, requirements="W")).to(device)


class _Points:
    """A set of features with what tiles are made of: shifted, scaled, in float32, with norms.

    A row of ``right`` is [x, (1 - slack) |x|^2, 1], so that one product of it with ``left``'s
    [-2 y, 1, (1 - slack) |y|^2] is a lower bound of |x - y|^2.
    """

    def __init__(self, rows: Tensor, centre: Tensor, scale: float) -> None:
        count, size = rows.shape
        slack = (size + 16) * torch.finfo(torch.float32).eps
        self.rows = rows
        self.margin = rows.new_empty(count, dtype=torch.float64)
        self.right = rows.new_empty((count, size + 2), dtype=torch.float32)
        for piece in _blocks(count, CHUNK):
            shifted = ((rows[piece] - centre) * scale).float()
            norms = _squares(shifted.double())
            self.margin[piece] = slack * norms + TINY
            self.right[piece, :size] = shifted
            self.right[piece, size] = norms - self.margin[piece]
        self.right[:, size + 1] = 1

    def left(self, piece: slice | Tensor) -> Float[Tensor, "b e"]:
        """The left factor of a tile."""
        rows = self.right[piece]
        return torch.cat([-2 * rows[:, :-2], rows[:, -1:], rows[:, -2:-1]], dim=1)


def _points(*sets: Tensor) -> tuple[float, list[_Points]]:
    """A power of two by which coordinates are multiplied, and the sets, with a common centre."""
    centre = sets[0].mean(0, dtype=torch.promote_types(sets[0].dtype, torch.float32))
    largest = max(
        float(_squares((rows[piece] - centre).double()).max())
        for rows in sets
        for piece in _blocks(len(rows), CHUNK)
    )
    scale = 2.0 ** -int(np.frexp(largest**0.5)[1])
    return scale, [_Points(rows, centre, scale) for rows in sets]


def _squares(rows: Tensor) -> Float[Tensor, " n"]:
    return torch.linalg.vecdot(rows, rows)


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@contextmanager
def _plain_float32() -> Iterator[None]:
    """No TF32 or bfloat16 inside products: the bound is float32's."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _measured(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], i: Int[Tensor, " p"], j: Int[Tensor, " p"]
) -> Float[Tensor, " p"]:
    """The squared distances of pairs of rows, in float64."""
    found = torch.empty(len(i), dtype=torch.float64, device=a.device)
    for piece in _blocks(len(i), max(ENTRIES // a.shape[1], 1)):
        away = a[i[piece]].double() - b[j[piece]]
        found[piece] = _squares(away)
    return found


class _Smallest:
    """The k smallest entries of each row of a matrix that comes tile by tile."""

    def __init__(self, count: int, k: int, like: Tensor, dtype: torch.dtype) -> None:
        self.values = like.new_full((count, k), torch.inf, dtype=dtype)
        self.columns = like.new_zeros((count, k), dtype=torch.int64)

    def include(self, rows: slice, tile: Tensor, first: int) -> None:
        """A tile of ``rows``, whose first column has the number ``first``."""
        k = self.values.shape[1]
        values, columns = tile.topk(min(k, tile.shape[1]), dim=1, largest=False, sorted=False)
        values = torch.cat([self.values[rows], values], dim=1)
        columns = torch.cat([self.columns[rows], columns + first], dim=1)
        self.values[rows], best = values.topk(k, dim=1, largest=False)
        self.columns[rows] = columns.gather(1, best)


def _nearest(
    scale: float, queries: _Points, others: _Points, ks: Iterable[int], tile: int
) -> dict[int, Float[Tensor, " n"]]:
    """For each k the squared distances to the k-th nearest, leaving a set's own rows out of their
    search where ``queries`` is ``others``."""
    ks = tuple(ks)
    unseen = len(others.rows) - (queries is others) - max(ks) - SPARE
    best = _candidates(queries, others, max(ks) + SPARE + min(unseen, 0), tile)
    found = {}
    for k in ks:
        found[k] = _settled(scale, queries, others, best, k)
        # Nothing unseen is nearer than the last candidate may be; nothing at all is nearer than 0.
        doubtful = (found[k] * scale**2 > best.values[:, -1]) & (found[k] > 0)
        if unseen > 0 and doubtful.any():
            rows = doubtful.nonzero()[:, 0]
            limits = _rounded_up(found[k][rows] * scale**2)
            found[k][rows] = _second_look(queries, others, rows, limits, k, tile)
    return found


def _candidates(queries: _Points, others: _Points, count: int, tile: int) -> _Smallest:
    """The ``count`` smallest lower bounds of each query, ascending."""
    own = queries is others
    best = _Smallest(len(queries.rows), count, queries.rows, torch.float32)
    for down in _blocks(len(queries.rows), tile):
        left = queries.left(down)
        for across in _blocks(len(others.rows), tile):
            if own and across.start < down.start:
                continue  # the transpose of a tile that has been seen
            bounds = left @ others.right[across].T
            if own and across == down:
                bounds.fill_diagonal_(torch.inf)
            best.include(down, bounds, across.start)
            if own and across != down:
                best.include(across, bounds.T.contiguous(), down.start)
    return best


def _settled(
    scale: float, queries: _Points, others: _Points, best: _Smallest, k: int
) -> Float[Tensor, " n"]:
    """The k-th smallest distance to the candidates. Only those are measured that may be it."""
    low = best.values.double()
    high = low + 2 * (queries.margin[:, None] + others.margin[best.columns])
    kth_low, kth_high = low[:, k - 1, None], high.kthvalue(k, dim=1, keepdim=True).values
    i, j = ((high >= kth_low) & (low <= kth_high)).nonzero(as_tuple=True)
    values = torch.full_like(high, torch.inf).masked_fill_(high < kth_low, -torch.inf)
    values[i, j] = _measured(queries.rows, others.rows, i, best.columns[i, j])
    return values.kthvalue(k, dim=1).values


def _second_look(
    queries: _Points, others: _Points, rows: Tensor, limits: Tensor, k: int, tile: int
) -> Float[Tensor, " r"]:
    """The k-th nearest of ``rows`` of the queries among all others whose bounds are within
    ``limits``: where the candidates were too few to be sure."""
    best = _Smallest(len(rows), k, queries.rows, torch.float64)
    for down in _blocks(len(rows), tile):
        left = queries.left(rows[down])
        for across in _blocks(len(others.rows), tile):
            bounds = left @ others.right[across].T
            i, j = (bounds <= limits[down, None]).nonzero(as_tuple=True)
            i_row, j_row = rows[down][i], j + across.start
            exact = _measured(queries.rows, others.rows, i_row, j_row)
            if queries is others:
                exact[i_row == j_row] = torch.inf
            measured = torch.full_like(bounds, torch.inf, dtype=torch.float64)
            measured[i, j] = exact
            best.include(down, measured, across.start)
    return best.values[:, -1]


def _rounded_up(values: Tensor) -> Tensor:
    """In float32, not below."""
    return torch.nextafter(values.float(), values.new_full((), torch.inf, dtype=torch.float32))


def _check_more_than(k: int, rows: Tensor) -> None:
    if len(rows) <= k:
        raise ValueError(
            f"got {len(rows)} images; the {k}-th nearest neighbour needs more than {k}"
        )


@_plain_float32()
def kth_nearest(rows: Float[Tensor, "n d"], k: int, *, tile: int = TILE) -> Float[Tensor, " n"]:
    """Squared distance from each row to its k-th nearest other row (itself excluded by index).

    Raises:
        ValueError: not more than k rows.
    """
    _check_more_than(k, rows)
    scale, (points,) = _points(rows)
    return _nearest(scale, points, points, [k], tile)[k]


@_plain_float32()
def nearest(
    queries: Float[Tensor, "n d"], rows: Float[Tensor, "m d"], *, tile: int = TILE
) -> Float[Tensor, " n"]:
    """Squared distance from each query to its nearest row."""
    scale, (points, others) = _points(queries, rows)
    return _nearest(scale, points, others, [1], tile)[1]


class Balls(NamedTuple):
    """Balls around all images of one set, each reaching to its image's k-th nearest neighbour in
    the set; the border belongs to a ball unless it is ``open``."""

    around: Literal["real", "generated"]
    k: int
    open: bool


@dataclass(frozen=True)
class Hits:
    """``depth``: how many balls each image of the other set is in; ``hit``: which balls it hit."""

    depth: Int[Tensor, " n"]
    hit: Bool[Tensor, " m"]


@_plain_float32()
def ball_hits(
    real: Float[Tensor, "n d"],
    generated: Float[Tensor, "m d"],
    wanted: Iterable[Balls],
    *,
    tile: int = TILE,
) -> dict[Balls, Hits]:
    """All kinds of balls from one pass over the distances between the two sets.

    Raises:
        ValueError: not more than k images to make balls of.
    """
    wanted = tuple(dict.fromkeys(wanted))
    sets = {"real": real, "generated": generated}
    for balls in wanted:
        _check_more_than(balls.k, sets[balls.around])
    scale, (left, right) = _points(real, generated)
    points = {"real": left, "generated": right}
    radii = _radii(scale, points, wanted, tile)
    found = {balls: _no_hits(balls, points) for balls in wanted}
    limit = {side: _limits(side, radii, points[side].rows) for side in points}
    for down in _blocks(len(real), tile):
        factor = left.left(down)
        for across in _blocks(len(generated), tile):
            bounds = factor @ right.right[across].T
            near = bounds <= limit["real"][down, None]
            near |= bounds <= limit["generated"][across]
            i, j = near.nonzero(as_tuple=True)
            pairs = _Pairs(i + down.start, j + across.start, bounds[i, j].double())
            _count(pairs, points, scale, radii, found)
    return found


class _Pairs(NamedTuple):
    """Rows of the real and of the generated set, and a lower bound of their distance."""

    real: Int[Tensor, " p"]
    generated: Int[Tensor, " p"]
    bound: Float[Tensor, " p"]


def _radii(
    scale: float, points: dict[str, _Points], wanted: tuple[Balls, ...], tile: int
) -> dict[Balls, Float[Tensor, " n"]]:
    """Scaled squared radii; the neighbours of a set are searched once."""
    radii = {}
    for side, own in points.items():
        ks = {balls.k for balls in wanted if balls.around == side}
        if ks:
            distances = _nearest(scale, own, own, ks, tile)
            radii |= {b: distances[b.k] * scale**2 for b in wanted if b.around == side}
    return radii


def _limits(side: str, radii: dict[Balls, Tensor], rows: Tensor) -> Float[Tensor, " n"]:
    """The largest radius around each image; none reaches anything where none is wanted."""
    limits = torch.full((len(rows),), -torch.inf, device=rows.device)
    for balls, radius in radii.items():
        if balls.around == side:
            limits = torch.maximum(limits, _rounded_up(radius))
    return limits


def _no_hits(balls: Balls, points: dict[str, _Points]) -> Hits:
    own = points[balls.around].rows
    other = points["generated" if balls.around == "real" else "real"].rows
    return Hits(
        torch.zeros(len(other), dtype=torch.int64, device=own.device),
        torch.zeros(len(own), dtype=torch.bool, device=own.device),
    )


def _count(
    pairs: _Pairs,
    points: dict[str, _Points],
    scale: float,
    radii: dict[Balls, Tensor],
    found: dict[Balls, Hits],
) -> None:
    """Adds what a tile's near pairs hit. Where bounds do not settle it, distances do."""
    real, generated = points["real"], points["generated"]
    spread = 2 * (real.margin[pairs.real] + generated.margin[pairs.generated])
    distance = pairs.bound + spread  # an upper bound: inside by it is inside
    reach = {
        balls: radius[pairs.real if balls.around == "real" else pairs.generated]
        for balls, radius in radii.items()
    }
    unsettled = torch.zeros_like(pairs.real, dtype=torch.bool)
    for radius in reach.values():
        unsettled |= (pairs.bound <= radius) & (distance >= radius)
    i, j = pairs.real[unsettled], pairs.generated[unsettled]
    distance[unsettled] = _measured(real.rows, generated.rows, i, j) * scale**2
    for balls, radius in reach.items():
        inside = distance < radius if balls.open else distance <= radius
        ends = (pairs.generated[inside], pairs.real[inside])
        query, centre = ends if balls.around == "real" else ends[::-1]
        found[balls].depth.add_(torch.bincount(query, minlength=len(found[balls].depth)))
        found[balls].hit[centre] = True


@_plain_float32()
def nearest_direction(
    queries: Float[Tensor, "n d"], rows: Float[Tensor, "m d"], *, tile: int = TILE
) -> Float[Tensor, " n"]:
    """1 - |cos| between each query and the row nearest in direction, or in the opposite one.

    Rows must not be zero. Float32 chooses the row and float64 measures it, so the result exceeds
    the smallest by float32 rounding (1e-6) at most.
    """
    found = torch.empty(len(queries), dtype=torch.float64, device=queries.device)
    for down in _blocks(len(queries), tile):
        left = _unit(queries[down]).float()
        best = _Smallest(len(left), 1, left, torch.float32)
        for across in _blocks(len(rows), tile):
            best.include(slice(None), -(left @ _unit(rows[across]).float().T).abs(), across.start)
        chosen = _unit(rows[best.columns[:, 0]].double())
        cosine = torch.linalg.vecdot(_unit(queries[down].double()), chosen)
        found[down] = (1 - cosine.abs()).clamp(min=0)
    return found


def _unit(rows: Tensor) -> Tensor:
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
