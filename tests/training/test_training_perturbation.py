"""Perturbed codes in training: who is perturbed, what gradients see, how it is annealed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from arimage.tokenizers.perturb import Perturbation, perturb, perturbed_images
from arimage.training.losses.perturbation import (
    PerturbationSchedule,
    image_seeds,
    perturbed_encoding,
)

HOW = Perturbation(alpha=0.7, delta=5, beta=0.5)
CASES = [("vq", "vq_learned"), ("vq", "vq_learned_cosine"), ("multiscale_vq", "vq_learned")]


@pytest.mark.parametrize(("name", "quantizer"), CASES)
def test_a_share_of_the_images_gets_other_codes(pass_of, name, quantizer):
    seen, seeds = pass_of(name, quantizer, count=8), image_seeds(3, range(8))
    found = perturbed_encoding(seen.tokenizer, seen.latents, seen.encoding, HOW, seeds)
    chosen = perturbed_images(HOW, seeds)
    assert 0 < chosen.sum() < 8
    assert torch.equal(found.ids, perturb(seen.tokenizer, seen.latents, HOW, seeds))
    assert torch.equal(found.ids[~chosen], seen.encoding.ids[~chosen])
    assert torch.equal(found.codes[~chosen], seen.encoding.codes[~chosen])
    assert (found.ids[chosen] != seen.encoding.ids[chosen]).any(1).all()
    torch.testing.assert_close(found.codes, seen.tokenizer.canvas_of(found.ids))
    assert found.loss is seen.encoding.loss


@pytest.mark.parametrize(("name", "quantizer"), CASES)
def test_gradients_are_those_of_the_codes_that_were_not_perturbed(pass_of, name, quantizer):
    gradients = []
    for perturbed in (False, True):
        seen = pass_of(name, quantizer)
        encoding = seen.encoding
        if perturbed:
            how = Perturbation(alpha=1.0, delta=9)
            encoding = perturbed_encoding(
                seen.tokenizer, seen.latents, encoding, how, image_seeds(0, range(4))
            )
            assert not torch.allclose(encoding.codes, seen.encoding.codes)
        weights = torch.linspace(-1, 1, encoding.codes.numel()).view_as(encoding.codes)
        (encoding.codes * weights).sum().backward()
        gradients.append(seen.tokenizer.pre_quant.weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_an_image_does_not_depend_on_its_batch(pass_of):
    seen, index = pass_of(count=8), torch.arange(40, 48)
    seeds = image_seeds(11, index)
    whole = perturbed_encoding(seen.tokenizer, seen.latents, seen.encoding, HOW, seeds)
    for part in (slice(0, 3), slice(3, 8)):
        latents = seen.latents[part]
        encoding = seen.tokenizer.quantize(latents)
        found = perturbed_encoding(seen.tokenizer, latents, encoding, HOW, seeds[part])
        assert torch.equal(found.ids, whole.ids[part])
        torch.testing.assert_close(found.codes, whole.codes[part])


def test_nobody_chosen_is_the_encoding_itself(pass_of):
    seen, nobody = pass_of(), Perturbation(alpha=1.0, delta=5, beta=0.0)
    seeds = image_seeds(0, range(4))
    assert perturbed_encoding(*seen_parts(seen), nobody, seeds) is seen.encoding
    with pytest.raises(ValueError, match="got 4 seeds for 3 images"):
        perturbed_encoding(seen.tokenizer, seen.latents[:3], seen.encoding, nobody, seeds)
    too_many = Perturbation(alpha=1.0, delta=33, beta=0.0)
    with pytest.raises(ValueError, match="got delta 33; this tokenizer has 32 codes"):
        perturbed_encoding(*seen_parts(seen), too_many, seeds)


def seen_parts(seen):
    return seen.tokenizer, seen.latents, seen.encoding


def test_under_autocast(pass_of):
    seen, seeds = pass_of(), image_seeds(5, range(4))
    with torch.autocast("cpu", torch.bfloat16):
        seen = pass_of()
        how = Perturbation(alpha=1.0, delta=5)
        found = perturbed_encoding(*seen_parts(seen), how, seeds)
        output = seen.tokenizer.decode_canvas(found.codes)
    F.mse_loss(output.float(), seen.images).backward()
    assert next(seen.tokenizer.encoder.parameters()).grad.isfinite().all()


def test_seeds_name_step_and_image():
    assert image_seeds(2, [0, 1]) == [2 << 64, (2 << 64) + 1]
    seeds = image_seeds(2**64 - 1, torch.tensor([2**62]))
    assert seeds[0] < 2**128
    np.random.Philox(key=seeds[0])


def test_the_annealing_of_robusttok():
    """``get_random_ratio`` of lxa9867/ImageFolder@76ddfb9, epochs 40 to 120 of 200."""
    schedule = PerturbationSchedule()
    expected = {0: 1.0, 40: 1.0, 80: 0.75, 100: 0.625, 120: 0.5, 199: 0.5}
    for epoch, ratio in expected.items():
        how = schedule.at(epoch / 200)
        assert how.alpha == pytest.approx(ratio)
        assert how.delta == pytest.approx(100 * ratio, abs=0.51)
        assert how.beta == 0.1
    assert PerturbationSchedule(final=0.0).at(0.99) == Perturbation(alpha=0.0, delta=1, beta=0.1)
    step = PerturbationSchedule(start=0.5, end=0.5)
    assert (step.at(0.5).alpha, step.at(0.51).alpha) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, "got alpha 1.5"),
        ({"delta": 0}, "got delta 0"),
        ({"final": 2.0}, "got final 2.0"),
        ({"start": 0.7, "end": 0.6}, "got start 0.7 and end 0.6"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PerturbationSchedule(**settings)
