"""Rejection sampling: which image is kept, seeds, what a record says, mistakes."""

import dataclasses

import numpy as np
import pytest
import torch

from arimage.eval.base import FeatureBatch
from arimage.eval.protocols import PROTOCOLS
from arimage.eval.runner import evaluate
from arimage.generator import ImageGenerator
from arimage.rejection import STRIDE, candidate_seed, candidates_for

SMALL = dataclasses.replace(PROTOCOLS["digits-1k-balanced-v1"], name="small-v1", count=12)


@pytest.fixture(scope="module")
def generator():
    return ImageGenerator.from_pretrained("digits-var", dtype=torch.float32)


class Brightness:
    """Says of each image that its class is as probable as the image is bright."""

    name = "brightness"

    def __init__(self, classes=10):
        self.classes = classes

    def __call__(self, pixels, labels=None):
        bright = pixels.mean((1, 2, 3)) / 255
        rest = np.tile((1 - bright[:, None]) / (self.classes - 1), (1, self.classes))
        rest[np.arange(len(pixels)), np.arange(len(pixels)) % self.classes] = bright
        return FeatureBatch(
            extractor=self.name,
            features=bright[:, None].astype(np.float32),
            probabilities=rest.astype(np.float32),
        )


def test_the_most_probable_of_an_images_own_candidates_is_kept(generator):
    source = generator.stream_dataset(SMALL, batch_size=12, keep=1 / 3, classifier=Brightness())
    kept = source.read(0, 12).pixels
    labels, seeds = source.labels.tolist(), list(range(12))
    made = [
        generator(labels, seeds=[candidate_seed(s, j) for s in seeds], output_type="pixels").images
        for j in range(3)
    ]
    bright = np.stack([images.mean((1, 2, 3)) for images in made])
    best = bright.argmax(0)
    assert len(set(best.tolist())) > 1
    for i in range(12):
        assert np.array_equal(kept[i], made[best[i]][i])


def test_an_image_follows_from_its_seed_and_one_candidate_is_the_image(generator):
    source = generator.stream_dataset(SMALL, batch_size=4, keep=0.5, classifier="digits")
    whole = source.read(0, 12).pixels
    assert np.array_equal(source.read(4, 8).pixels, whole[4:8])
    plain = generator.stream_dataset(SMALL, batch_size=4)
    one = generator.stream_dataset(SMALL, batch_size=4, keep=1, classifier="digits")
    assert np.array_equal(one.read(0, 12).pixels, plain.read(0, 12).pixels)
    assert not np.array_equal(whole, plain.read(0, 12).pixels)
    assert len({source.identity, plain.identity, one.identity}) == 3


def test_a_score_of_chosen_images_says_so(generator):
    source = generator.stream_dataset(SMALL, keep=0.5, classifier="digits")
    report = evaluate(source, metrics=["fid", "accuracy"])
    said = report.protocol.settings["rejection"]
    assert (said["keep"], said["candidates"]) == (0.5, 2)
    assert said["classifier"].startswith("digits@")
    assert any("the best of 2 by digits@" in text for text in report.protocol.deviations)
    assert any("which also scores them" in text for text in report.protocol.warnings)
    other = generator.stream_dataset(SMALL, keep=0.5, classifier=Brightness())
    report = evaluate(other, metrics=["fid"])
    assert any("the best of 2 by brightness" in text for text in report.protocol.deviations)
    assert not any("which also scores" in text for text in report.protocol.warnings)


def test_shares_and_seeds():
    assert [candidates_for(keep) for keep in (1, 0.5, 0.33, 1 / 7, 0.05)] == [1, 2, 3, 7, 20]
    assert candidate_seed(5, 0) == 5
    assert candidate_seed(5, 2) == 5 + 2 * STRIDE
    assert 0 <= candidate_seed(2**63 - 1, 3) < 2**63


@pytest.mark.parametrize("keep", [0, -0.5, 0.4, 2])
def test_a_share_that_is_not_one_over_a_whole_number_is_told(generator, keep):
    with pytest.raises(ValueError, match=f"got keep {keep}; each image is the best of a whole"):
        generator.stream_dataset(SMALL, keep=keep, classifier="digits")


def test_what_does_not_fit_is_told(generator):
    with pytest.raises(ValueError, match=r"got keep 0\.5 and no classifier"):
        generator.stream_dataset(SMALL, keep=0.5)
    for classifier, has in (("pixels", "none"), (Brightness(7), "those of 7 classes")):
        source = generator.stream_dataset(SMALL, keep=0.5, classifier=classifier)
        with pytest.raises(ValueError, match=f"of 10 classes and .* gives {has}"):
            source.read(0, 2)
