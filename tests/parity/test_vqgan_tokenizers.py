"""LlamaGen's, MaskGIT's and taming's tokenizers against recorded outputs of the reference."""

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from published import case, full_size, near, save_part
from tiny import sentence

from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.convert.llamagen import LlamaGenTokenizerLayout
from arimage.tokenizers.convert.maskgit import MaskGITTokenizerLayout
from arimage.tokenizers.convert.taming import TamingTokenizerLayout
from arimage.tokenizers.convert.var import VARTokenizerLayout

pytestmark = pytest.mark.parity
PARTS = {"llamagen_c2i": "vq", "rar": "maskgit_vqgan", "taming_vqgan": "vqgan"}
BLACK = {"llamagen_c2i": -1, "rar": 0, "taming_vqgan": -1}  # the reference's; white is 1


@pytest.fixture(scope="module", params=PARTS)
def found(request, tmp_path_factory):
    """A case with its tokenizer, loaded from the file as it is published."""
    found, folder = case(request.param), tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(folder / "home"))
        path = save_part(request.param, PARTS[request.param], folder)
        found.tokenizer = ImageTokenizer.from_pretrained(path, image_size=64)
    found.images = found.expected["image"].float() / 255 * 2 - 1
    found.ids = found.expected["encode_ids"].long()
    with torch.no_grad():
        yield found


def theirs(found, images):
    """Our images in the reference's range."""
    return images if BLACK[found.name] == -1 else (images + 1) / 2


def test_the_config_is_what_the_reference_was_built_with(found):
    config, record = found.tokenizer.config, found.config
    wanted = {
        "llamagen_c2i": lambda c: (c["vq"]["ch"], c["vq"]["z_channels"], c["vq"]["ch_mult"], 8),
        "rar": lambda c: (64, 32, c["maskgit_vqgan"]["channel_mult"], 32),
        "taming_vqgan": lambda c: (64, 32, c["ddconfig"]["ch_mult"], c["embed_dim"]),
    }[found.name](record)
    multipliers = list(config.channel_multipliers)
    assert (config.channels, config.latent_channels, multipliers, config.code_dim) == wanted
    assert (config.vocab_size, config.downsample_factor, config.num_res_blocks) == (256, 16, 2)


def test_encoding(found):
    latents = found.tokenizer.encode_latents(found.images)
    recorded = "encoder_feature" if found.name == "rar" else "pre_quant"
    assert near(latents, found.expected[recorded])
    assert torch.equal(found.tokenizer.encode(found.images), found.ids)
    if "quant" in found.expected:
        assert near(found.tokenizer.quantize(latents).codes, found.expected["quant"])
        assert near(found.tokenizer.canvas_of(found.ids), found.expected["quant"])


def test_decoding(found):
    tokenizer, recorded = found.tokenizer, found.expected["decoded"]
    images = theirs(found, tokenizer.decode_canvas(tokenizer.canvas_of(found.ids)))
    clamped = theirs(found, tokenizer.decode(found.ids))[..., ::4, ::4]
    assert near(clamped, recorded.clamp(BLACK[found.name], 1))
    assert tokenizer.decode(found.ids).abs().max() <= 1
    if found.name == "rar":
        assert near(
            F.avg_pool2d(images, 8)[..., ::2, ::2], found.expected["decoded_unclamped_pooled"]
        )
        images = images.clamp(0, 1)
    assert near(images[..., ::4, ::4], recorded)


def test_other_pixels_and_other_codes_do_not_match(found):
    tokenizer, wrong = found.tokenizer, found.images.flip(1)  # BGR
    assert not torch.equal(tokenizer.encode(wrong), found.ids)
    other_range = found.images / 2 + 0.5 if BLACK[found.name] == -1 else found.images * 2 - 1
    assert not torch.equal(tokenizer.encode(other_range), found.ids)
    decoded = theirs(found, tokenizer.decode((found.ids + 1) % 256))[..., ::4, ::4]
    assert not near(decoded, found.expected["decoded"].clamp(BLACK[found.name], 1))


def test_a_rectangular_image():
    found = case("taming_vqgan")
    converted = TamingTokenizerLayout().convert(found.parts["vqgan"])
    tokenizer = TamingTokenizerLayout.model(converted.config)
    tokenizer.load_state_dict(converted.weights)
    wide = tokenizer.eval().at([(4, 2)])
    with torch.no_grad():
        ids = wide.encode(found.expected["image_rect"].float() / 255 * 2 - 1)
        images = wide.decode_canvas(wide.canvas_of(ids))
    assert torch.equal(ids, found.expected["encode_ids_rect"].long())
    assert near(images[..., ::4, ::4], found.expected["decoded_rect"])
    assert not near(images.flip(-1)[..., ::4, ::4], found.expected["decoded_rect"])


