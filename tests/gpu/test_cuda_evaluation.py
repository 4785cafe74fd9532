"""Features on a CUDA device are those of a CPU, to the digits that a score shows."""

import numpy as np
import pytest
import torch
from published import case, save_part

from arimage.eval.features.inception import InceptionFeatures
from arimage.eval.moments import Moments

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
    """Recorded random weights in the published layout."""
    folder = tmp_path_factory.mktemp("cuda_inception")
    return save_part("inception_fid", "inception", folder).rename(folder / "random.pth")


@pytest.fixture(scope="module")
def batches(weight_file):
    """What both devices say of the recorded images."""
    pixels = case("inception_fid").expected["images"].permute(0, 2, 3, 1).to(torch.uint8)
    pixels = np.ascontiguousarray(pixels.numpy())
    extractors = (InceptionFeatures(weight_file, device=device) for device in ("cuda", "cpu"))
    return [extractor(pixels, np.arange(len(pixels))) for extractor in extractors]


def test_features_are_those_of_a_cpu(batches):
    there, here = batches
    assert there.extractor == here.extractor
    size = np.abs(here.features).mean()
    assert np.abs(there.features - here.features).max() < 1e-3 * size
    np.testing.assert_allclose(there.probabilities, here.probabilities, atol=1e-4)


def test_moments_of_features_are_those_of_a_cpu(batches):
    there, here = (Moments.of(batch.features) for batch in batches)
    np.testing.assert_allclose(there.mean, here.mean, rtol=0, atol=1e-3 * np.abs(here.mean).max())
