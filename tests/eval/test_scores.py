"""Inception score, precision and recall, accuracy, copies: goldens, directions, corner cases."""

from itertools import pairwise

import numpy as np
import pytest

from arimage.demo.digits import load_digits
from arimage.eval.metrics.accuracy import Accuracy
from arimage.eval.metrics.copies import Copies
from arimage.eval.metrics.inception_score import InceptionScore, divergence_score
from arimage.eval.metrics.precision_recall import Precision, Recall
from arimage.eval.runner import evaluate

# torch-fidelity 0.4.0 without its shuffle, 10 splits; with its shuffle 3.2390597526863387
INCEPTION_GOLDEN = 3.3138598137410034
INCEPTION_STD = 0.4424493046983552


def inception(probabilities, batch_of, **settings):
    metric = InceptionScore(**settings)
    metric.update(batch_of(np.zeros((len(probabilities), 1)), probabilities=probabilities))
    return metric.compute()


def test_inception_golden(golden, batch_of):
    score = inception(golden.probabilities, batch_of)
    assert score.value == pytest.approx(INCEPTION_GOLDEN, abs=1e-9)
    assert score.details["std"] == pytest.approx(INCEPTION_STD, abs=1e-9)
    one = inception(golden.probabilities, batch_of, splits=1)
    assert one.value == pytest.approx(3.6106763947342997, abs=1e-9)


def test_inception_golden_tells_order_splits_and_ddof(golden, batch_of):
    order = np.random.RandomState(2020).permutation(200)
    shuffled = inception(golden.probabilities[order], batch_of)
    assert shuffled.value == pytest.approx(3.2390597526863387, abs=1e-9)
    assert shuffled.details["std"] == pytest.approx(0.28812833769101487, abs=1e-9)
    assert abs(shuffled.value - INCEPTION_GOLDEN) > 0.05
    assert abs(inception(golden.probabilities, batch_of, splits=9).value - INCEPTION_GOLDEN) > 0.01
    assert abs(INCEPTION_STD * (10 / 9) ** 0.5 - INCEPTION_STD) > 0.01  # ddof 1


def test_inception_in_blocks_of_a_size(batch_of):
    """Blocks of 5,000 of 12,345 images are three, the last one short."""
    p = np.random.default_rng(9).dirichlet(np.ones(3), 12_345)
    parts = [divergence_score(p[a : a + 5000]) for a in (0, 5000, 10_000)]
    score = inception(p, batch_of, split_size=5000)
    assert score.value == pytest.approx(np.mean(parts), rel=1e-12)
    assert score.details["splits"] == 3


def test_a_set_sorted_by_class_scores_low(batch_of):
    p = 0.99 * np.repeat(np.eye(10), 10, axis=0) + 0.001
    mixed = np.random.default_rng(4).permutation(100)
    assert inception(p[mixed], batch_of).value > 1.5 * inception(p, batch_of).value


def test_inception_bounds():
    assert divergence_score(np.full((12, 4), 0.25)) == pytest.approx(1)
    assert divergence_score(np.eye(4)[np.arange(12) % 4]) == pytest.approx(4)  # zeros, no NaN
    assert divergence_score(np.eye(4)[np.zeros(12, int)]) == pytest.approx(1)


def test_inception_splits_cover_every_image(batch_of):
    """23 images in 10 splits: bounds i * 23 // 10; the short tail is not dropped."""
    p = np.random.default_rng(8).dirichlet(np.ones(3), 23)
    bounds = [0, 2, 4, 6, 9, 11, 13, 16, 18, 20, 23]
    parts = [divergence_score(p[a:b]) for a, b in pairwise(bounds)]
    assert inception(p, batch_of).value == pytest.approx(np.mean(parts), rel=1e-12)


def test_inception_errors(batch_of):
    with pytest.raises(ValueError, match="got 9 images for 10 splits"):
        inception(np.full((9, 2), 0.5), batch_of)
    with pytest.raises(ValueError, match="needs class probabilities and 'toy' gives none"):
        InceptionScore().update(batch_of(np.zeros((2, 3))))
    with pytest.raises(ValueError, match="got 0 splits"):
        InceptionScore(0)
    with pytest.raises(ValueError, match="do not sum to 1"):
        batch_of(np.zeros((2, 3)), probabilities=np.ones((2, 5)))


def precision_recall(generated, real, batch_of, reference_of, k=3):
    metrics = (Precision(k), Recall(k))
    for metric in metrics:
        metric.update(batch_of(generated))
    return tuple(metric.compute(reference_of(real)).value for metric in metrics)


def brute_force(queries, manifold, k, inside=np.less_equal):
    """The definition, distance by distance."""
    own = np.sqrt(((manifold[:, None] - manifold) ** 2).sum(-1))
    radii = np.sort(own, axis=1)[:, k]
    cross = np.sqrt(((queries[:, None] - manifold) ** 2).sum(-1))
    return inside(cross, radii).any(1).mean()


