"""Linear weights in 8 bits: what is converted, how far it may be off, what is refused."""

import copy
from importlib.util import find_spec

import pytest
import torch
from tiny import EVERY_MODEL, make_generator, make_model, sentence

from arimage.ar import quantized
from arimage.ar.linear import Linear
from arimage.ar.quantized import CONFIGS, is_quantized
from arimage.ar.registry import MODELS
from arimage.eval.protocols import PROTOCOLS
from arimage.generator import ImageGenerator
from arimage.pretrained import identity

needs_torchao = pytest.mark.skipif(
    find_spec("torchao") is None, reason="torchao is in the optional group 'quantize'"
)
FIRST_ORDER = [(name, MODELS[name].config_class.orders[0]) for name in MODELS]


def half_steps(weight, kind):
    """The most that rounding moves each weight: half a step of its row; of e4m3, which has 4
    significant bits, 1/16 of itself, and below its normal numbers half of 2^-9 of a scale.

    Scales are the row's largest magnitude over 127.5 and 448 (torchao); 1 % for their rounding.
    """
    most = weight.abs().amax(1, keepdim=True)
    if kind == "int8":
        return 1.01 * most.expand_as(weight) / 127.5 / 2
    return 1.01 * torch.maximum(weight.abs() / 16, most / 448 * 2**-10)


@needs_torchao
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(("name", "order"), EVERY_MODEL)
def test_weights_of_blocks_and_head_move_by_half_a_step_at_most(name, order, kind):
    model = make_model(name, order)
    before = {key: value.clone() for key, value in model.named_parameters()}
    model.quantize(kind)
    layers = {f"{key}.weight": m for key, m in model.named_modules() if is_quantized(m, key)}
    assert "output.weight" in layers
    assert {key.split(".")[1] for key in layers if key.startswith("blocks.")} == {
        str(i) for i in range(model.config.depth)
    }
    assert all(isinstance(m, Linear) and m.quantized for m in layers.values())
    for key, parameter in model.named_parameters():
        if key not in layers:
            assert torch.equal(parameter, before[key])
            continue
        assert parameter.qdata.element_size() == 1
        off, bound = (parameter.dequantize() - before[key]).abs(), half_steps(before[key], kind)
        assert (off <= bound).all()
        assert (off > bound / 8).any()  # so the bound is not idle
    coarse = before["output.weight"]
    step = coarse.abs().amax(1, keepdim=True) / 7.5  # four bits
    off = ((coarse / step).round() * step - coarse).abs()
    assert not (off <= half_steps(coarse, kind)).all()


@needs_torchao
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(("name", "order"), EVERY_MODEL)
def test_ids_are_those_of_the_rounded_weights(name, order, kind):
    """The same products as a plain model whose weights were rounded: nothing else changes."""
    generator = make_generator(name, order, guidance_scale=2.0)
    small, rounded = (copy.deepcopy(generator.transformer) for _ in range(2))
    small.quantize(kind)
    with torch.no_grad():
        for key, parameter in small.named_parameters():
            values = parameter.dequantize() if hasattr(parameter, "qdata") else parameter
            rounded.get_parameter(key).copy_(values)
    logits = [logits_of(generator, model) for model in (generator.transformer, small, rounded)]
    exact, found, expected = logits
    assert (found - expected).abs().max() < 1e-4
    assert (found - exact).abs().max() > 1e-3


def logits_of(generator, model):
    """Guided logits of the first step."""
    kept = []
    hook = model.output.register_forward_hook(lambda module, inputs, out: kept.append(out))
    maker = ImageGenerator(generator.tokenizer, model, generator.settings)
    asked = {"prompts": maker.conditions.nothing()} if model.takes_text else {}
    list(maker.sample(None if asked else [0, 1], [0, 1][: 2 - bool(asked)], **asked))
    hook.remove()
    return kept[0]


@needs_torchao
def test_quantised_layers_are_not_packed_and_survive_copies_and_moves():
    generator = make_generator("llama", "raster")
    generator.transformer.quantize("int8")
    first = generator([0, 1], seeds=0, output_type="pixels").ids
    assert generator.transformer.blocks[0].qkv.packed is None
    generator.to("cpu")
    other = copy.deepcopy(generator.transformer).eval()
    assert other.quantized == "int8"
    again = ImageGenerator(generator.tokenizer, other)
    assert torch.equal(again([0, 1], seeds=0, output_type="pixels").ids, first)
    assert identity(other) == identity(generator.transformer)
    assert identity(other) != identity(make_model("llama", "raster"))


@needs_torchao
@pytest.mark.parametrize(
    ("kind", "bound"),
    [("int8", 0.02), ("fp8", 0.06)],  # below twice the mean of docs/performance.md
)
def test_logits_of_a_trained_model_move_little(kind, bound):
    exact, small = (
        ImageGenerator.from_pretrained("digits-var", dtype=torch.float32) for _ in range(2)
    )
    small.transformer.quantize(kind)
    one, other = (logits_of(g, g.transformer) for g in (exact, small))
    assert 0 < (one - other).abs().mean() < bound


@needs_torchao
def test_what_cannot_be_done_with_quantised_weights_is_told(tmp_path):
    generator = make_generator("var", "next_scale")
    model = generator.transformer
    model.quantize("fp8")
    for what, call in {
        "trained": model.train,
        "saved": lambda: model.save_pretrained(tmp_path / "model"),
        "quantised again": lambda: model.quantize("int8"),
    }.items():
        with pytest.raises(ValueError) as caught:
            call()
        assert f"weights in fp8 cannot be {what}; load it again" in sentence(caught)
    with pytest.raises(ValueError, match="cannot be saved"):
        generator.save_pretrained(tmp_path / "generator", dtype=torch.float16)
    assert not list(tmp_path.rglob("*.*"))
    assert not any(module.training for module in model.modules())
    plain = make_generator("var", "next_scale")
    plain.transformer.train()
    plain.save_pretrained(tmp_path / "plain")


@needs_torchao
def test_a_record_says_that_weights_are_quantised():
    source = ImageGenerator.from_pretrained("digits-var", dtype=torch.float32)
    protocol = next(name for name in PROTOCOLS if name.startswith("digits"))
    plain = source.stream_dataset(protocol)
    before, identity_before = plain.record, plain.identity
    assert before["quantized"] is None
    assert before["deviations"] == []
    source.transformer.quantize("int8")
    images = source.stream_dataset(protocol)
    assert images.record["quantized"] == "int8"
    assert images.record["deviations"] == ["transformer weights in int8"]
    assert images.identity != identity_before


def test_an_unknown_kind_is_told():
    model = make_model("llama", "raster")
    with pytest.raises(KeyError) as caught:
        model.quantize("int9")
    assert "unknown kind of quantised weights 'int9'. Did you mean 'int8'" in sentence(caught)
    assert model.quantized is None


def test_without_torchao_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    model = make_model("llama", "raster")
    with pytest.raises(ModuleNotFoundError) as caught:
        model.quantize("int8")
    assert "pip install 'arimage[quantize]'" in sentence(caught)
    assert not any(getattr(module, "quantized", False) for module in model.modules())
    model.train()
