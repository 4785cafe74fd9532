"""pFID: how well a tokenizer decodes tokens that a generator got slightly wrong."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from arimage.eval.base import Score
from arimage.eval.extraction import Images
from arimage.eval.metrics.fid import FrechetDistance
from arimage.eval.report import Report
from arimage.eval.several import Reconstruct, score_each


def evaluate_perturbed(
    images: Images,
    perturbed: Callable[[float, int], Reconstruct],
    *,
    grid: Sequence[tuple[float, int]],
    features: Any = "inception",
    batch_size: int = 64,
    settings: dict[str, Any] | None = None,
) -> Report:
    """``pfid``: the mean rFID of reconstructions whose tokens were perturbed, over a grid.

    RobustTok (arXiv 2503.08354): how well a tokenizer decodes what a generator gets slightly wrong.
    The released code does not say over which grid the published numbers are a mean, so there is
    none by default: compare values of one grid, which the details repeat.

    Args:
        images: as ``evaluate_reconstructions``; read once for the whole grid.
        perturbed: (alpha, delta) to a function like ``reconstruct``: what
            ``arimage.tokenizers.perturb.perturbed_reconstruct`` makes of a tokenizer.
        grid: pairs of alpha (share of tokens replaced) and delta (nearest codes drawn from).
        features: as ``evaluate_reconstructions``.
        batch_size: as ``evaluate_reconstructions``.
        settings: as ``evaluate_reconstructions``.

    Raises:
        ValueError: an empty grid or one with a point twice, and as ``evaluate_reconstructions``.
    """
    names = grid_names(grid)
    functions = [perturbed(alpha, delta) for alpha, delta in grid]
    scores, protocol = score_each(
        images,
        lambda pixels: (function(pixels) for function in functions),
        [[FrechetDistance()] for _ in grid],
        features=features,
        batch_size=batch_size,
        settings=settings,
    )
    return Report(scores=(pfid(names, [score for (score,) in scores]),), protocol=protocol)


def grid_names(grid: Sequence[tuple[float, int]]) -> list[str]:
    """What each point is called in the details; ValueError where there is none, or one twice."""
    names = [f"alpha_{alpha:g}_delta_{delta}" for alpha, delta in grid]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"got the grid {list(grid)}; give different pairs of alpha and delta")
    return names


def pfid(names: Sequence[str], scores: Sequence[Score]) -> Score:
    """The mean of the rFIDs of a grid's points, which its details repeat by name."""
    values = {name: score.value for name, score in zip(names, scores, strict=True)}
    mean = sum(values.values()) / len(values)
    return replace(scores[0], name="pfid", value=mean, details=values)