def test_precision_recall_goldens(golden, batch_of, reference_of):
    """Real A, generated B: torch-fidelity 0.4.0; reference A, generated C: numpy brute force."""
    same_size = precision_recall(golden.b, golden.a, batch_of, reference_of)
    assert same_size == pytest.approx((226 / 300, 245 / 300), abs=1e-12)
    larger = precision_recall(golden.c, golden.a, batch_of, reference_of)
    assert larger == pytest.approx((874 / 900, 124 / 300), abs=1e-12)
    assert larger[0] == brute_force(golden.c, golden.a, 3)


def test_precision_recall_goldens_tell_k_and_direction(golden, batch_of, reference_of):
    right = precision_recall(golden.b, golden.a, batch_of, reference_of)
    assert precision_recall(golden.a, golden.b, batch_of, reference_of) == right[::-1] != right
    for k in (2, 4):  # counting the image itself as a neighbour, or one too many
        assert precision_recall(golden.b, golden.a, batch_of, reference_of, k) != right
    five = precision_recall(golden.b, golden.a, batch_of, reference_of, 5)
    assert five == pytest.approx((0.8466666666666667, 0.89), abs=1e-12)  # prdc 0.2, k = 5


def test_a_tight_cluster_is_precise_and_recalls_little(golden, batch_of, reference_of):
    precise, recalled = precision_recall(0.05 * golden.b, golden.a, batch_of, reference_of)
    assert precise > 0.95
    assert recalled < 0.05


@pytest.mark.parametrize("copies", [1, 5])
def test_a_set_is_inside_its_own_manifold(golden, batch_of, reference_of, copies):
    """Also with duplicates, whose radii are 0: ``<=`` keeps them, ``<`` would not."""
    rows = np.repeat(golden.a[:40].astype(np.float32), copies, axis=0) + np.float32(100)
    assert precision_recall(rows, rows, batch_of, reference_of) == (1, 1)
    strict = brute_force(rows.astype(np.float64), rows.astype(np.float64), 3, np.less)
    assert strict == (0 if copies == 5 else 1)


def test_precision_recall_errors(golden, batch_of, reference_of):
    with pytest.raises(ValueError, match="got 3 images; the 3-th nearest neighbour needs more"):
        precision_recall(golden.a, golden.b[:3], batch_of, reference_of)
    with pytest.raises(ValueError, match="got k 0"):
        Precision(0)


def test_accuracy_counts_per_class(batch_of):
    metric = Accuracy()
    p = np.eye(3)[[0, 0, 1, 2]]
    metric.update(batch_of(np.zeros((4, 1)), probabilities=p, labels=np.array([0, 1, 1, 0])))
    score = metric.compute()
    assert score.value == 0.5
    assert score.details == {"class_0": 0.5, "class_1": 0.5}


def test_accuracy_errors(batch_of):
    p = np.eye(3)
    with pytest.raises(ValueError, match="pass labels="):
        Accuracy().update(batch_of(np.zeros((3, 1)), probabilities=p))
    with pytest.raises(ValueError, match="'toy' gives none"):
        Accuracy().update(batch_of(np.zeros((3, 1)), labels=np.zeros(3, int)))
    metric = Accuracy()
    with pytest.raises(ValueError, match=r"got labels from 0 to 3; 'toy' knows 0 to 2"):
        metric.update(batch_of(np.zeros((3, 1)), probabilities=p, labels=np.array([0, 1, 3])))
    assert metric.count == 0


def test_copies_of_the_training_set():
    """The training set copies itself; held-out digits do not, noise still less."""
    train, held_out = load_digits()
    report = evaluate(train.pixels, metrics=["copies"], training=train.pixels, features="pixels")
    assert report["copies"].value == 1
    fresh = evaluate(held_out.pixels, metrics=["copies"], training=train.pixels, features="pixels")
    assert fresh["copies"].value < 0.03
    assert fresh["copies"].details["threshold"] > 0
    half = np.concatenate([train.pixels[:60], 255 - train.pixels[:60]])
    mixed = evaluate(half, metrics=["copies"], training=train.pixels, features="pixels")
    assert mixed["copies"].value == 0.5


def test_copies_by_hand(batch_of, reference_of):
    """Neighbour distances of 0, 1, 3, 7, 15 are 1, 1, 2, 4, 8; their 1st percentile is 1."""
    metric = Copies()
    points = np.array([[0.5], [8.5], [-1.0], [16.5]])
    metric.update(batch_of(points, extractor="pixels"))
    training = np.array([[0.0], [1.0], [3.0], [7.0], [15.0]])
    score = metric.compute(reference_of(training, extractor="pixels"))
    assert score.value == 0.25  # 0.5 away is a copy, exactly 1 away (the threshold) is not
    assert score.details["threshold"] == 1
    assert score.details["median_distance"] == 1.25
    assert score.details["training_median_distance"] == 2
    with pytest.raises(ValueError, match="got a training set of 1 image"):
        metric.compute(reference_of(training[:1], extractor="pixels"))
    with pytest.raises(ValueError, match="are duplicates of each other"):
        metric.compute(reference_of(np.repeat(training, 2, axis=0), extractor="pixels"))
