"""The six full-size VAR files by name and shape, on the meta device: strict, no byte of weights."""

import pytest
import torch
from published import full_size

from arimage.ar.convert.var import VARLayout
from arimage.tokenizers.convert.var import VARTokenizerLayout
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("depth", [16, 20, 24, 30, 36])
def test_full_size_transformers_load_strictly(depth):
    converted = VARLayout().convert(full_size(f"var_d{depth}"), depth=depth)
    config = converted.config
    assert (config.depth, config.width, config.num_heads) == (depth, 64 * depth, depth)
    assert config.shared_adaln == (depth == 36)
    assert config.scales[-1] == (32 if depth == 36 else 16)
    assert len(converted.dropped) == depth + 2
    count = sum(value.numel() for value in converted.weights.values())
    assert count == PRESETS[f"var-d{depth}"].parameters[0]


def test_the_full_size_tokenizer_loads_strictly():
    converted = VARTokenizerLayout().convert(full_size("vae_ch160v4096z32"))
    assert sum(value.numel() for value in converted.weights.values()) == 108_948_355
    assert converted.config.channel_multipliers == (1, 1, 2, 2, 4)
    assert converted.dropped == ["quantize.ema_vocab_hit_SV"]


@pytest.mark.parametrize(
    ("layout", "name", "change", "words"),
    [
        (VARLayout(), "var_d16", {"blocks.0.mamba.x": 1}, "1 left over (blocks.0.mamba.x)"),
        (VARLayout(), "var_d16", {"head.bias": None}, "1 missing (output.bias)"),
        (VARLayout(), "var_d16", {"head.bias": 5}, "1 of another shape (output.bias [5], not"),
        (VARLayout(), "var_d16", {"head.weight": None}, "lacks head.weight"),
        (VARTokenizerLayout(), "vae_ch160v4096z32", {"loss.x": 1}, "1 left over (loss.x)"),
        (VARTokenizerLayout(), "vae_ch160v4096z32", {"encoder.conv_out.bias": None}, "1 missing"),
    ],
)
def test_a_key_more_or_less_is_an_error(layout, name, change, words):
    weights = dict(full_size(name))
    for key, size in change.items():
        weights.pop(key, None)
        if size is not None:
            weights[key] = torch.empty(size, device="meta")
    with pytest.raises(ValueError) as caught:
        layout.convert(weights)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
