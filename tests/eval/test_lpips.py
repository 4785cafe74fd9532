"""LPIPS against its reference's recorded distances and against its definition, tap by tap."""

import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published import drawn

from arimage.eval.features import vgg as module
from arimage.eval.features.vgg import PerceptualDistance, load_lpips, lpips_from
from arimage.eval.metrics.lpips import LPIPS
from arimage.eval.pairs import evaluate_reconstructions
from arimage.images import from_pixels

GOLDEN = Path(__file__).parents[1] / "golden" / "lpips" / "expected.json"


def published_weights():
    """(VGG16, lin) under their published names, the classifier's two smallest tensors with them."""
    places = {0: 3, 2: 64, 5: 64, 7: 128, 10: 128, 12: 256, 14: 256, 17: 256}
    places |= dict.fromkeys((19, 21, 24, 26, 28), 512)
    widths = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
    vgg = {"classifier.6.bias": torch.zeros(1000), "classifier.3.bias": torch.zeros(4096)}
    for place, channels in places.items():
        shape = (widths.get(place, 512), channels, 3, 3)
        scale = (2 / (channels * 9)) ** 0.5
        vgg[f"features.{place}.weight"] = drawn(f"features.{place}.weight", 1, shape, 0, scale)
        vgg[f"features.{place}.bias"] = drawn(f"features.{place}.bias", 1, shape[:1], 0, 0.1)
    lin = {
        f"lin{i}.model.1.weight": drawn(f"lin{i}.model.1.weight", 1, (1, c, 1, 1), 0, 1).abs()
        for i, c in enumerate((64, 128, 256, 512, 512))
    }
    return vgg, lin


@pytest.fixture(scope="module")
def weights():
    return published_weights()


@pytest.fixture(scope="module")
def network(weights):
    return lpips_from(*weights)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(11)
    a = rng.integers(0, 256, (2, 40, 36, 3), dtype=np.uint8)
    noise = rng.normal(0, (10, 60), (40, 36, 3, 2)).transpose(3, 0, 1, 2)
    return a, np.clip(a + noise, 0, 255).astype(np.uint8)


def test_it_is_the_reference(network, pairs):
    expected = json.loads(GOLDEN.read_text())
    assert zlib.crc32(pairs[0].tobytes() + pairs[1].tobytes()) == expected["crc32"]
    metric = LPIPS(network)
    metric.uncertain = True
    np.testing.assert_allclose(metric.values(*pairs), expected["distances"], rtol=1e-5)
    metric.update(*pairs)
    score = metric.compute()
    assert score.value == pytest.approx(np.mean(expected["distances"]), rel=1e-5)
    assert score.standard_error == pytest.approx(abs(np.diff(expected["distances"])[0]) / 2)
    assert score.features == metric.features
    assert score.features.startswith("vgg16@")


