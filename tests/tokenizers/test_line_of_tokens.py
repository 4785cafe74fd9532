"""TiTok's tokenizers: both kinds, and what tokens without a place in the image cannot do."""

import numpy as np
import pytest
import torch
from tiny import TINY_TOKENIZERS, fill, make_images, make_tokenizer, sentence, stripes

from arimage.ar.llama import LlamaConfig, LlamaModel
from arimage.generator import ImageGenerator
from arimage.images import from_pixels
from arimage.tokenizers.requantize import with_quantizer
from arimage.tokenizers.titok import TiTokConfig, TiTokTokenizer
from arimage.training.common import Recipe
from arimage.training.losses.alignment import AlignmentLoss
from arimage.training.tokenizer_trainer import decode_all, encode_all, train_tokenizer

FIELDS = {**TINY_TOKENIZERS["titok"], "vocab_size": 32, "code_dim": 6, "quantizer": "vq_learned"}
TWO_STAGE = {
    **FIELDS,
    **{"pixel_codes": 9, "pixel_code_dim": 8, "channels": 8, "channel_multipliers": (1, 2, 2)},
}


@pytest.fixture
def two_stage():
    tokenizer = TiTokTokenizer(TiTokConfig(**TWO_STAGE)).eval()
    fill(tokenizer)
    return tokenizer


@torch.no_grad()
def test_two_stage_images_do_not_depend_on_the_batch(two_stage):
    ids = torch.randint(32, (3, 12), generator=torch.Generator().manual_seed(0))
    two_stage.double()
    together = two_stage.decode(ids)
    alone = torch.cat([two_stage.decode(row[None]) for row in ids])
    assert together.shape == (3, 3, 16, 16)
    assert (together - alone).abs().max() <= 1e-10
    assert (together[0] - together[1]).abs().max() > 0.01


def test_two_stage_gradients_reach_every_part_with_or_without_kept_activations(two_stage):
    two_stage.train()
    gradients = []
    for _ in range(2):
        two_stage.zero_grad()
        output, encoding = two_stage(make_images(two_stage, 2))
        (output.square().mean() + encoding.loss).backward()
        gradients.append([p.grad.clone() for p in two_stage.parameters()])
        two_stage.gradient_checkpointing_enable()
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_memory_is_guessed_for_the_image_not_for_the_tokens(two_stage):
    tokenizer = make_tokenizer("titok", "vq_learned")
    least = 3 * tokenizer.config.image_size**2 * 4
    assert two_stage.bytes_per_image > tokenizer.bytes_per_image > least


def test_it_trains_as_other_tokenizers_do():
    pixels, _ = stripes(32)
    images = from_pixels(pixels)
    torch.manual_seed(0)
    recipe = Recipe(steps=50, batch_size=16, learning_rate=3e-3, progress=False)
    fresh = TiTokTokenizer(TiTokConfig(**FIELDS | {"quantizer": "vq_ema"}))
    before = (fresh.eval().reconstruct(images) - images).square().mean()
    trained, _ = train_tokenizer(fresh, pixels, recipe)
    error = (decode_all(trained, encode_all(trained, pixels)) - images).square().mean()
    assert error < 0.7 * images.var() < before


def test_another_quantizer_starts_with_its_codes():
    tokenizer = make_tokenizer("titok", "vq_learned")
    other = with_quantizer(tokenizer, "vq_ema")
    images = make_images(tokenizer, 2)
    assert torch.equal(other.encode(images), tokenizer.encode(images))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 18}, "not a multiple of the downsample factor 4; use 16 or 20"),
        ({"encoder_heads": 3}, "encoder_width 16 is not a multiple of encoder_heads 3"),
        ({"num_tokens": 0}, "got num_tokens 0; expected an integer >= 1"),
        ({"pixel_codes": -1}, "got pixel_codes -1; expected 0 for none"),
        ({"pixel_codes": 9}, "got downsample_factor 4 with 4 channel_multipliers, which give 8"),
        ({"depth": 2}, "got depth 2 with quantizer 'vq_learned'"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(change, words):
    with pytest.raises(ValueError) as caught:
        TiTokConfig(**FIELDS | change)
    assert words in sentence(caught)


def test_images_of_another_size_are_refused():
    tokenizer = make_tokenizer("titok")
    assert tokenizer.at([(1, 12)]).slots == tokenizer.slots
    for grids in ([(4, 4)], [(1, 16)]):
        with pytest.raises(ValueError) as caught:
            tokenizer.at(grids)
        assert f"got grids {grids}; this tokenizer is for images of 16 pixels" in sentence(caught)


def test_masks_are_refused_and_any_order_of_a_line_draws():
    tokenizer = make_tokenizer("titok")
    fields = {"vocab_size": 32, "depth": 1, "width": 16, "num_heads": 2, "mlp_hidden": 16}
    transformer = LlamaModel(LlamaConfig(grid=(1, 12), num_classes=3, **fields)).eval()
    generator = ImageGenerator(tokenizer, transformer)
    assert generator([0, 1], seeds=0).ids.shape == (2, 12)
    images, mask = np.zeros((1, 16, 16, 3), np.uint8), np.ones((16, 16), bool)
    for call in (generator.edit, generator.known):
        with pytest.raises(ValueError) as caught:
            call(images, mask)
        assert "the 12 tokens of this tokenizer lie on a line" in sentence(caught)


def test_a_loss_that_needs_places_is_refused():
    with pytest.raises(ValueError) as caught:
        AlignmentLoss.prepare(object(), make_tokenizer("titok"))
    assert "got the loss 'alignment' for a tokenizer whose tokens lie on a line" in sentence(caught)