LLAMAGEN, MASKGIT, TAMING = (
    LlamaGenTokenizerLayout(),
    MaskGITTokenizerLayout(),
    TamingTokenizerLayout(),
)
SIZES = {  # parameters as published; LlamaGen's manifests also count 65,536 entries of a buffer
    ("llamagen_c2i", "llamagen_VQ-16"): (LLAMAGEN, 71_883_403, (1, 1, 2, 2, 4)),
    ("llamagen_c2i", "llamagen_VQ-8"): (LLAMAGEN, 70_109_835, (1, 2, 2, 4)),
    ("rar", "maskgit-vqgan-imagenet-f16-256"): (MASKGIT, 54_515_587, (1, 1, 2, 2, 4)),
}


@pytest.mark.parametrize(("family", "name"), SIZES)
def test_full_size_files_load_strictly(family, name):
    layout, parameters, multipliers = SIZES[family, name]
    converted = layout.convert(full_size(name, family), image_size=384)
    assert sum(value.numel() for value in converted.weights.values()) == parameters
    assert converted.config.channel_multipliers == multipliers
    assert converted.config.image_size == 384
    dropped = ["quantize.codebook_used"] if family == "llamagen_c2i" else []
    assert converted.dropped == dropped
    others = [LLAMAGEN, MASKGIT, TAMING, VARTokenizerLayout()]
    weights = full_size(name, family)
    assert [type(o) for o in others if o.recognizes(weights)] == [type(layout)]


def full_size_taming(codes):
    """The f16 files: the tiny one's names with 128 channels, 256 latents and so many codes."""
    wider = {32: 256, 64: 128, 128: 256, 256: 512}
    shapes = {
        key: [wider.get(n, n) for n in value.shape]
        for key, value in case("taming_vqgan").parts["vqgan"].items()
        if not key.startswith("loss.")
    }
    shapes["quantize.embedding.weight"] = [codes, 256]
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("codes", [1024, 16384])
def test_full_size_taming_loads_strictly(codes):
    """As many parameters as LlamaGen's twin with the codebook and its convolutions exchanged."""
    converted = TAMING.convert(full_size_taming(codes))
    twin = full_size("llamagen_VQ-16", "llamagen_c2i")
    networks = sum(v.numel() for k, v in twin.items() if k.startswith(("encoder", "decoder")))
    quantizer = codes * 256 + 2 * (256 * 256 + 256)
    assert sum(v.numel() for v in converted.weights.values()) == networks + quantizer
    assert (converted.config.vocab_size, converted.config.code_dim) == (codes, 256)
    assert converted.config.quantizer == "vq_learned"


def file(name):
    return dict(case(name).parts[PARTS[name]])


@pytest.mark.parametrize(
    ("layout", "name", "change", "words"),
    [
        (LLAMAGEN, "llamagen_c2i", {"decoder.mid.1.q.weight": (256, 5, 1, 1)}, "of another shape"),
        (LLAMAGEN, "llamagen_c2i", {"encoder.mid.2.conv1.weight": (4, 4)}, "of another shape"),
        (LLAMAGEN, "llamagen_c2i", {"encoder.conv_blocks.3.attn.0.q.bias": 9}, "1 left over"),
        (LLAMAGEN, "llamagen_c2i", {"decoder.mid.1.k.bias": None}, "of another shape"),
        (LLAMAGEN, "llamagen_c2i", {"decoder.norm_out.bias": None}, "1 missing"),
        (LLAMAGEN, "llamagen_c2i", {"quantize.embedding.weight": None}, "lacks quantize.embedding"),
        (MASKGIT, "rar", {"decoder.up.3.upsample_conv.bias": None}, "1 missing"),
        (MASKGIT, "rar", {"encoder.mid.0.conv1.bias": 256}, "1 left over (encoder.layers"),
        (MASKGIT, "rar", {"encoder.down.2.block.0.nin_shortcut.weight": (128, 64)}, "another sha"),
        (TAMING, "taming_vqgan", {"colorize": (3, 1, 1, 1)}, "1 left over (colorize)"),
        (TAMING, "taming_vqgan", {"quant_conv.bias": None}, "1 missing (pre_quant.bias)"),
        (TAMING, "taming_vqgan", {"encoder.down.3.attn.0.norm.bias": 128}, "1 left over"),
    ],
)
def test_a_key_more_or_less_is_an_error(layout, name, change, words):
    weights = file(name)
    layout.convert(weights)
    for key, shape in change.items():
        weights.pop(key, None)
        if shape is not None:
            weights[key] = torch.empty(shape)
    with pytest.raises(ValueError) as caught:
        layout.convert(weights)
    assert words in sentence(caught)


def test_several_scales_for_one_map_are_told():
    assert LLAMAGEN.convert(file("llamagen_c2i"), scales=(24,)).config.image_size == 384
    with pytest.raises(ValueError) as caught:
        LLAMAGEN.convert(file("llamagen_c2i"), scales=(1, 2, 4))
    assert "got scales 1, 2, 4 for a LlamaGen tokenizer" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        MASKGIT.convert(file("rar"), image_size=250)
    assert "use 240 or 256" in sentence(caught)
