"""Perturbed latents: none is plain encoding, all of it lands among the nearest codes."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import TOKENIZER_CASES, make_images, make_tokenizer

from arimage.demo.digits import load_digits
from arimage.eval.pairs import evaluate_reconstructions
from arimage.eval.perturbed import evaluate_perturbed
from arimage.generator import ImageGenerator
from arimage.images import from_pixels, to_pixels
from arimage.tokenizers.perturb import Perturbation, perturb, perturbed_reconstruct
from arimage.tokenizers.registry import QUANTIZERS


@torch.no_grad()
def latents_of(tokenizer, count):
    return tokenizer.encode_latents(make_images(tokenizer, count))


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_without_perturbation_it_is_encode(tokenizers, name, quantizer):
    tokenizer = tokenizers(name, quantizer)
    own = tokenizer.encode(make_images(tokenizer, 5))
    latents = latents_of(tokenizer, 5)
    for alpha, delta, beta in ((0.0, 9, 1.0), (1.0, 1, 1.0), (1.0, 9, 0.0)):
        nothing = Perturbation(alpha=alpha, delta=delta, beta=beta)
        assert torch.equal(perturb(tokenizer, latents, nothing, range(5)), own)
    everything = perturb(tokenizer, latents, Perturbation(alpha=1.0, delta=9), range(5))
    assert (everything != own).float().mean() > 0.5
    assert everything.shape == own.shape
    assert 0 <= everything.min() <= everything.max() < tokenizer.config.vocab_size


def distances(quantizer, name, x, own):
    """How far each code is from a latent; one code and one formula at a time."""
    codes = [quantizer.lookup(torch.tensor([[i]]))[0, 0] for i in range(quantizer.vocab_size)]
    if name == "gumbel":
        return -quantizer.inner["projection"](x)
    if name == "ibq":
        return -torch.stack(codes) @ x
    if name == "fsq":
        x = codes[own]
    elif "cosine" in name:
        return torch.stack([1 - F.cosine_similarity(x, code, dim=0) for code in codes])
    return torch.stack([(x - code).square().sum() for code in codes])


@torch.no_grad()
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_replaced_token_is_one_of_the_nearest_codes(tokenizers, quantizer):
    tokenizer, delta = tokenizers("vq", quantizer), 5
    latents = latents_of(tokenizer, 3)
    own = tokenizer.quantize(latents).ids
    ids = perturb(tokenizer, latents, Perturbation(alpha=1.0, delta=delta), [3, 4, 5])
    for image in range(3):
        for slot, (row, column) in enumerate(np.ndindex(4, 4)):
            x, mine = latents[image, :, row, column], own[image, slot]
            far = distances(tokenizer.quantizer, quantizer, x, mine)
            assert far[ids[image, slot]] <= far.sort().values[delta - 1] + 1e-5
    assert len(torch.unique(ids)) > len(torch.unique(own)) / 2


@torch.no_grad()
def test_all_of_the_nearest_are_drawn_alike(tokenizers):
    tokenizer, delta = tokenizers("vq", "vq_learned"), 4
    latents = latents_of(tokenizer, 1).expand(400, -1, -1, -1)
    how = Perturbation(alpha=0.75, delta=delta)
    ids = perturb(tokenizer, latents, how, range(400))
    own = tokenizer.quantize(latents[:1]).ids
    kept = (ids == own).float().mean()
    assert kept == pytest.approx(0.25 + 0.75 / delta, abs=0.02)  # itself is among the nearest
    for slot in range(16):
        codes, counts = ids[:, slot].unique(return_counts=True)
        assert len(codes) == delta
        others = counts[codes != own[0, slot]] / 400
        np.testing.assert_allclose(others, 0.75 / delta, atol=0.09)  # 4.6 standard deviations
    half = Perturbation(alpha=1.0, delta=32, beta=0.5)
    touched = (perturb(tokenizer, latents, half, range(400)) != own).any(1).float().mean()
    assert touched == pytest.approx(0.5, abs=0.1)


@torch.no_grad()
def test_finer_maps_code_what_perturbed_coarser_ones_left_over(tokenizers):
    tokenizer = tokenizers("multiscale_vq", "vq_learned")
    latents = latents_of(tokenizer, 2)
    how = Perturbation(alpha=0.5, delta=8)
    ids = perturb(tokenizer, latents, how, [0, 1])
    untouched = tokenizer.quantize(latents).ids

    def share_kept(canvas_of):
        """The share of tokens that are the nearest to the residual, scale after scale."""
        kept, start = [], 0
        for scale, side in enumerate((1, 2, 4)):
            left = F.interpolate(latents - canvas_of(scale), (side, side), mode="area")
            rows = left.permute(0, 2, 3, 1).reshape(2, side * side, -1)
            nearest = torch.cdist(rows, tokenizer.quantizer.inner.weight[None]).argmin(-1)
            kept.append(nearest == ids[:, start : start + side * side])
            start += side * side
        return torch.cat(kept, dim=1).float().mean().item()

    def partial_canvas(given):
        def upto(scale):
            canvas = torch.zeros_like(latents)
            for k in range(scale):
                start, stop = tokenizer.slots.span(k)
                codes = tokenizer.lookup(given[:, start:stop])
                canvas = tokenizer.fuse(canvas, k, torch.arange(start, stop), codes)
            return canvas

        return upto

    expected = 0.5 + 0.5 / 8
    assert share_kept(partial_canvas(ids)) == pytest.approx(expected, abs=0.15)
    assert share_kept(partial_canvas(untouched)) < expected - 0.15  # the negative twin


@pytest.mark.parametrize("name", ["vq", "multiscale_vq"])
def test_an_image_does_not_depend_on_its_batch(tokenizers, name):
    tokenizer = tokenizers(name, "vq_ema")
    latents, how = latents_of(tokenizer, 4), Perturbation(alpha=0.6, delta=7, beta=0.8)
    together = perturb(tokenizer, latents, how, [5, 6, 7, 8])
    backwards = perturb(tokenizer, latents.flip(0), how, [8, 7, 6, 5])
    assert torch.equal(backwards.flip(0), together)
    alone = [perturb(tokenizer, latents[i : i + 1], how, [5 + i]) for i in range(4)]
    assert torch.equal(torch.cat(alone), together)
    assert not torch.equal(perturb(tokenizer, latents, how, [1, 2, 3, 4]), together)


@pytest.mark.parametrize("name", ["vq", "multiscale_vq"])
def test_the_codebook_is_left_alone_while_training(name):
    tokenizer = make_tokenizer(name, "vq_ema").train()
    before = {key: value.clone() for key, value in tokenizer.state_dict().items()}
    perturb(tokenizer, latents_of(tokenizer, 3), Perturbation(alpha=1.0, delta=9), [0, 1, 2])
    assert tokenizer.quantizer.training
    assert all(torch.equal(before[key], value) for key, value in tokenizer.state_dict().items())


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_mixed_precision_stays_outside_of_the_codebook(name, quantizer):
    tokenizer = make_tokenizer(name, quantizer)
    latents = latents_of(tokenizer, 4)
    own = tokenizer.quantize(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(
            perturb(tokenizer, latents, Perturbation(alpha=0.0, delta=1), range(4)), own.ids
        )
        mixed = tokenizer.train(quantizer != "gumbel").quantize(latents)
        assert tokenizer.quantize(latents.bfloat16()).codes.dtype == torch.float32
    assert torch.equal(mixed.ids, own.ids)
    assert torch.allclose(mixed.codes, own.codes, atol=1e-6)
    assert mixed.loss.dtype == torch.float32


@pytest.mark.parametrize("name", ["vq", "multiscale_vq"])
def test_pixels_in_pixels_out(tokenizers, name):
    tokenizer = tokenizers(name, "vq_learned")
    pixels = to_pixels(make_images(tokenizer, 4))
    with torch.no_grad():
        plain = to_pixels(tokenizer.reconstruct(from_pixels(pixels)))
    seen = []
    np.testing.assert_array_equal(
        perturbed_reconstruct(tokenizer, 0.0, 5, seen=seen.append)(pixels), plain
    )
    assert torch.equal(seen[0], tokenizer.encode(from_pixels(pixels)))
    perturbed = perturbed_reconstruct(tokenizer, 0.7, 9)
    whole = perturbed(pixels)
    assert (whole != plain).mean() > 0.1
    np.testing.assert_allclose(np.concatenate([perturbed(p[None]) for p in pixels]), whole, atol=1)
    np.testing.assert_allclose(perturbed(pixels[::-1])[::-1], whole, atol=1)
    assert (perturbed_reconstruct(tokenizer, 0.7, 9, seed=1)(pixels) != whole).mean() > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1.5}, "got alpha 1.5; expected a share from 0 to 1"),
        ({"beta": -0.1}, "got beta -0.1"),
        ({"delta": 0}, "got delta 0; expected the number of nearest codes"),
    ],
)
def test_perturbations_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        Perturbation(**{"alpha": 0.5, "delta": 4, **changes})


def test_errors_are_sentences(tokenizers):
    tokenizer = tokenizers("vq", "vq_ema")
    latents = latents_of(tokenizer, 2)
    with pytest.raises(ValueError, match="got 1 seeds for 2 images"):
        perturb(tokenizer, latents, Perturbation(alpha=1.0, delta=2), [0])
    with pytest.raises(ValueError, match="got delta 33; this tokenizer has 32 codes"):
        perturb(tokenizer, latents, Perturbation(alpha=1.0, delta=33), [0, 1])
    with pytest.raises(ValueError, match="this tokenizer takes 16 x 16"):
        perturbed_reconstruct(tokenizer, 0.5, 2)(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("preset", ["digits-var", "digits-llamagen"])
def test_pfid_of_a_trained_tokenizer(preset):
    digits = load_digits()[1].pixels[:120]
    tokenizer = ImageGenerator.from_pretrained(preset).tokenizer
    perturbed = partial(perturbed_reconstruct, tokenizer)
    grid = [(0.0, 8), (0.3, 8), (0.9, 8), (0.9, 64)]
    score = evaluate_perturbed(digits, perturbed, grid=grid, features="digits")["pfid"]
    values = list(score.details.values())
    assert values == sorted(values)  # more perturbation is worse
    assert values[3] > 2 * values[0]
    plain = evaluate_reconstructions(digits, perturbed(0.0, 1), metrics=["rfid"], features="digits")
    assert values[0] == pytest.approx(plain["rfid"].value)
    small = evaluate_perturbed(digits, perturbed, grid=grid[2:3], features="digits", batch_size=7)
    assert small["pfid"].value == pytest.approx(values[2], rel=1e-3)
