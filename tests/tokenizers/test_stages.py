"""Reconstructions after each token map, and the picture of a training."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import make_images, make_tokenizer

from arimage.images import from_pixels, to_pixels
from arimage.sheets import sheet
from arimage.tokenizers.perturb import perturbed_reconstruct
from arimage.tokenizers.stages import decode_stages, evaluating, reconstruct_stages, sample_grid


@pytest.fixture(scope="module", params=["vq", "multiscale_vq"])
def tokenizer(request):
    return make_tokenizer(request.param)


@pytest.fixture(scope="module")
def pixels(tokenizer):
    return to_pixels(make_images(tokenizer, 5))


def test_the_last_stage_is_the_whole(tokenizer, pixels):
    stages = list(reconstruct_stages(tokenizer)(pixels))
    assert len(stages) == tokenizer.slots.num_scales
    whole = to_pixels(tokenizer.reconstruct(from_pixels(pixels)))
    assert np.array_equal(stages[-1], whole)
    assert np.array_equal(stages[-1], perturbed_reconstruct(tokenizer, 0.0, 1)(pixels))
    assert np.array_equal(next(reconstruct_stages(tokenizer, whole=True)(pixels)), whole)
    for a, b in pairwise(stages):
        assert not np.array_equal(a, b)


def test_a_stage_knows_nothing_of_later_maps():
    tokenizer = make_tokenizer("multiscale_vq")
    start, _ = tokenizer.slots.span(2)
    ids = tokenizer.encode(make_images(tokenizer, 2))
    other = ids.clone()
    other[:, start:] = (ids[:, start:] + 1) % tokenizer.config.vocab_size
    with torch.no_grad():
        ours, theirs = list(decode_stages(tokenizer, ids)), list(decode_stages(tokenizer, other))
    assert [torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)] == [True, True, False]
    with pytest.raises(ValueError, match="slots"):
        next(decode_stages(tokenizer, ids[:, 1:]))


def test_ids_are_shown_and_gradients_are_not_kept(tokenizer, pixels):
    shown = []
    stages = reconstruct_stages(tokenizer, seen=shown.append)(pixels)
    next(stages)
    assert torch.is_grad_enabled()
    assert len(list(stages)) == tokenizer.slots.num_scales - 1
    (ids,) = shown
    assert torch.equal(ids, tokenizer.encode(from_pixels(pixels)))
    with pytest.raises(ValueError, match="resize or crop them first"):
        next(reconstruct_stages(tokenizer)(pixels[:, :8]))


def test_the_picture_of_a_training_leaves_it_as_it_was(tokenizer, pixels):
    expected = to_pixels(tokenizer.reconstruct(from_pixels(pixels)))
    tokenizer.train()
    frozen = tokenizer.encoder.eval()
    state = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    drawn = sample_grid(tokenizer, pixels)
    assert np.array_equal(drawn, sheet({"original": pixels, "reconstruction": expected}))
    assert tokenizer.training
    assert tokenizer.quantizer.training
    assert not any(module.training for module in frozen.modules())
    assert all(torch.equal(state[name], value) for name, value in tokenizer.state_dict().items())
    tokenizer.eval()


def test_modes_come_back_after_an_error(tokenizer):
    tokenizer.train()
    seen = []

    def fail():
        with evaluating(tokenizer):
            seen.append(tokenizer.decoder.training)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [False]
    assert tokenizer.decoder.training
    tokenizer.eval()
