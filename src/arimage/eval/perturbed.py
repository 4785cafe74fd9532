"""pFID: how well a tokenizer decodes tokens that a generator got slightly wrong."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from arimage.eval.base import feature_extractor
from arimage.eval.extraction import Images, read_batches
from arimage.eval.metrics.fid import FrechetDistance
from arimage.eval.pairs import (
    Originals,
    Reconstruct,
    decoded_batch,
    protocol_of,
    seen_by,
    warnings_of_pairs,
)
from arimage.eval.report import Report


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
    names = [f"alpha_{alpha:g}_delta_{delta}" for alpha, delta in grid]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"got the grid {list(grid)}; give different pairs of alpha and delta")
    functions = [perturbed(alpha, delta) for alpha, delta in grid]
    originals = Originals(feature_extractor(features))
    distances = [FrechetDistance() for _ in grid]
    digest, skipped, size = hashlib.sha256(), [], None
    for pixels, _ in read_batches(images, None, batch_size, skipped):
        size = pixels.shape[1:3]
        originals.update(pixels, None)
        for function, distance in zip(functions, distances, strict=True):
            distance.update(seen_by(originals.extractor, decoded_batch(function, pixels), None))
        digest.update(np.ascontiguousarray(pixels).data)
    reference = originals.reference(digest.hexdigest())
    each = [distance.compute(reference) for distance in distances]
    values = {name: score.value for name, score in zip(names, each, strict=True)}
    score = replace(each[0], name="pfid", value=sum(values.values()) / len(values), details=values)
    return Report(
        scores=(score,),
        protocol=replace(
            protocol_of(originals.extractor.name, score.count, digest, settings),
            source=getattr(images, "name", None),
            size=size,
            skipped=skipped,
            warnings=warnings_of_pairs(distances, score.count, skipped),
        ),
    )
