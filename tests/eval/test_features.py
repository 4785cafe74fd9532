"""The feature extractors and the digit classifier behind one of them."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from arimage.demo.digits import load_digits
from arimage.eval.base import FeatureBatch, Reference, feature_extractor
from arimage.eval.features.classifier import PRESET, DigitClassifier, DigitFeatures
from arimage.eval.features.pixels import PixelFeatures
from arimage.eval.metrics.precision_recall import Precision
from arimage.images import IMAGE_SUFFIXES, write_png
from arimage.pretrained import chosen_device
from arimage.training.classifier import train_classifier

shipped = pytest.mark.skipif(
    not (files("arimage") / PRESET).is_file(), reason="no digit classifier in this checkout"
)


def test_pixels_are_area_means():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    batch = PixelFeatures()(pixels, np.array([4, 5]))
    expected = pixels.reshape(2, 8, 2, 8, 3, 3).mean(axis=(2, 4, 5)).reshape(2, 64) / 255
    np.testing.assert_allclose(batch.features, expected, rtol=1e-5)
    assert batch.features.dtype == np.float32
    assert batch.probabilities is None
    assert batch.labels.tolist() == [4, 5]


@pytest.mark.parametrize("size", [(32, 32), (256, 256), (9, 30), (5, 5)])
def test_digits_take_any_size(untrained, size):
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    batch = untrained(pixels)
    assert batch.features.shape == (3, 64)
    assert batch.features.min() >= 0
    np.testing.assert_allclose(batch.probabilities.sum(1), 1, rtol=1e-5)
    alone = untrained(pixels[1:2])
    np.testing.assert_allclose(alone.features, batch.features[1:2], atol=1e-5)


def test_save_and_load(untrained, tmp_path):
    path = untrained.classifier.save(tmp_path / "new" / "digits.safetensors")
    again = DigitFeatures(path)
    assert again.name == untrained.name
    pixels = load_digits()[0].pixels[:4]
    np.testing.assert_array_equal(again(pixels).features, untrained(pixels).features)
    assert path.stat().st_size < 300_000
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_other_weights_have_another_name(untrained):
    assert DigitFeatures(DigitClassifier()).name != untrained.name


def test_load_errors(untrained, tmp_path):
    path = untrained.classifier.save(tmp_path / "digits.safetensors")
    weights = load_file(path)
    with pytest.raises(FileNotFoundError, match="train one with"):
        DigitClassifier.load(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="the file is truncated or not safetensors"):
        DigitClassifier.load(broken)
    save_file({**weights, "head.bias": torch.zeros(11)}, broken)
    with pytest.raises(ValueError, match=r"'head.bias' has shape \(11,\), expected \(10,\)"):
        DigitClassifier.load(broken)
    save_file({k: v for k, v in weights.items() if k != "head.bias"}, broken)
    with pytest.raises(ValueError, match=r"'head.bias' is missing"):
        DigitClassifier.load(broken)
    save_file({**weights, "tail": torch.zeros(1)}, broken)
    with pytest.raises(ValueError, match="'tail' is not part of it"):
        DigitClassifier.load(broken)


def test_any_function_is_an_extractor():
    def mean_colour(pixels):
        return pixels.mean(axis=(1, 2))

    extractor = feature_extractor(mean_colour)
    assert extractor.name == "mean_colour"
    assert extractor(np.zeros((2, 4, 4, 3), np.uint8)).features.shape == (2, 3)
    integers = feature_extractor(lambda pixels: pixels[:, 0, 0])
    assert integers(np.zeros((2, 4, 4, 3), np.uint8)).features.dtype == np.float32
    tensors = feature_extractor(lambda pixels: torch.zeros(len(pixels), 5))
    assert tensors(np.zeros((2, 4, 4, 3), np.uint8)).features.shape == (2, 5)
    assert feature_extractor(extractor) is extractor


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda pixels: np.zeros(len(pixels)), r"gave float64 of shape \(2,\) for 2 images"),
        (lambda pixels: np.zeros((1, 3)), r"expected numbers of shape \(2, d\)"),
        (lambda pixels: np.full((2, 3), np.nan), "hold NaN or infinity"),
    ],
)
def test_function_errors(function, message):
    with pytest.raises(ValueError, match=message):
        feature_extractor(function)(np.zeros((2, 4, 4, 3), np.uint8))


def test_extractor_errors():
    with pytest.raises(
        KeyError, match=r"unknown feature extractor 'pixel'\. Did you mean 'pixels'"
    ):
        feature_extractor("pixel")
    with pytest.raises(TypeError, match="got features of type int"):
        feature_extractor(3)
    batch = FeatureBatch(extractor="toy", features=np.zeros((3, 1)))
    object.__setattr__(batch, "labels", np.zeros(2, int))  # past the shape types, off in production
    with pytest.raises(ValueError, match="gave 2 labels for 3 images"):
        batch.__post_init__()


def test_reference_is_the_same_from_array_batches_and_folder(noise_pixels, tmp_path):
    whole = Reference.from_pixels("real", noise_pixels, "pixels", np.arange(60))
    parts = Reference.from_pixels(
        "real", iter([noise_pixels[:7], noise_pixels[7:]]), "pixels", batch_size=13
    )
    for i, image in enumerate(noise_pixels):
        write_png(tmp_path / f"{i:03d}{IMAGE_SUFFIXES[0]}", image)
    folder = Reference.from_pixels("real", tmp_path, PixelFeatures())
    assert whole.sha256 == parts.sha256 == folder.sha256
    assert whole.sha256 != Reference.from_pixels("real", noise_pixels[1:], "pixels").sha256
    np.testing.assert_array_equal(whole.features, parts.features)
    np.testing.assert_array_equal(whole.features, folder.features)
    assert whole.images.labels.tolist() == list(range(60))
    assert whole.moments.count == 60


def test_training_learns_and_repeats():
    train, held_out = load_digits()
    before = torch.random.get_rng_state()
    model = train_classifier(train.pixels, train.labels, steps=100, seed=0, progress=False)
    again = train_classifier(train.pixels, train.labels, steps=100, seed=0, progress=False)
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.digest() == again.digest()
    assert not model.training
    found = DigitFeatures(model)(held_out.pixels).probabilities.argmax(1)
    assert (found == held_out.labels).mean() > 0.9


@pytest.mark.parametrize(
    ("count", "labels", "steps", "message"),
    [
        (3, [0, 1], 5, "got 2 labels for 3 images"),
        (2, [0, 10], 5, "got labels from 0 to 10"),
        (2, [0, 1], 0, "got 0 steps"),
        (0, [], 5, "got 0 labels for 0 images"),
    ],
)
def test_training_errors(count, labels, steps, message):
    pixels = np.zeros((count, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        train_classifier(pixels, np.array(labels, np.int64), steps=steps, seed=0, progress=False)


@shipped
def test_shipped_classifier():
    _, held_out = load_digits()
    extractor = feature_extractor("digits")
    found = extractor(held_out.pixels).probabilities.argmax(1)
    assert (found == held_out.labels).mean() >= 0.98
    assert (files("arimage") / PRESET).stat().st_size < 300_000


def test_networks_run_on_torch_s_default_device():
    assert chosen_device(None) == torch.device("cpu")
    with torch.device("meta"):
        assert chosen_device(None) == torch.device("meta")
        assert chosen_device("cpu") == torch.device("cpu")
        assert Precision().device == "meta"
    with pytest.raises(ValueError, match="cannot use the device 'cuda:77'"):
        chosen_device("cuda:77")