def slow_lpips(vgg, lin, x, y):
    """Zhang et al. 2018, eq. 1, pixel by pixel, from images (3, h, w) in [0, 1]."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    sides = [(image - mean[:, None, None]) / std[:, None, None] for image in (x, y)]
    total = 0.0
    for block, places in enumerate([(0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)]):
        if block:
            sides = [F.max_pool2d(side, 2) for side in sides]
        for place in places:
            kernel, bias = vgg[f"features.{place}.weight"], vgg[f"features.{place}.bias"]
            sides = [F.conv2d(side, kernel, bias, padding=1).clamp_min(0) for side in sides]
        weights = lin[f"lin{block}.model.1.weight"].flatten()
        _, height, width = sides[0].shape
        for row in range(height):
            for column in range(width):
                u, v = (side[:, row, column] for side in sides)
                gap = u / (u.norm() + 1e-10) - v / (v.norm() + 1e-10)
                total += float(weights @ gap**2) / (height * width)
    return total


def test_the_definition(weights, network):
    images = torch.rand(2, 3, 24, 20)
    distance = network(images[:1] * 2 - 1, images[1:] * 2 - 1).item()
    expected = slow_lpips(*weights, *images)
    assert distance == pytest.approx(expected, rel=1e-4)
    unscaled = slow_lpips(*weights, *(images * 2 - 1))  # the negative twin: another input range
    assert abs(distance - unscaled) > 1e-3 * distance


def test_equal_images_are_0_apart_and_sides_alike(network, pairs):
    a, b = pairs
    metric = LPIPS(network)
    assert (metric.values(a, a) == 0).all()
    np.testing.assert_allclose(metric.values(a, b), metric.values(b, a), rtol=1e-6)
    assert metric.values(a, b)[1] > 5 * metric.values(a, b)[0]  # more noise is farther


def test_values_do_not_depend_on_the_batch(network, pairs):
    whole = LPIPS(network).values(*pairs)
    alone = [LPIPS(network).values(pairs[0][i : i + 1], pairs[1][i : i + 1])[0] for i in (0, 1)]
    np.testing.assert_array_equal(whole, alone)
    together = network(*map(from_pixels, pairs)).detach()
    np.testing.assert_allclose(together, whole, rtol=1e-5)


def test_it_is_a_loss(network):
    target, image = torch.rand(1, 3, 16, 16) * 2 - 1, torch.zeros(1, 3, 16, 16, requires_grad=True)
    before = network(image, target).sum()
    (gradient,) = torch.autograd.grad(before, image)
    assert gradient.isfinite().all()
    assert network((image - 0.05 * gradient / gradient.norm()).detach(), target).sum() < before
    assert not any(parameter.requires_grad for parameter in network.parameters())
    dead = PerceptualDistance()  # all maps 0: nothing to normalise
    for parameter in dead.parameters():
        torch.nn.init.zeros_(parameter)
    (gradient,) = torch.autograd.grad(dead(image, target).sum(), image)
    assert (gradient == 0).all()


def test_small_images_are_refused(network):
    with pytest.raises(ValueError, match="got images of 15 x 16 pixels; VGG16 needs at least 16"):
        network(torch.zeros(1, 3, 15, 16), torch.zeros(1, 3, 15, 16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vgg, lin: vgg.pop("features.14.bias"), "features.14.bias"),
        (lambda vgg, lin: vgg.update({"features.30.weight": torch.zeros(1)}), "features.30.weight"),
        (lambda vgg, lin: lin.pop("lin3.model.1.weight"), "lin3.model.1.weight"),
        (lambda vgg, lin: lin.update({"lin5.model.1.weight": torch.zeros(1)}), "lin5.model"),
        (lambda vgg, lin: lin.update({"lin0.model.1.weight": torch.zeros(1, 9, 1, 1)}), "lin0"),
    ],
)
def test_other_weights_are_refused(weights, change, message):
    vgg, lin = (dict(part) for part in weights)
    change(vgg, lin)
    with pytest.raises(ValueError, match=message):
        lpips_from(vgg, lin)


@pytest.fixture
def files(weights, tmp_path, monkeypatch):
    """Both files as published, in an empty home of the hub; the hashes are those of the files."""
    from arimage.eval.features.weights import cache_folder, file_sha256

    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    folder = cache_folder()
    folder.mkdir(parents=True)
    found = []
    for record, part in zip(("VGG_FILE", "LPIPS_FILE"), weights, strict=True):
        path = tmp_path / getattr(module, record).files[0]
        torch.save(part, path, _use_new_zipfile_serialization=False)  # as both were saved
        changed = dataclasses.replace(getattr(module, record), sha256=file_sha256(path))
        monkeypatch.setattr(module, record, changed)
        found.append(path)
    return folder, *found


def test_files_are_found_by_path_or_in_the_cache(files, network):
    folder, vgg, lin = files
    assert load_lpips(vgg=vgg, lin=lin).digest() == network.digest()
    with pytest.raises(FileNotFoundError, match=r"found no weights of LPIPS v0.1 on VGG16, which"):
        load_lpips(vgg=vgg)
    vgg.rename(folder / vgg.name)
    lin.rename(folder / "vgg.pth")
    assert load_lpips().digest() == LPIPS().network.digest() == network.digest()
    (folder / "vgg.pth").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"vgg.pth has the sha256 .* damaged or another file"):
        load_lpips()


def test_missing_weights_are_told_before_the_first_image(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))

    def never(pixels):
        raise AssertionError("reconstructed before the weights were looked for")

    message = r"found no weights of VGG16, which LPIPS needs: get vgg16-397923af.pth \(torchvision"
    with pytest.raises(FileNotFoundError, match=message):
        evaluate_reconstructions(np.zeros((1, 16, 16, 3), np.uint8), never, metrics=["lpips"])
