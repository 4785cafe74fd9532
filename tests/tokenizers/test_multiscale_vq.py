"""The multi-scale residual tokenizer of VAR."""

import pytest
import torch
import torch.nn.functional as F
from tiny import make_images, make_tokenizer, sentence

from arimage.tokenizers.multiscale_vq import MultiScaleVQConfig, bicubic, phi_index, upsample
from arimage.tokenizers.quantizers import COMMITMENT
from arimage.tokenizers.registry import TOKENIZERS

# Which of 4 phi serves which scale, of FoundationVision/VAR@78b9539 models/quant.py in float64.
PUBLISHED = {
    5: (0, 1, 2, 2, 3),
    9: (0, 0, 1, 1, 2, 2, 2, 3, 3),
    10: (0, 0, 1, 1, 1, 2, 2, 3, 3, 3),
    13: (0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3),
    14: (0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3),
    15: (0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
}


@pytest.mark.parametrize("scales", PUBLISHED)
def test_the_phi_of_each_scale_is_the_published_one(scales):
    assert phi_index(scales, 4) == PUBLISHED[scales]


def test_float32_would_decide_a_tie_the_other_way():
    ticks = torch.linspace(1 / 12, 11 / 12, 4)
    where = torch.linspace(0, 1, 10)
    nearest = (ticks[None] - where[:, None]).abs().argmin(1)
    assert tuple(nearest.tolist()) != PUBLISHED[10]


@pytest.mark.parametrize(("scales", "phi"), [(1, 4), (1, 1), (6, 1), (6, 6), (3, 7)])
def test_any_number_of_scales_and_phi_goes_together(scales, phi):
    index = phi_index(scales, phi)
    assert len(index) == scales
    assert set(index) <= set(range(phi))
    assert list(index) == sorted(index)
    if scales == phi:
        assert index == tuple(range(phi))


def test_it_can_be_built_where_tensors_have_no_values():
    cls = TOKENIZERS["multiscale_vq"]
    with torch.device("meta"):
        tokenizer = cls(cls.config_class())
    assert tokenizer.phi_of_scale == phi_index(4, 4)


@torch.no_grad()
def test_each_scale_codes_what_the_coarser_ones_left_over():
    """VAR's algorithms 1 and 2, written out."""
    tokenizer = make_tokenizer("multiscale_vq")
    latents = tokenizer.encode_latents(make_images(tokenizer, 2))
    rest, hat, ids = latents.clone(), torch.zeros_like(latents), []
    for scale, side in enumerate(tokenizer.config.scales):
        small = F.interpolate(rest, (side, side), mode="area")
        found = tokenizer.quantizer(small.flatten(2).transpose(1, 2))
        ids.append(found.ids)
        codes = found.codes.transpose(1, 2).reshape(small.shape)
        if side < tokenizer.config.side:
            codes = F.interpolate(codes, latents.shape[-2:], mode="bicubic")
        phi = tokenizer.phi[tokenizer.phi_of_scale[scale]]
        codes = 0.5 * codes + 0.5 * phi.conv(codes)
        hat, rest = hat + codes, rest - codes
    encoding = tokenizer.quantize(latents)
    assert torch.equal(encoding.ids, torch.cat(ids, dim=1))
    assert (encoding.codes - hat).abs().max() < 1e-5


@torch.no_grad()
def test_the_loss_is_the_mean_over_scales():
    tokenizer = make_tokenizer("multiscale_vq")
    latents = tokenizer.encode_latents(make_images(tokenizer, 2))
    encoding, losses = tokenizer.quantize(latents), []
    canvas = tokenizer.blank(2)
    for scale in range(3):
        start, stop = tokenizer.slots.span(scale)
        codes = tokenizer.lookup(encoding.ids[:, start:stop])
        canvas = tokenizer.fuse(canvas, scale, torch.arange(start, stop), codes)
        losses.append((1 + COMMITMENT) * F.mse_loss(canvas, latents))
    assert encoding.loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_the_codebook_starts_from_the_residuals_of_all_scales():
    """Were it started by the first look-up, 8 images would give 8 different codes at most."""
    tokenizer = make_tokenizer("multiscale_vq")
    codes = tokenizer.lookup(torch.arange(32)[None])[0]
    assert len(codes.unique(dim=0)) > 16


@torch.no_grad()
def test_a_view_is_the_canvas_at_the_size_of_the_map():
    tokenizer = make_tokenizer("multiscale_vq")
    canvas = torch.randn(2, tokenizer.config.code_dim, 4, 4)
    assert torch.allclose(tokenizer.view(canvas, 0)[:, 0], canvas.mean((2, 3)), atol=1e-6)
    assert torch.equal(tokenizer.view(canvas, 2), canvas.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("scales", [(), (1, 2), (1, 4, 2), (1, 2, 2, 4), (0, 4)])
def test_scales_that_do_not_end_at_the_latent_side_are_told(scales):
    with pytest.raises(ValueError) as caught:
        MultiScaleVQConfig(scales=scales)
    assert "expected growing sides that end with the latent side 4" in sentence(caught)


@pytest.mark.parametrize("name", ["gumbel", "ibq"])
def test_a_quantizer_that_would_not_learn_is_told(name):
    with pytest.raises(ValueError) as caught:
        MultiScaleVQConfig(quantizer=name)
    assert f"got quantizer {name!r}" in sentence(caught)


def test_the_number_of_phi_is_positive():
    with pytest.raises(ValueError) as caught:
        MultiScaleVQConfig(num_phi=0)
    assert "got num_phi 0; expected an integer >= 1" in sentence(caught)


def test_a_learned_codebook_gets_its_gradient_from_the_canvas():
    tokenizer = make_tokenizer("multiscale_vq", "vq_learned").train()
    images = make_images(tokenizer, 4)
    tokenizer(images)[1].loss.backward()
    codebook = tokenizer.quantizer.inner.weight
    used = tokenizer.encode(images).unique()
    assert (codebook.grad[used].abs().sum(-1) > 0).all()
    assert codebook.grad.abs().sum(-1).count_nonzero() <= len(used)


GRIDS = ((1, 1), (2, 3), (3, 3), (4, 7))


def by_hand(tokenizer, images, phi):
    """The published recursion written out: (ids, canvas) for GRIDS."""
    rest = tokenizer.encode_latents(images)
    canvas, ids = torch.zeros_like(rest), []
    codebook = tokenizer.lookup(torch.arange(tokenizer.config.vocab_size)[None])[0]
    for scale, grid in enumerate(GRIDS):
        small = F.adaptive_avg_pool2d(rest, grid).permute(0, 2, 3, 1).flatten(1, 2)
        ids.append(torch.cdist(small, codebook[None]).argmin(-1))
        codes = codebook[ids[-1]].transpose(1, 2).unflatten(2, grid)
        if scale < len(GRIDS) - 1:
            codes = F.interpolate(codes, GRIDS[-1], mode="bicubic")
        added = tokenizer.phi[phi[scale]](codes)
        canvas, rest = canvas + added, rest - added
    return torch.cat(ids, 1), canvas


@torch.no_grad()
def test_rectangular_images_and_other_sizes():
    tokenizer = make_tokenizer("multiscale_vq", "vq_learned")
    native = tokenizer.slots
    wide = tokenizer.at(GRIDS)
    images = F.interpolate(make_images(tokenizer, 2), (16, 28), mode="bilinear")
    ids, canvas = by_hand(tokenizer, images, phi_index(4, 2))
    assert torch.equal(wide.encode(images), ids)
    assert torch.allclose(wide.canvas_of(ids), canvas, atol=1e-5)
    assert wide.reconstruct(images).shape == images.shape
    assert not torch.allclose(by_hand(tokenizer, images, [0] * 4)[1], canvas, atol=1e-2)
    assert tokenizer.slots == native
    same = tokenizer.at(native.grids)
    square = make_images(tokenizer, 2)
    assert torch.equal(same.encode(square), tokenizer.encode(square))


@pytest.mark.parametrize("grids", [(), ((2, 2), (2, 2)), ((2, 3), (3, 2)), ((3, 3), (2, 2))])
def test_maps_that_do_not_grow_are_told(grids):
    with pytest.raises(ValueError) as caught:
        make_tokenizer("multiscale_vq").at(grids)
    assert "expected growing (height, width)" in sentence(caught)


def test_an_image_of_another_size_than_the_maps_is_told():
    tokenizer = make_tokenizer("multiscale_vq").at(GRIDS)
    with pytest.raises(ValueError) as caught:
        tokenizer.encode(torch.zeros(1, 3, 16, 16))
    assert "takes 16 x 28" in sentence(caught)


@pytest.mark.parametrize("small", [(1, 1), (2, 3), (5, 4), (13, 10)], ids=str)
@pytest.mark.parametrize("size", [(16, 16), (13, 20)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_matrices_are_the_bicubic_upsampling(small, size, dtype):
    x = torch.randn(2, 3, *small, generator=torch.Generator().manual_seed(0)).to(dtype)
    wanted = F.interpolate(x.double(), size, mode="bicubic")
    found = upsample(x, size)
    assert found.dtype == dtype
    usual = (F.interpolate(x, size, mode="bicubic") - wanted).abs().max()
    assert (found - wanted).abs().max() <= 1.5 * usual + 1e-7
    if small != (1, 1):
        other = F.interpolate(x.double(), size, mode="bilinear")
        assert not torch.allclose(found.double(), other, atol=1e-2)


def test_the_matrices_serve_training_after_sampling():
    bicubic.cache_clear()
    with torch.inference_mode():
        upsample(torch.zeros(1, 1, 2, 2), (4, 4))
    x = torch.randn(1, 1, 2, 2, requires_grad=True)
    upsample(x, (4, 4)).sum().backward()
    assert x.grad.sum().item() == pytest.approx(16, abs=1e-4)
