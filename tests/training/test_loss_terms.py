"""Terms of the tokenizer's loss: their formulas by hand, their gradients, what they refuse."""

import math

import pytest
import torch
import torch.nn.functional as F

from arimage.training.losses.alignment import AlignmentLoss, cosine_loss, distance_loss
from arimage.training.losses.base import Balance
from arimage.training.losses.codebook import CodebookLoss
from arimage.training.losses.entropy import EntropyLoss
from arimage.training.losses.equivariance import EquivarianceLoss, drawn_factor, smaller
from arimage.training.losses.pixel import L1Loss, L2Loss
from arimage.training.losses.registry import CRITICS, LOSSES

NEEDS_WEIGHTS = {"perceptual", "alignment"}


def test_pixels(pass_of):
    seen = pass_of()
    gap = seen.output - seen.images
    assert L1Loss()(seen).item() == pytest.approx(gap.abs().sum().item() / gap.numel(), rel=1e-5)
    assert L2Loss()(seen).item() == pytest.approx((gap**2).sum().item() / gap.numel(), rel=1e-5)


def test_the_codebook_term_is_the_quantizers(pass_of):
    seen = pass_of()
    assert CodebookLoss()(seen) is seen.encoding.loss
    assert CodebookLoss()(seen) > 0


def test_every_name_is_a_class():
    assert all(isinstance(LOSSES[name], type) for name in LOSSES)
    assert all(isinstance(CRITICS[name], type) for name in CRITICS)
    with pytest.raises(KeyError, match="Did you mean 'perceptual'"):
        LOSSES["perception"]


@pytest.mark.parametrize("name", sorted(set(LOSSES) - NEEDS_WEIGHTS))
@pytest.mark.parametrize("quantizer", ["vq_learned", "vq_learned_cosine"])
def test_under_autocast_they_are_float32_and_pass_gradients(pass_of, name, quantizer):
    loss = LOSSES[name]()
    exact = loss(pass_of(quantizer=quantizer)).item()
    with torch.autocast("cpu", torch.bfloat16):
        seen = pass_of(quantizer=quantizer)
        value = loss(seen)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact, rel=0.1)
    value.backward()
    gradient = next(seen.tokenizer.encoder.parameters()).grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def written_out_entropy(rows, codes):
    """Of distances over 0.01, one latent at a time."""
    total, mean = 0.0, torch.zeros(len(codes), dtype=torch.double)
    for row in rows:
        weights = (-(row - codes).square().sum(1).double() / 0.01).softmax(0)
        total += -torch.xlogy(weights, weights).sum().item() / len(rows)
        mean += weights / len(rows)
    return total + torch.xlogy(mean, mean).sum().item()


@pytest.mark.parametrize("quantizer", ["vq_learned", "vq_learned_cosine", "vq_ema", "lfq"])
def test_entropy_is_of_the_distances_to_the_codes(pass_of, quantizer):
    seen = pass_of(quantizer=quantizer)
    rows = seen.latents.detach().flatten(2).transpose(1, 2).flatten(0, 1)
    vocab_size = seen.tokenizer.config.vocab_size
    codes = seen.tokenizer.lookup(torch.arange(vocab_size)[None])[0].detach()
    if quantizer == "vq_learned_cosine":
        rows = F.normalize(rows, dim=1)
    value = EntropyLoss()(seen).item()
    assert value == pytest.approx(written_out_entropy(rows, codes), abs=1e-4)
    assert abs(value - written_out_entropy(2 * rows, codes)) > 1e-3  # the negative twin


def test_entropy_teaches_the_codebook_and_refuses_many_maps(pass_of):
    seen = pass_of()
    EntropyLoss()(seen).backward()
    assert seen.tokenizer.quantizer.inner.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="'entropy' for a tokenizer with 3 token maps"):
        EntropyLoss().prepare(pass_of("multiscale_vq").tokenizer)


def test_entropy_counts_once(pass_of):
    tokenizer = pass_of(quantizer="lfq").tokenizer
    rows = torch.randn(2, 7, 5)
    both = tokenizer.quantizer(rows).loss
    EntropyLoss().prepare(tokenizer)
    alone = tokenizer.quantizer(rows).loss
    expected = 0.1 * tokenizer.quantizer.entropy(rows)
    torch.testing.assert_close(both - alone, expected, rtol=1e-4, atol=1e-6)


