"""The single-scale tokenizer: other image sizes, and what its config refuses."""

import pytest
import torch
import torch.nn.functional as F
from tiny import make_images, make_tokenizer, sentence

from arimage.tokenizers.conv import NETWORKS, ResidualBlock
from arimage.tokenizers.vq import VQTokenizerConfig

NAMES = ("vq", *(f"vq {network}" for network in NETWORKS if network != "ldm"))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_rectangular_images(name):
    tokenizer = make_tokenizer(name, "vq_learned")
    native = tokenizer.slots
    wide = tokenizer.at([(3, 7)])
    images = F.interpolate(make_images(tokenizer, 2), (12, 28), mode="bilinear")
    latents = wide.encode_latents(images)
    book = tokenizer.lookup(torch.arange(tokenizer.config.vocab_size)[None])
    by_row = torch.cdist(latents.permute(0, 2, 3, 1).flatten(1, 2), book).argmin(-1)
    ids = wide.encode(images)
    assert torch.equal(ids, by_row)
    assert torch.equal(wide.canvas_of(ids), book[0][ids].transpose(1, 2).unflatten(2, (3, 7)))
    assert wide.reconstruct(images).shape == images.shape
    assert wide.bytes_per_image == tokenizer.bytes_per_image * 21 // 16
    assert tokenizer.slots == native
    square = make_images(tokenizer, 2)
    assert torch.equal(tokenizer.at(native.grids).encode(square), tokenizer.encode(square))


@pytest.mark.parametrize("grids", [(), ((1, 1), (2, 2)), ((0, 3),), ((4, -1),)])
def test_maps_that_it_cannot_have_are_told(grids):
    with pytest.raises(ValueError) as caught:
        make_tokenizer("vq").at(grids)
    assert "give one (height, width), which is the image size divided by 4" in sentence(caught)


def test_an_image_of_another_size_than_the_map_is_told():
    with pytest.raises(ValueError) as caught:
        make_tokenizer("vq").at([(3, 7)]).encode(torch.zeros(1, 3, 16, 16))
    assert "takes 12 x 28" in sentence(caught)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"network": "ldmm"}, "Did you mean 'ldm'"),
        ({"network": "maskgit"}, "got latent_channels 32 and code_dim 16"),
    ],
)
def test_networks_that_do_not_go_together_are_told(fields, message):
    with pytest.raises(ValueError) as caught:
        VQTokenizerConfig(**fields)
    assert message in sentence(caught)


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("width", [8, 16])
def test_the_skip_reads_what_its_family_says(network, width):
    block = ResidualBlock(8, width, 4, NETWORKS[network])
    x = torch.randn(2, 8, 5, 5)
    h = block.conv1(F.silu(block.norm1(x)))
    h = block.conv2(F.silu(block.norm2(h)))
    if width == 8:
        expected = x + h
    else:
        source = h if network in ("maskgit", "maskbit") else x
        bias = block.shortcut.bias
        expected = h + F.conv2d(source, block.shortcut.weight, bias)
        assert (bias is None) == (network != "ldm")
    assert torch.allclose(block(x), expected, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_pixels_come_and_go_in_one_range(name):
    """Networks over [0, 1] see a half where networks over [-1, 1] see zero."""
    tokenizer = make_tokenizer(name, "vq_learned")
    seen = []
    tokenizer.encoder.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 16, 16)
    tokenizer.encoder(images)
    low = {"ldm": -1.0, "maskgit": 0.0, "maskbit": 0.0, "magvit2": -1.0}[tokenizer.config.network]
    assert seen[0][0, :, 0, 0].tolist() == [low, (low + 1) / 2, 1.0]
    last = tokenizer.decoder.layers[-1]
    last.weight.zero_()
    last.bias.copy_(torch.tensor([low, (low + 1) / 2, 1.0]))
    decoded = tokenizer.decoder(torch.zeros(1, tokenizer.config.latent_channels, 4, 4))
    assert decoded[0, :, 0, 0].tolist() == [-1.0, 0.0, 1.0]
