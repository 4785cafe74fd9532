"""What holds for every tokenizer with every quantizer."""

import pytest
import torch
from tiny import TOKENIZER_CASES, make_images, make_tokenizer, sentence

from arimage.slots import Fuser
from arimage.tokenizers.base import Encoding
from arimage.tokenizers.conv import group_norm
from arimage.tokenizers.registry import QUANTIZERS, TOKENIZERS
from arimage.tokenizers.vq import VQTokenizerConfig

TOLERANCE = 1e-5


@torch.no_grad()
def encoding(tokenizer, images):
    return tokenizer.quantize(tokenizer.encode_latents(images))


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_shapes_types_and_range(tokenizers, name, quantizer):
    tokenizer = tokenizers(name, quantizer)
    images = make_images(tokenizer, 3)
    ids = tokenizer.encode(images)
    assert ids.shape == (3, tokenizer.slots.num_slots)
    assert ids.dtype == torch.int64
    assert 0 <= ids.min() <= ids.max() < tokenizer.config.vocab_size
    assert len(ids.unique()) > 5, "the tests mean nothing: one code serves all"
    side, size = tokenizer.config.side, tokenizer.config.image_size
    assert not tokenizer.placed or tokenizer.slots.grids[-1] == (side, side)
    assert tokenizer.image_shape == (size, size)
    assert tokenizer.canvas_of(ids).shape[1:] == (
        tokenizer.config.code_dim,
        *tokenizer.slots.grids[-1],
    )
    decoded = tokenizer.decode(ids)
    assert decoded.shape == images.shape
    assert decoded.abs().max() <= 1
    assert torch.equal(tokenizer.reconstruct(images), decoded)
    assert isinstance(tokenizer, Fuser)


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_encoding_is_deterministic_and_independent_of_the_batch(tokenizers, name, quantizer):
    tokenizer = tokenizers(name, quantizer)
    images = make_images(tokenizer, 4)
    together = encoding(tokenizer, images)
    again = encoding(tokenizer, images)
    assert torch.equal(together.ids, again.ids)
    assert torch.equal(together.codes, again.codes)
    for i in range(4):
        alone = encoding(tokenizer, images[i : i + 1])
        assert torch.equal(alone.ids[0], together.ids[i])
        assert (alone.codes[0] - together.codes[i]).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_decoding_is_independent_of_the_batch(tokenizers, name, quantizer):
    tokenizer = tokenizers(name, quantizer)
    ids = tokenizer.encode(make_images(tokenizer, 3))
    with torch.no_grad():
        together = tokenizer.decode(ids)
        alone = torch.cat([tokenizer.decode(row[None]) for row in ids])
    assert (together - alone).abs().max() <= TOLERANCE


def fuse_gap(tokenizer, change=lambda ids: ids):
    """|fuse over all groups of encode(x) - quantize(...).codes|, the ids changed on the way."""
    result = encoding(tokenizer, make_images(tokenizer, 3))
    with torch.no_grad():
        return (tokenizer.canvas_of(change(result.ids)) - result.codes).abs().max()


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_fusing_every_group_gives_the_codes(tokenizers, name, quantizer):
    assert fuse_gap(tokenizers(name, quantizer)) <= TOLERANCE


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_fusing_shuffled_slots_does_not(tokenizers, name, quantizer):
    tokenizer = tokenizers(name, quantizer)
    assert fuse_gap(tokenizer, lambda ids: ids.flip(1)) > 100 * TOLERANCE


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_look_up_takes_slots_in_any_order_shared_or_one_set_per_image(tokenizers, quantizer):
    tokenizer = tokenizers("vq", quantizer)
    ids = tokenizer.encode(make_images(tokenizer, 2))
    whole, order = tokenizer.canvas_of(ids), torch.randperm(ids.shape[1])
    codes = tokenizer.lookup(ids[:, order])
    shared = tokenizer.fuse(tokenizer.blank(2), 0, order, codes)
    own = tokenizer.fuse(tokenizer.blank(2), 0, order.expand(2, -1), codes)
    rounding = 0 if tokenizer.config.depth == 1 else 1e-5  # sums of several codes per cell
    assert torch.allclose(shared, whole, rtol=0, atol=rounding)
    assert torch.allclose(own, whole, rtol=0, atol=rounding)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_it_works_in_another_precision(name, quantizer, dtype):
    tokenizer = make_tokenizer(name, quantizer).to(dtype)
    images = make_images(tokenizer, 2).to(dtype)
    ids = tokenizer.encode(images)
    assert len(ids.unique()) > 3
    assert tokenizer.decode(ids).dtype == tokenizer(images)[0].dtype == dtype