def test_equivariance_is_the_smaller_image_from_smaller_codes(pass_of):
    for name in ("vq", "multiscale_vq"):
        for seed, factor in ((seed, drawn_factor(seed, 4, 4)) for seed in range(4)):
            seen = pass_of(name, seed=seed)
            small = seen.tokenizer.decode_canvas(smaller(seen.encoding.codes, factor))
            assert small.shape[2] == 16 // factor
            expected = (small - smaller(seen.images, factor)).square().mean().item()
            assert EquivarianceLoss()(seen).item() == pytest.approx(expected, rel=1e-6)


def test_the_factor_follows_from_the_seed_and_divides():
    assert {drawn_factor(seed, 8, 4) for seed in range(20)} == {2, 4}
    assert {drawn_factor(seed, 8, 6) for seed in range(20)} == {2}
    assert drawn_factor(7, 8, 8) == drawn_factor(7, 8, 8)
    with pytest.raises(ValueError, match="got codes of 3 x 4"):
        drawn_factor(0, 3, 4)
    constant = torch.full((1, 1, 8, 8), 0.7)
    torch.testing.assert_close(smaller(constant, 4), constant[:, :, :2, :2])


def test_alignment_by_hand():
    latents = torch.zeros(1, 2, 1, 2)
    latents[0, :, 0] = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # (1, 0) and (0, 2): cosine 0
    features = torch.zeros(1, 2, 1, 2)
    features[0, :, 0] = torch.tensor([[3.0, 1.0], [0.0, 1.0]])  # (3, 0) and (1, 1)
    root = math.sqrt(0.5)
    # Cosines of patches: 1 and sqrt(1/2).
    assert cosine_loss(latents, features, 0.0).item() == pytest.approx((1 - root) / 2, rel=1e-5)
    assert cosine_loss(latents, features, 0.2).item() == pytest.approx((0.8 - root) / 2, rel=1e-4)
    assert cosine_loss(latents, features, 0.5).item() == 0
    # Matrices of cosines differ by sqrt(1/2) in two of four places.
    assert distance_loss(latents, features, 0.0).item() == pytest.approx(root / 2, rel=1e-5)
    assert distance_loss(latents, features, 0.25).item() == pytest.approx(
        (root - 0.25) / 2, rel=1e-5
    )


def test_alignment(pass_of, dinov2_folder):
    seen = pass_of()
    loss = AlignmentLoss(model=dinov2_folder, cosine_margin=0.0, distance_margin=0.0)
    loss.prepare(seen.tokenizer)
    (weight,) = loss.parameters()  # the projection alone is trained
    assert weight.shape == (24, 6, 1, 1)
    assert list(loss.state_dict()) == ["project.weight"]
    size = (4 * 14, 4 * 14)  # a patch per latent
    images = F.interpolate(seen.images, size, mode="bilinear")
    tokens = loss.vision.network(images).last_hidden_state[:, 1:]
    features = tokens.transpose(1, 2).reshape(4, 24, 4, 4)
    projected = F.conv2d(seen.latents, weight)
    expected = cosine_loss(projected, features, 0.0) + distance_loss(projected, features, 0.0)
    value = loss(seen)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert weight.grad.abs().sum() > 0
    assert next(seen.tokenizer.encoder.parameters()).grad.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(seen).item() == pytest.approx(value.item(), rel=1e-5)


def test_alignment_says_where_it_is_balanced(pass_of, dinov2_folder):
    tokenizer = pass_of().tokenizer
    balance = AlignmentLoss(model=dinov2_folder).balance(tokenizer)
    assert balance == Balance(tokenizer.encoder.layers[-1].weight, 1e8)
    assert AlignmentLoss(model=dinov2_folder, adaptive=False).balance(tokenizer) is None
    assert L1Loss().balance(tokenizer) is None
    with pytest.raises(FileNotFoundError, match="which the loss 'alignment' needs"):
        AlignmentLoss(model="nobody/nothing")
