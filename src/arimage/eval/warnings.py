"""What a reader of a score has to know: too few images, sorted classes, other settings."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from arimage.eval.base import Metric
from arimage.eval.protocols import EvaluationProtocol

FEW = 10_000  # below, a Frechet distance says more about the count than about the images


def warnings_of(
    metrics: Sequence[Metric],
    labels: np.ndarray | None,
    dimension: int,
    references: dict[str, dict[str, Any]],
) -> list[str]:
    """Sentences about scores that are easily misread."""
    count = max(metric.count for metric in metrics)
    found = []
    moments = [m.name for m in metrics if m.against == "reference" and m.needs == "moments"]
    if moments and count < FEW:
        found.append(
            f"{count} images are few: {', '.join(moments)} rises by about c / n as images get "
            "fewer, so compare with scores of as many images only"
        )
    if moments and count <= dimension:
        found.append(f"{count} images for {dimension} features: their covariance is singular")
    ordered = [metric.name for metric in metrics if metric.order_matters]
    if ordered and labels is not None and by_class(labels):
        found.append(
            f"the images come sorted by class, which lowers {', '.join(ordered)}: its parts are "
            "taken in the order of the images; mix the classes"
        )
    found += [record["remark"] for record in references.values() if "remark" in record]
    return found


def by_class(labels: np.ndarray) -> bool:
    """Whether classes come one after another."""
    changes = np.count_nonzero(np.diff(labels))
    classes = len(np.unique(labels))
    return bool(1 < classes == changes + 1 < len(labels))


def deviations(
    plan: EvaluationProtocol | None,
    count: int,
    size: tuple[int, int] | None,
    features: str,
    references: dict[str, dict[str, Any]],
) -> list[str]:
    """In what a run was not the protocol that it names."""
    if plan is None:
        return []
    found = []
    if count != plan.count:
        found.append(f"{count} images instead of {plan.count}")
    if size is not None and size != (plan.image_size, plan.image_size):
        found.append(f"images of {size[1]} x {size[0]} pixels instead of {plan.image_size}")
    network, _, front_end = features.partition("@")
    if network != plan.features or (network == "inception" and "/tf1-" not in front_end):
        found.append(f"features {features} instead of {plan.features}")
    used = references.get("reference")
    if used is not None and used["name"] != plan.reference:
        found.append(f"reference {used['name']} instead of {plan.reference}")
    return found
