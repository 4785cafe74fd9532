"""What a reader of a score has to know: too few images, sorted classes, another protocol."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from arimage.eval.base import Metric, Score
from arimage.eval.protocols import EvaluationProtocol
from arimage.eval.references import KNOWN

FEW = 10_000  # below, a distance between distributions says as much about the count
SORTED = 0.9  # of the inception score of shuffled images: less is the order's doing
# Names of the extractors that published references were made with.
PUBLISHED = {"inception": "inception@6726825d/tf1-bilinear-299"}


def few_images(names: Sequence[str], count: int) -> list[str]:
    """That there are fewer than 10,000."""
    if count >= FEW or not names:
        return []
    return [
        f"{count} images are few: {', '.join(names)} depend on how many there are, by about c / n "
        "or by noise, so compare with scores of as many images only"
    ]


def chosen_by_judge(chosen_by: str | None, judges: Sequence[str]) -> list[str]:
    """That the classifier that chose the images among candidates is one that scores them."""
    if chosen_by is None or chosen_by not in judges:
        return []
    return [
        f"the images were chosen by {chosen_by}, which also scores them: these scores are not "
        "independent of the choice"
    ]


def unread(skipped: Sequence[str]) -> list[str]:
    """That some could not be read."""
    return [f"{len(skipped)} images could not be read and are not counted"] if skipped else []


def singular(metric: Metric, dimension: int) -> list[str]:
    """That a metric of moments has no more images than features."""
    moments = metric.against == "reference" and metric.needs == "moments"
    if not moments or metric.count > dimension:
        return []
    return [
        f"{metric.count} images for {dimension} features: the covariance of {metric.name} is "
        "singular"
    ]


def sorted_by_class(scores: Sequence[Score], labels: np.ndarray | None) -> list[str]:
    """That the parts of the inception score are of few classes each, by labels or by the score."""
    score = next((s for s in scores if s.name.removeprefix("r") == "inception_score"), None)
    if score is None:
        return []
    lower = score.value < SORTED * score.details.get("shuffled", 0.0)
    if not lower and (labels is None or not by_class(labels)):
        return []
    return [
        f"the images come sorted by class, which lowers {score.name}: its parts are taken in the "
        f"order of the images (shuffled: {score.details.get('shuffled', score.value):.4g}); mix "
        "the classes"
    ]


def by_class(labels: np.ndarray) -> bool:
    """Whether classes come in runs, most of them once."""
    runs = np.count_nonzero(np.diff(labels)) + 1
    classes = len(np.unique(labels))
    return bool(1 < classes and runs <= 2 * classes < len(labels))


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
    expected = PUBLISHED.get(plan.features, plan.features)
    if features != expected and features.partition("@")[0] != expected:
        found.append(f"features {features} instead of {expected}")
    used = references.get("reference")
    names = (plan.reference, KNOWN[plan.reference].file) if plan.reference in KNOWN else ()
    if used is not None and used["name"] not in (plan.reference, *names):
        found.append(f"reference {used['name']} instead of {plan.reference}")
    return found


def other_labels(plan: EvaluationProtocol | None, labels: np.ndarray | None) -> list[str]:
    """In what the labels of images that a protocol did not make are not its own."""
    if plan is None:
        return []
    if labels is None:
        return ["labels, seeds and rounding of the images are not known"]
    if np.array_equal(np.sort(labels), np.sort(plan.class_labels())):
        return ["seeds and rounding of the images are not known"]
    return ["labels other than the protocol's; seeds and rounding of the images are not known"]
