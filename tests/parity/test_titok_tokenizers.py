"""TiTok's tokenizers against recorded outputs of the reference (tests/golden/titok)."""

from types import SimpleNamespace

import pytest
import torch
from published import case as recorded
from published import full_size, near, save_part
from tiny import sentence

from arimage import checkpoint
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.convert.titok import TiTokTokenizerLayout
from arimage.tokenizers.registry import LAYOUTS
from arimage.tokenizers.titok import TiTokTokenizer
from arimage.tokenizers.vq import to_map

pytestmark = pytest.mark.parity
NAMES = ("tokenizer_legacy", "tokenizer_vq")
FULL = {  # tokens, code_dim, vocabulary, sizes (width, layers, heads), what drawing adds up at load
    "l32": (32, 12, 4096, (1024, 24, 16), (1024, 24, 16)),
    "b64": (64, 12, 4096, (768, 12, 12), (768, 12, 12)),
    "s128": (128, 12, 4096, (512, 8, 8), (512, 8, 8)),
    "bl64_vq8k": (64, 64, 8192, (768, 12, 12), (1024, 24, 16)),
}


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """A tokenizer; what was recorded of it, under names without its own."""
    found, name = recorded("titok"), request.param
    converted = TiTokTokenizerLayout().convert(found.parts[name], num_heads=4)
    tokenizer = TiTokTokenizer(converted.config).eval()
    tokenizer.load_state_dict(converted.weights)
    expected = {k.partition(".")[2]: v for k, v in found.expected.items() if k.startswith(name)}
    images = found.expected["image"].float() / 255 * 2 - 1
    with torch.no_grad():
        yield SimpleNamespace(
            name=name, tokenizer=tokenizer, images=images, config=found.config, **expected
        )


def test_the_config_is_what_the_reference_was_built_with(case):
    config, theirs = case.tokenizer.config, case.config[case.name]
    assert (config.image_size, config.downsample_factor, config.num_tokens) == (64, 16, 16)
    assert (config.vocab_size, config.code_dim) == (theirs["codebook_size"], theirs["token_size"])
    for side in ("encoder", "decoder"):
        ours = [getattr(config, f"{side}_{name}") for name in ("width", "layers", "heads")]
        assert ours == [theirs[side][name] for name in ("width", "layers", "heads")]
    assert config.pixel_codes == theirs.get("pixel_codebook", 0)
    assert (config.quantizer == "vq_learned_cosine") == theirs["use_l2_norm"]
    assert case.tokenizer.slots.grids == ((1, 16),)


def test_latents_ids_and_codes(case):
    latents = case.tokenizer.encode_latents(case.images)
    assert near(latents, case.pre_quant)
    assert not near(latents.flip(-1), case.pre_quant)
    found = case.tokenizer.quantize(latents)
    assert torch.equal(found.ids, case.encode_ids)
    assert torch.equal(case.tokenizer.encode(case.images), case.encode_ids)
    assert near(found.codes, case.z_quantized)
    assert not torch.equal(case.tokenizer.encode(-case.images), case.encode_ids)


def test_decoded_images(case):
    theirs = case.decoded * 2 - 1
    canvas = case.tokenizer.canvas_of(case.encode_ids)
    assert near(case.tokenizer.decode_canvas(canvas)[..., ::2, ::2], theirs)
    assert near(case.tokenizer.decode(case.encode_ids)[..., ::2, ::2], theirs.clamp(-1, 1))
    assert not near(case.tokenizer.decode(case.encode_ids.flip(1))[..., ::2, ::2], theirs)


def test_two_stage_models_say_codes_of_patches(case):
    if case.name == "tokenizer_vq":
        pytest.skip("draws pixels")
    tokens = case.tokenizer.post_quant(case.tokenizer.canvas_of(case.encode_ids))
    said = to_map(case.tokenizer.decoder.patches(tokens), (4, 4))
    assert near(said, case.decoder_logits)
    assert not near(said.transpose(2, 3), case.decoder_logits)


