"""What a report shows beside numbers: samples, the real image nearest to each, precision and recall
for neighbourhoods of other sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from arimage.eval.base import FeatureExtractor, Reference
from arimage.eval.neighbors import Balls, ball_hits, tensor
from arimage.eval.sources import ImageSource
from arimage.shapes import Float, Int, UInt8

NEAREST = 12  # samples that are shown beside their nearest real image
NEIGHBOURS = (1, 2, 3, 4, 5, 7, 10)
CURVE_IMAGES = 2_000  # of each set, for the curve: a picture, not a score


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures for a page.

    Attributes:
        samples: the first images, (n, h, w, 3).
        labels: their classes, or None.
        nearest: the real image nearest to each of the first ``NEAREST`` by the features, or None.
        distances: Euclidean, in feature space.
        features: the extractor of distances.
        curve: (k, precision, recall) of up to ``CURVE_IMAGES`` images of each set.
        sheets: other pictures by title.
    """

    samples: UInt8[np.ndarray, "n h w 3"]
    labels: Int[np.ndarray, " n"] | None = None
    nearest: UInt8[np.ndarray, "m h2 w2 3"] | None = None
    distances: Float[np.ndarray, " m"] | None = None
    curve: tuple[tuple[int, float, float], ...] = ()
    features: str = ""
    sheets: Mapping[str, UInt8[np.ndarray, "height width 3"]] = field(default_factory=dict)

    @classmethod
    def of_sheets(cls, sheets: Mapping[str, UInt8[np.ndarray, "height width 3"]]) -> "Gallery":
        """These pictures alone."""
        return cls(np.empty((0, 1, 1, 3), np.uint8), sheets=sheets)


def make_gallery(
    source: ImageSource,
    count: int,
    extractor: FeatureExtractor,
    reference: Reference | None,
    features: Float[np.ndarray, "n d"] | None,
) -> Gallery:
    """Reads (or makes) the first ``count`` images again and looks for their nearest real ones.

    Args:
        source: the generated images.
        count: how many are shown.
        extractor: of the features in which distances are taken.
        reference: the real set, as ``extractor`` sees it.
        features: of all generated images, for the curve.
    """
    chunk = source.read(0, count)
    labels = None if source.labels is None else np.asarray(source.labels)[chunk.kept]
    nearest = distances = None
    shown = chunk.pixels[:NEAREST]
    if not len(shown):  # none of the first could be read
        return Gallery(chunk.pixels)
    if reference is not None and reference.images is not None and reference.source is not None:
        seen = extractor(shown).features
        index, distances = nearest_rows(seen, reference.features)
        nearest = np.concatenate([reference.source.read(i, i + 1).pixels for i in index.tolist()])
    curve = ()
    if features is not None and reference is not None and reference.images is not None:
        curve = precision_recall_curve(features, reference.features)
    return Gallery(chunk.pixels, labels, nearest, distances, curve, extractor.name)


def nearest_rows(
    queries: Float[np.ndarray, "m d"], rows: Float[np.ndarray, "n d"]
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Index of the row nearest to each query, and how far it is."""
    a, b = (torch.from_numpy(np.asarray(part, np.float64)) for part in (queries, rows))
    least = torch.cdist(a, b).min(dim=1)
    return least.indices.numpy(), least.values.numpy()


def precision_recall_curve(
    generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]
) -> tuple[tuple[int, float, float], ...]:
    """(k, precision, recall) for several k, on evenly spaced images of both sets."""
    parts = [
        rows[np.arange(min(len(rows), CURVE_IMAGES)) * len(rows) // min(len(rows), CURVE_IMAGES)]
        for rows in (generated, real)
    ]
    made, true = parts
    sizes = [k for k in NEIGHBOURS if k < min(len(made), len(true))]
    balls = {k: [Balls(around, k, open=False) for around in ("real", "generated")] for k in sizes}
    found = ball_hits(
        tensor(true), tensor(made), [ball for pair in balls.values() for ball in pair]
    )

    def share(ball: Balls) -> float:
        return (found[ball].depth > 0).double().mean().item()

    return tuple((k, share(real_balls), share(own)) for k, (real_balls, own) in balls.items())