def test_the_number_of_groups_divides_the_channels():
    assert [group_norm(c, g).num_groups for c, g in ((12, 8), (5, 32), (64, 32))] == [4, 1, 32]


def encoder_gradient(tokenizer, quantize):
    """Largest gradient of the reconstruction at the first weights of the encoder."""
    tokenizer.zero_grad()
    result = quantize(tokenizer.encode_latents(make_images(tokenizer, 3)))
    tokenizer.decode_canvas(result.codes).square().mean().backward()
    first = next(tokenizer.encoder.parameters())
    assert first.grad is None or first.grad.isfinite().all()
    return 0.0 if first.grad is None else first.grad.abs().max().item()


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_the_gradient_of_the_reconstruction_reaches_the_encoder(name, quantizer):
    tokenizer = make_tokenizer(name, quantizer).train()
    assert encoder_gradient(tokenizer, tokenizer.quantize) > 1e-6


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_without_the_straight_through_estimate_it_does_not(name, quantizer):
    tokenizer = make_tokenizer(name, quantizer).train()

    def cut(latents):
        result = tokenizer.quantize(latents)
        return Encoding(result.codes.detach(), result.ids, result.loss, result.rows)

    assert encoder_gradient(tokenizer, cut) == 0


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_a_training_pass_gives_images_and_a_loss(name, quantizer):
    tokenizer = make_tokenizer(name, quantizer).train()
    images = make_images(tokenizer, 3)
    output, result = tokenizer(images)
    assert output.shape == images.shape
    assert result.ids.shape == (3, tokenizer.slots.num_slots)
    assert result.loss.shape == ()
    (output.square().mean() + result.loss).backward()
    assert result.loss.isfinite()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_untrained_tokenizer_is_not_changed_by_encoding(name):
    cls = TOKENIZERS[name]
    tokenizer = cls(cls.config_class()).eval()
    before = {k: v.clone() for k, v in tokenizer.state_dict().items()}
    tokenizer.encode(make_images(tokenizer, 1))
    assert all(torch.equal(v, before[k]) for k, v in tokenizer.state_dict().items())


@pytest.mark.parametrize("name", TOKENIZERS)
def test_images_and_ids_that_do_not_fit_are_told(tokenizers, name):
    tokenizer = tokenizers(name, "vq_ema")
    slots = tokenizer.slots.num_slots
    for call, argument, message in (
        (tokenizer.encode, torch.zeros(1, 3, 16, 20), "got images of 16 x 20 pixels"),
        (tokenizer.decode, torch.zeros(1, 5, dtype=torch.long), f"has {slots} slots"),
        (tokenizer.decode, torch.full((1, slots), 32), "got ids from 32 to 32; expected 0 to 31"),
        (tokenizer.decode, torch.full((1, slots), -1), "got ids from -1 to -1; expected 0 to 31"),
    ):
        with pytest.raises(ValueError) as caught:
            call(argument)
        assert message in sentence(caught)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 30}, "not a multiple of the downsample factor 8; use 24 or 32"),
        ({"image_size": 4}, "use 8 or 16"),
        ({"downsample_factor": 4}, "got downsample_factor 4 with 4 channel_multipliers"),
        ({"channels": 0}, "got channels 0; expected an integer >= 1"),
        ({"vocab_size": -1}, "got vocab_size -1; expected an integer >= 1"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(fields, message):
    with pytest.raises(ValueError) as caught:
        VQTokenizerConfig(**fields)
    assert message in sentence(caught)


def test_an_unknown_quantizer_is_told():
    with pytest.raises(KeyError) as caught:
        TOKENIZERS["vq"](VQTokenizerConfig(quantizer="vq_emaa"))
    assert "Did you mean 'vq_ema'" in sentence(caught)