def test_two_stage_models_read_tokens_in_their_memory_order(case):
    encoder = case.tokenizer.encoder
    encoder.mixed = not encoder.mixed
    other = case.tokenizer.encode_latents(case.images)
    encoder.mixed = not encoder.mixed
    assert not near(other, case.pre_quant)


@pytest.mark.parametrize("size", FULL)
def test_full_size_tokenizers_load_strictly(size):
    weights = full_size(f"tokenizer_titok_{size}", "titok")
    recognised = [name for name in LAYOUTS if LAYOUTS[name]().recognizes(weights)]
    assert recognised == ["titok"]
    converted = LAYOUTS["titok"]().convert(weights)
    config, (tokens, dim, vocab, *sizes) = converted.config, FULL[size]
    assert (config.num_tokens, config.code_dim, config.vocab_size) == (tokens, dim, vocab)
    for side, numbers in zip(("encoder", "decoder"), sizes, strict=True):
        found = (getattr(config, f"{side}_{name}") for name in ("width", "layers", "heads"))
        assert tuple(found) == numbers
    assert (config.image_size, config.side, converted.dropped) == (256, 16, [])
    two_stage = size != "bl64_vq8k"
    assert config.pixel_codes == (1024 if two_stage else 0)
    if two_stage:
        assert (config.channels, config.channel_multipliers) == (128, (1, 1, 2, 2, 4))
        assert (config.num_res_blocks, config.pixel_code_dim) == (2, 256)
    ours = sum(value.numel() for value in converted.weights.values())
    (encoder, *_), (decoder, *_) = sizes
    summed = encoder * (1 + tokens) + decoder * 2  # class rows, latents' positions; the mask token
    assert sum(value.numel() for value in weights.values()) == ours + summed


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("l32", {"blocks.0.mamba.x": (1,)}, "1 left over (blocks.0.mamba.x)"),
        ("l32", {"decoder.ffn.2.bias": None}, "1 missing (decoder.head.2.bias)"),
        ("l32", {"pixel_decoder.up.0.mamba.weight": (1,)}, "left over (pixel_decoder.up.0.mamba"),
        ("l32", {"encoder.class_embedding": None}, "lacks encoder.class_embedding"),
        ("bl64_vq8k", {"pixel_decoder.conv_in.bias": (1,)}, "left over (pixel_decoder.conv_in"),
        ("bl64_vq8k", {"decoder.conv_out.bias": (5,)}, "(decoder.pixels.bias [5], not [3])"),
        ("bl64_vq8k", {"encoder.class_embedding": (1, 100)}, "TiTok of width 100, which is no"),
    ],
)
def test_a_file_that_does_not_fit_is_told(name, change, words):
    weights = dict(full_size(f"tokenizer_titok_{name}", "titok"))
    for key, size in change.items():
        weights.pop(key, None)
        if size is not None:
            weights[key] = torch.empty(size, device="meta")
    with pytest.raises(ValueError) as caught:
        TiTokTokenizerLayout().convert(weights)
    assert words in sentence(caught)


def test_another_image_size_than_the_files_is_told():
    with pytest.raises(ValueError) as caught:
        TiTokTokenizerLayout().convert(full_size("tokenizer_titok_s128", "titok"), image_size=512)
    assert "got image_size 512; the file holds a TiTok tokenizer for 256" in sentence(caught)


def test_a_file_loads_by_its_path_beside_a_config_that_is_not_ours(tmp_path, monkeypatch):
    """The hub's folders of TiTok carry the configuration of its authors."""
    path = save_part("titok", "tokenizer_vq", tmp_path)
    (tmp_path / "config.json").write_text('{"model": {"vq_model": {}}}')
    monkeypatch.setattr("arimage.tokenizers.convert.titok.HEAD_DIM", 32)
    content = checkpoint.read(path)
    for place in (path, tmp_path):
        tokenizer = ImageTokenizer.from_pretrained(place, cache_dir=tmp_path / "home")
        assert isinstance(tokenizer, TiTokTokenizer)
        weight = content["decoder.conv_out.weight"]
        assert torch.equal(tokenizer.decoder.pixels.weight, weight)
