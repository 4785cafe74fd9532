"""Critics: their shapes and formulas, batch statistics, autocast, weights that are missing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import sentence
from torch import nn
from transformers import ViTConfig, ViTModel

from arimage.training.losses.batch_norm import SharedBatchNorm
from arimage.training.losses.frozen_features import FrozenFeatures
from arimage.training.losses.patchgan import PatchGAN
from arimage.training.losses.patchgan_blur import Blur, BlurPatchGAN


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A ViT of 16 px patches for 224 px, without the pooling layer, as DINO's are saved."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3}
    config = ViTConfig(**sizes, intermediate_size=48, patch_size=16, image_size=224)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = ViTModel(config, add_pooling_layer=False).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("dino")
    model.save_pretrained(folder)
    return model, str(folder)


def critics(dino):
    return {
        "patchgan": PatchGAN(layers=1, channels=4),
        "patchgan_blur": BlurPatchGAN(layers=2, channels=32),
        "frozen_features": FrozenFeatures(model=dino[1], kernel=3),
    }


@pytest.mark.parametrize("name", ["patchgan", "patchgan_blur", "frozen_features"])
def test_gradients_reach_images_and_weights_also_under_autocast(dino, name):
    critic, images = critics(dino)[name], torch.randn(2, 3, 16, 16, requires_grad=True)
    twin = copy.deepcopy(critic)
    exact = critic(images)
    with torch.autocast("cpu", torch.bfloat16):
        rough = twin(images)
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1 * exact.std().item())
    rough.float().mean().backward()
    assert images.grad.isfinite().all()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in twin.parameters())


def written_out_patchgan(critic, x):
    """pix2pix' PatchGAN from its tensors, layer after layer."""
    state = critic.state_dict()
    x = F.leaky_relu(F.conv2d(x, state["stack.0.weight"], state["stack.0.bias"], 2, 1), 0.2)
    for place, stride in ((2, 2), (5, 2), (8, 1)):
        x = F.conv2d(x, state[f"stack.{place}.weight"], None, stride, 1)
        weight, bias = state[f"stack.{place + 1}.weight"], state[f"stack.{place + 1}.bias"]
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        shape = (1, -1, 1, 1)
        x = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
        x = F.leaky_relu(x * weight.view(shape) + bias.view(shape), 0.2)
    return F.conv2d(x, state["stack.11.weight"], state["stack.11.bias"], 1, 1)


def test_patchgan():
    critic = PatchGAN()
    widths = [p.shape[:2] for p in critic.parameters() if p.ndim == 4]
    assert widths == [(64, 3), (128, 64), (256, 128), (512, 256), (1, 512)]
    assert sum(p.numel() for p in critic.parameters()) == 2_765_633
    weights = critic.stack[5].weight
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert critic.stack[6].weight.mean().item() == pytest.approx(1, abs=0.01)
    assert critic.stack[6].bias.abs().sum() == 0
    images = torch.randn(2, 3, 64, 48)
    found = critic(images)
    assert found.shape == (2, 1, 6, 4)
    torch.testing.assert_close(found, written_out_patchgan(critic, images), rtol=1e-4, atol=1e-5)
    assert PatchGAN()(torch.randn(1, 3, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"got images of 23 x 64 pixels; .* at least 24 x 24"):
        critic(torch.randn(1, 3, 23, 64))


def test_patchgan_blur():
    critic = BlurPatchGAN(layers=2, channels=32)
    widths = [p.shape[:2] for p in critic.parameters() if p.ndim == 4]
    assert widths == [(32, 3), (32, 32), (64, 32), (64, 64), (1, 64)]
    images = torch.randn(3, 3, 96, 32)
    found = critic(images)
    assert found.shape == (3, 1, 16, 8)  # 24 x 8, at most 16
    torch.testing.assert_close(critic(images[:1]), found[:1])  # nothing depends on the batch
    with pytest.raises(ValueError, match="got channels 48; expected a multiple of 32"):
        BlurPatchGAN(channels=48)
    full = BlurPatchGAN()
    assert [m.out_channels for m in full.stack if isinstance(m, nn.Conv2d)][-1] == 1024


def test_the_blur_is_binomial():
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    x = torch.randn(2, 3, 6, 7)
    found = Blur()(x)
    assert found.shape == (2, 3, 3, 4)
    padded = F.pad(x, (1, 2, 1, 1))
    window = padded[1, 2, 2:6, 4:8]
    assert found[1, 2, 1, 2].item() == pytest.approx((line @ window @ line).item(), rel=1e-5)
    inner = Blur()(torch.ones(1, 1, 8, 8))[0, 0, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.ones(2, 2))


def written_out_head(state, x):
    """A head from its effective tensors: (b, width, n) to (b, n)."""

    def block(x, name, kernel):
        weight, bias = state[f"{name}.0.weight"], state[f"{name}.0.bias"]
        pad = kernel // 2
        x = F.conv1d(torch.cat([x[..., -pad:], x, x[..., :pad]], 2) if pad else x, weight, bias)
        mean, variance = x.mean((0, 2)), x.var((0, 2), unbiased=False)
        x = (x - mean[:, None]) / (variance[:, None] + 1e-6).sqrt()
        return F.leaky_relu(x, 0.2)

    x = block(x, "first", 1)
    x = (block(x, "second", 3) + x) / 2**0.5
    return F.conv1d(x, state["last.weight"], state["last.bias"])[:, 0]


def test_frozen_features(dino):
    model, folder = dino
    critic = FrozenFeatures(model=folder, kernel=3)
    assert {name.split(".")[0] for name in critic.state_dict()} == {"heads"}
    assert all(p.requires_grad for p in critic.parameters())
    images = torch.rand(2, 3, 40, 40) * 2 - 1
    found = critic(images)
    assert found.shape == (2, 5 * 196)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    levels = F.interpolate((images + 1) / 2, (224, 224), mode="bicubic")
    inputs = (levels - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        states = model(inputs, output_hidden_states=True).hidden_states
    with torch.nn.utils.parametrize.cached():
        critic.eval()  # the power iteration stands still
        for k, head in enumerate(critic.heads):
            names = [
                *("first.0.weight", "first.0.bias", "second.0.weight", "second.0.bias"),
                *("last.weight", "last.bias"),
            ]
            state = {
                name: getattr(head.get_submodule(name.rpartition(".")[0]), name.split(".")[-1])
                for name in names
            }
            read = (states[k][:, 1:] + states[k][:, :1]).transpose(1, 2)
            expected = written_out_head(state, read)
            torch.testing.assert_close(
                found[:, 196 * k : 196 * (k + 1)], expected, rtol=1e-3, atol=1e-4
            )


def test_large_images_are_averaged(dino):
    critic = FrozenFeatures(model=dino[1], kernel=3).eval()
    images = torch.rand(1, 3, 224, 224)
    twice = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(critic(twice), critic(images))


def test_a_missing_model_gets_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as error:
        FrozenFeatures()
    text = sentence(error)
    assert "cannot load facebook/dino-vits16" in text
    assert text.endswith("or train with --set adversarial=null")


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3, 7), (4, 3)])
def test_in_one_process_the_batch_norm_is_torchs(shape):
    ours, theirs = SharedBatchNorm(3), {4: nn.BatchNorm2d, 3: nn.BatchNorm1d, 2: nn.BatchNorm1d}
    theirs = theirs[len(shape)](3)
    for norm in (ours, theirs):
        nn.init.constant_(norm.weight, 1.5)
    for _ in range(2):
        x = torch.randn(shape) * 3 + 1
        assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
