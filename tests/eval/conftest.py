"""Small sets of features and images, the same in every test of this folder."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from arimage.eval.base import FeatureBatch, Reference
from arimage.eval.features.classifier import DigitClassifier, DigitFeatures
from arimage.eval.moments import Moments


@pytest.fixture(scope="session")
def golden():
    """The draws behind every golden number here: one generator, four arrays, in this order."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((300, 16))
    b = rng.standard_normal((300, 16)) + 0.1
    logits = 3 * rng.standard_normal((200, 10))
    c = 0.8 * rng.standard_normal((900, 16))
    assert a[0, 0] == 0.1257302210933933
    assert b[0, 0] == 0.888291121573126
    assert logits[0, 0] == 1.644116425569805
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return SimpleNamespace(a=a, b=b, c=c, probabilities=exps / exps.sum(axis=1, keepdims=True))


@pytest.fixture(scope="session")
def batch_of():
    """Features as a FeatureBatch of the extractor "toy"."""

    def build(features, *, extractor="toy", probabilities=None, labels=None):
        return FeatureBatch(
            extractor=extractor, features=features, probabilities=probabilities, labels=labels
        )

    return build


@pytest.fixture(scope="session")
def reference_of():
    """Features as a Reference of the extractor "toy", labelled 0 to 9 in turn."""

    def build(features, *, extractor="toy", images=True):
        labels = np.arange(len(features)) % 10
        kept = FeatureBatch(extractor=extractor, features=features, labels=labels)
        return Reference(
            name="real",
            extractor=extractor,
            moments=Moments.of(features),
            images=kept if images else None,
            sha256="0" * 64,
            count=len(features),
        )

    return build


@pytest.fixture(scope="session")
def noise_pixels():
    """60 images of 12 x 10 noise."""
    return np.random.default_rng(1).integers(0, 256, (60, 12, 10, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def untrained():
    """The digit extractor with random weights: every contract holds without training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DigitFeatures(DigitClassifier())
