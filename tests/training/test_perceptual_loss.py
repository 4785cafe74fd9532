"""The perceptual loss on tiny networks, and what is said where weights are missing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import sentence
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
)

from arimage.eval.features.vgg import PerceptualDistance
from arimage.training.losses.equivariance import EquivarianceLoss
from arimage.training.losses.frozen import Frozen
from arimage.training.losses.perceptual import PerceptualLoss

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def classifier(features):
    if features == "convnext":
        config = ConvNextConfig(hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1], num_labels=7)
        return ConvNextForImageClassification(config)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_labels": 7}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, dinov2_folder):
    found = {"dinov2": dinov2_folder}
    for features in ("convnext", "resnet"):
        torch.manual_seed(2)
        model = classifier(features).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path_factory.mktemp(features)
        model.save_pretrained(folder)
        found[features] = str(folder)
    return found


@pytest.fixture
def random_lpips(monkeypatch):
    torch.manual_seed(3)
    network = PerceptualDistance().requires_grad_(False)
    for layer in network.lin:
        layer.weight.abs_()
    path = "arimage.training.losses.perceptual.load_lpips"
    monkeypatch.setattr(path, lambda vgg, lin: copy.deepcopy(network))
    return network


def prepared(images):
    """ImageNet's mean and deviation, of [0, 1]."""
    mean, std = (torch.tensor(x)[:, None, None] for x in IMAGENET)
    resized = F.interpolate(images, (224, 224), mode="bilinear", antialias=True)
    return ((resized + 1) / 2 - mean) / std


@pytest.mark.parametrize("features", ["convnext", "resnet"])
def test_logits(pass_of, folders, features):
    seen = pass_of()
    network = classifier(features).from_pretrained(folders[features]).eval()
    with torch.no_grad():
        x, y = (network(prepared(images)).logits for images in (seen.output, seen.images))
    loss = PerceptualLoss(features=features, model=folders[features])
    assert loss(seen).item() == pytest.approx(F.mse_loss(x, y).item(), rel=1e-4)


def test_patch_tokens(pass_of, folders):
    seen = pass_of()
    network = Dinov2Model.from_pretrained(folders["dinov2"]).eval()
    with torch.no_grad():
        states = [
            network(prepared(images), output_hidden_states=True).hidden_states
            for images in (seen.output, seen.images)
        ]
    cosines = [
        F.cosine_similarity(states[0][k][:, 1:], states[1][k][:, 1:], dim=2) for k in (1, 2, 3, 4)
    ]
    expected = (2 - 2 * torch.stack(cosines)).mean().item()
    value = PerceptualLoss(features="dinov2", model=folders["dinov2"])(seen).item()
    assert value == pytest.approx(expected, rel=1e-4)


def test_lpips(pass_of, random_lpips):
    seen = pass_of()
    expected = random_lpips(seen.output, seen.images).mean().item()
    assert PerceptualLoss()(seen).item() == pytest.approx(expected, rel=1e-6)
    plain, factor = EquivarianceLoss(), 0.7
    monitored = EquivarianceLoss(perceptual=factor)
    with pytest.raises(ValueError, match="VGG16 needs at least"):  # 16 px, made smaller
        monitored(seen)
    assert plain(seen) > 0


@pytest.mark.parametrize("features", ["lpips", "convnext", "resnet", "dinov2"])
def test_the_network_stays_out_of_the_way(pass_of, folders, random_lpips, features):
    loss = PerceptualLoss(features=features, model=folders.get(features)).train()
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    seen = pass_of()
    exact = loss(seen)
    exact.backward()
    gradient = next(seen.tokenizer.decoder.parameters()).grad
    assert gradient.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(seen)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    loss.to(torch.bfloat16)
    assert loss(seen).item() == pytest.approx(exact.item(), rel=1e-5)


def test_a_frozen_network_is_moved_and_stays_in_eval_mode():
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.9))
    outer = torch.nn.ModuleList([Frozen(inner)]).train()
    assert not inner.training
    assert not any(p.requires_grad for p in inner.parameters())
    outer.to("meta")
    assert inner[0].weight.device.type == "meta"
    assert copy.deepcopy(outer)[0].network is not inner


def test_missing_weights_get_one_sentence_with_the_choice(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError) as lpips:
        PerceptualLoss()
    assert "get vgg16-397923af.pth (torchvision" in str(lpips.value)
    assert f"put it into {tmp_path / 'arimage' / 'weights'}" in str(lpips.value)
    assert str(lpips.value).endswith("or train without it by --perceptual none")
    for features in ("convnext", "dinov2"):
        with pytest.raises(FileNotFoundError) as error:
            PerceptualLoss(features=features)
        text = sentence(error)
        assert f"cannot load facebook/{features}" in text
        assert "config.json and the weights (model.safetensors)" in text
        assert text.endswith("or train without it by --perceptual none")
    with pytest.raises(FileNotFoundError, match="or set perceptual of the loss 'equivariance' to"):
        EquivarianceLoss(perceptual=1.0)


def test_settings_of_other_features_are_refused():
    with pytest.raises(KeyError, match=r"unknown features 'vgg'"):
        PerceptualLoss(features="vgg")
    with pytest.raises(ValueError, match="got model for the features 'lpips'"):
        PerceptualLoss(model="somewhere")
    with pytest.raises(ValueError, match="got vgg for the features 'dinov2'"):
        PerceptualLoss(features="dinov2", vgg="file.pth")
