"""Every value that a public implementation was recorded to give (tests/golden/metrics)."""

import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from published import drawn, read
from scipy.special import softmax

from arimage.eval.extrapolation import at_infinity, subset_sizes
from arimage.eval.frechet import frechet
from arimage.eval.metrics.cmmd import mean_discrepancy
from arimage.eval.metrics.inception_score import divergence_score
from arimage.eval.metrics.kid import kernel_distance
from arimage.eval.metrics.mifid import memorization_distance
from arimage.eval.moments import Moments
from arimage.eval.registry import METRICS

RECORDED = {entry["name"]: entry for entry in read("metrics/expected.json")}


@pytest.fixture(scope="module")
def sets():
    """The two sets and the class probabilities that the values were recorded from."""
    record = read("metrics/draws.json")
    arrays = {
        name: drawn(a["key"], record["seed"], a["shape"], a["mean"], a["std"]).numpy()
        for name, a in record["arrays"].items()
    }
    mix = (np.eye(64, dtype=np.float32) + arrays["mix"]).astype(np.float64)
    real, fake = ((arrays[name] @ mix).astype(np.float32) for name in ("real", "fake"))
    fake[:3] = real[:3] + np.float32(0.01)
    logits = arrays["logits"]
    for name, rows in (("real", real), ("fake", fake), ("logits", logits)):
        assert zlib.crc32(rows.tobytes()) == record["crc32"][name]
    return SimpleNamespace(
        real=real,
        fake=fake,
        probabilities=softmax(logits.astype(np.float64), axis=1),
        single=softmax(logits, axis=1),
    )


def is_recorded(value, *names):
    for name in names:
        entry = RECORDED[name]
        assert value == pytest.approx(entry["value"], rel=entry["tolerance"], abs=0), name


@pytest.fixture
def score(sets, batch_of, reference_of):
    """The score of the fake set against the real one, with settings and in two batches."""

    def build(name, **settings):
        metric = METRICS[name](**settings)
        kind = metric.features or "toy"
        for part in (slice(0, 130), slice(130, 300)):
            metric.update(
                batch_of(sets.fake[part], extractor=kind, probabilities=sets.probabilities[part])
            )
        return metric.compute(reference_of(sets.real, extractor=kind) if metric.against else None)

    return build


def test_fid(score):
    names = [name for name in RECORDED if name.startswith("fid_") and name != "fid_infinity"]
    assert len(names) == 6
    is_recorded(score("fid").value, *names)


def test_fid_by_the_square_root_is_the_same(sets):
    slow = frechet(Moments.of(sets.fake), Moments.of(sets.real), method="sqrtm")
    is_recorded(slow.distance, "fid_scipy_float64")


def test_inception_score(score):
    plain, shuffled = score("inception_score"), score("inception_score", seed=2020)
    is_recorded(plain.value, "is_torch_fidelity_unshuffled_mean", "is_adm_10_splits")
    is_recorded(plain.details["std"], "is_torch_fidelity_unshuffled_std")
    is_recorded(shuffled.value, "is_torch_fidelity_shuffled_mean")
    is_recorded(shuffled.details["std"], "is_torch_fidelity_shuffled_std")
    is_recorded(score("inception_score", split_size=30).value, "is_adm_10_splits")
    is_recorded(score("inception_score", split_size=5000).value, "is_adm_one_split")


def test_kid(score, sets):
    is_recorded(score("kid").value, "mmd2_poly_full_unbiased", "mmd2_poly_full_torchmetrics")
    subsets = score("kid", subsets=20, subset_size=100)
    is_recorded(subsets.value, "kid_torch_fidelity_mean")
    is_recorded(subsets.details["subset_std"], "kid_torch_fidelity_std")


def test_kid_as_clean_fid_draws_it(sets):
    """Its subsets: the fake rows first, then the real ones, from numpy's global stream."""
    stream = np.random.RandomState(7)
    values = []
    for _ in range(10):
        fake, real = (stream.choice(300, 100, replace=False) for _ in range(2))
        values.append(kernel_distance(sets.fake[fake], sets.real[real]).value)
    is_recorded(np.mean(values), "kid_cleanfid")


@pytest.mark.parametrize("k", [3, 5])
def test_precision_recall_density_coverage(score, k):
    for name in ("precision", "recall", "density", "coverage"):
        is_recorded(score(name, k=k).value, f"prdc_k{k}_{name}")
    assert score("precision", k=4).value != score("precision", k=k).value


def test_precision_recall_of_the_others(score):
    precision, recall = score("precision").value, score("recall").value
    is_recorded(precision, "prc_torch_fidelity_k3_precision", "improved_precision_adm_k3")
    is_recorded(recall, "prc_torch_fidelity_k3_recall", "improved_recall_adm_k3")
    is_recorded(2 / (1 / precision + 1 / recall), "prc_torch_fidelity_k3_f_score")


def test_fid_infinity(sets):
    """Their stream: one array shuffled again before each of the 15 points."""
    stream, rows = np.random.RandomState(11), sets.fake.copy()
    reference, sizes, scores = Moments.of(sets.real), subset_sizes(300, 100), []
    for size in sizes:
        stream.shuffle(rows)
        scores.append(frechet(Moments.of(rows[:size]), reference).distance)
    is_recorded(at_infinity(sizes, np.array(scores)), "fid_infinity")


def test_is_infinity(sets):
    stream, rows = np.random.RandomState(12), sets.single.copy()
    sizes, scores = subset_sizes(300, 100), []
    for size in sizes:
        stream.shuffle(rows)
        scores.append(divergence_score(rows[:size]))
    is_recorded(at_infinity(sizes, np.array(scores)), "is_infinity")


def test_fd_infinity_of_dgm_eval(sets):
    stream, reference = np.random.default_rng(13), Moments.of(sets.real)
    sizes = subset_sizes(300)
    assert sizes[0] == 30
    chosen = [stream.choice(300, size, replace=False) for size in sizes]
    scores = [frechet(Moments.of(sets.fake[rows]), reference).distance for rows in chosen]
    is_recorded(at_infinity(sizes, np.array(scores)), "fd_infinity_dgm_eval")


def test_infinity_within_its_spread_of_the_recorded(score):
    """Our own shuffles: other subsets, so only the same to within their spread."""
    for name in ("fid_infinity", "is_infinity"):
        found = score(name, smallest=100)
        away = abs(found.value - RECORDED[name]["value"])
        assert away < 4 * found.details["std"] < 0.3 * found.value


def test_mifid(score, sets):
    """torchmetrics exchanges the two sets; the penalty is the same function."""
    reversed_ = memorization_distance(sets.real, sets.fake)
    is_recorded(reversed_, "mifid_memorization_distance")
    is_recorded(score("mifid").value, "mifid_default_eps")
    is_recorded(score("fid").value / (reversed_ + 1e-14), "mifid_large_eps")
    assert score("mifid").details["memorization_distance"] != pytest.approx(reversed_, rel=1e-3)


def test_cmmd(score, sets):
    is_recorded(score("cmmd").value, "cmmd_l2_normalised")
    is_recorded(mean_discrepancy(sets.fake, sets.real).value, "cmmd_raw")


def test_every_recorded_value_is_looked_at():
    text = Path(__file__).read_text()
    by_pattern = ("fid_", "prdc_k")
    missing = [n for n in RECORDED if f'"{n}"' not in text and not n.startswith(by_pattern)]
    assert not missing
