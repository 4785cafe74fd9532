"""Adversarial losses by hand, LeCAM step by step, the adaptive weight as a ratio of gradients."""

import math

import pytest
import torch

from arimage.training.losses.adversarial import (
    KINDS,
    LeCam,
    adaptive_weight,
    critic_loss,
    encoder_last_layer,
    generator_loss,
    last_layer,
)

REAL, FAKE = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 1.0]])


def softplus(x):
    return math.log(1 + math.exp(x))


BY_HAND = {
    "hinge": ((0 + 0.5) / 2 / 2 + (0 + 2) / 2 / 2, 1.0),
    "vanilla": (
        (softplus(-2) + softplus(-0.5)) / 4 + (softplus(-3) + softplus(1)) / 4,
        1.0,
    ),
    "non_saturating": (
        (softplus(-2) + softplus(-0.5)) / 2 + (softplus(-3) + softplus(1)) / 2,
        (softplus(3) + softplus(-1)) / 2,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_sides(kind, dtype):
    critic, tokenizer = BY_HAND[kind]
    real, fake = REAL.to(dtype), FAKE.to(dtype)
    assert critic_loss(kind, real, fake).item() == pytest.approx(critic, rel=1e-6)
    assert generator_loss(kind, fake).item() == pytest.approx(tokenizer, rel=1e-6)
    assert generator_loss(kind, fake).dtype == torch.float32
    assert generator_loss(kind, fake + 1) < generator_loss(kind, fake)
    assert critic_loss(kind, real, fake - 1) < critic_loss(kind, real, fake)


def test_logits_far_out_stay_finite():
    for kind in KINDS:
        far = torch.tensor([1e4, -1e4])
        assert critic_loss(kind, far, far).isfinite()
        assert generator_loss(kind, far).isfinite()
    for call in (lambda: generator_loss("wgan", FAKE), lambda: critic_loss("wgan", REAL, FAKE)):
        with pytest.raises(KeyError, match=r"unknown adversarial loss 'wgan'\. Known: hinge"):
            call()


def test_lecam_step_by_step():
    lecam = LeCam(0.01, decay=0.9)
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    loss = lecam(real, fake)  # means 1.25 and -1; both averages are still 0
    assert loss.item() == pytest.approx(0.01 * (1.25**2 + 1.0**2), rel=1e-6)
    loss.backward()
    assert real.grad[0, 0].item() == pytest.approx(0.01 * 2 * 1.25 / 2, rel=1e-6)
    assert fake.grad[0, 0].item() == pytest.approx(-0.01 * 2 * 1.0 / 2, rel=1e-6)
    assert lecam.real.item() == pytest.approx(0.125)
    assert lecam.fake.item() == pytest.approx(-0.1)
    again = lecam(real, fake)
    expected = 0.01 * ((1.25 + 0.1) ** 2 + (0.125 + 1.0) ** 2)
    assert again.item() == pytest.approx(expected, rel=1e-6)
    assert sorted(lecam.state_dict()) == ["fake", "real"]
    assert not list(lecam.parameters())


def test_lecam_without_weight_is_nothing():
    lecam = LeCam(0.0)
    assert lecam(REAL, FAKE).item() == 0
    assert lecam.real.item() == 0


def test_the_adaptive_weight_is_the_ratio_of_gradients():
    layer = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    first, second = layer.square().sum() / 2, 0.1 * layer.sum()  # (3, 4) and (0.1, 0.1)
    expected = 5 / (0.1 * 2**0.5 + 1e-4)
    weight = adaptive_weight(first, second, layer)
    assert weight.item() == pytest.approx(expected, rel=1e-6)
    assert not weight.requires_grad
    assert layer.grad is None
    assert adaptive_weight(first, second, layer, limit=7.0).item() == 7
    assert adaptive_weight(first, 0 * layer.sum(), layer).item() == 10_000
    assert adaptive_weight(first, 0 * layer.sum(), layer, limit=1e8).item() == pytest.approx(5e4)
    first.backward()  # the graph is still there
    layer.requires_grad_(False)
    with pytest.raises(ValueError, match="set adaptive to false"):
        adaptive_weight(first, second, layer)


def test_the_adaptive_weight_survives_half_precision():
    torch.manual_seed(0)
    last = torch.nn.Conv2d(8, 3, 3, padding=1)
    maps, images = torch.randn(8, 8, 128, 128), torch.randn(8, 3, 128, 128)
    critic = torch.nn.Conv2d(3, 1, 8, stride=8)
    ratios = []
    for half in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=half):
            made = images + 0.02 * last(maps).float()  # a pixel's gradient is about 1e-7
            loss, other = (made - images).square().mean(), critic(made).float().mean()
            ratios.append(adaptive_weight(loss, other, last.weight).item())
    assert ratios[1] == pytest.approx(ratios[0], rel=0.02)


@pytest.mark.parametrize("name", ["vq", "multiscale_vq", "vq maskgit"])
def test_the_last_layers_are_the_networks(pass_of, name):
    seen = pass_of(name)
    last, encoders = last_layer(seen.tokenizer), encoder_last_layer(seen.tokenizer)
    assert last is seen.tokenizer.decoder.layers[-1].weight
    assert encoders is seen.tokenizer.encoder.layers[-1].weight
    l1, l2 = (seen.output - seen.images).abs().mean(), seen.output.square().mean()
    assert adaptive_weight(l1, l2, last) > 0
