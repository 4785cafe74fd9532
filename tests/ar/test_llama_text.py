"""The folded prefix of text: equal to the plain masked attention, cheaper, exact in any dtype."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny import TEXT, TINY_MODELS, fill, make_condition, make_model, make_order, sentence

from arimage.ar.llama import running_mean
from arimage.ar.llama_text import LlamaTextConfig, TextContext, full_length
from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch
from arimage.text import TextFeatures

TOLERANCE = 1e-5
SIZES = range(len(TINY_MODELS["llama_text"].sizes))


@torch.no_grad()
def both(size, seed, rows=(0, 1, 2, 3), dtype=torch.float64):
    """Hidden states with the prefix folded, and at full length."""
    model = make_model("llama_text", "raster", size)
    fill(model, seed)
    model.to(dtype)
    condition = model.with_null(make_condition(model, rows))
    context, step = model.prepare(condition), make_order(model).full_step()
    shape = (len(context.prefix), model.slots.num_slots - 1)
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.config.vocab_size, shape, generator=drawn)
    return model(ids, context, step), full_length(model, ids, context, step)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("size", SIZES)
def test_the_folded_prefix_equals_full_length(size, seed):
    folded, plain = both(size, seed)
    assert plain.std() > 0.1
    assert (folded - plain).abs().max() < TOLERANCE
    folded, plain = both(size, seed, dtype=torch.float32)
    assert (folded - plain).abs().max() < TOLERANCE * plain.abs().max()


def test_a_prefix_that_counts_as_one_token_differs(monkeypatch):
    def light(self, step):
        mask = torch.zeros(step.mask.shape).masked_fill(~step.mask, -torch.inf)
        return mask.to(self.prefix.dtype).expand(len(self.mask), 1, -1, -1)

    monkeypatch.setattr(TextContext, "attention_mask", light)
    folded, plain = both(0, 0)
    assert (folded - plain).abs().max() > 1000 * TOLERANCE


def test_a_prefix_whose_padding_counts_differs(monkeypatch):
    keep = TextFeatures.right_aligned

    def blind(self):
        text = keep(self)
        return TextFeatures(text.features, torch.ones_like(text.mask))

    _, plain = both(0, 0)
    monkeypatch.setattr(TextFeatures, "right_aligned", blind)
    folded, _ = both(0, 0)
    assert (folded[0] - plain[0]).abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_weight_of_a_prefix_is_exact_in_any_dtype(dtype):
    """log n rounded to half precision alone would be off by up to 1.6 %."""
    step = make_order(make_model("llama_text", "raster")).step(4)
    for count in range(1, 121):
        mask = torch.ones(1, count, dtype=torch.bool)
        context = TextContext(torch.zeros(1, count, 8, dtype=dtype), mask)
        bias = context.attention_mask(step).double()
        weight = (bias[0, 0, 0, 0] - bias[0, 0, 0, 1]).exp()
        assert weight.item() == pytest.approx(count, rel=1e-4)
        assert (bias[..., 1:] == bias[..., 1:2]).all()


def test_the_cache_and_the_order_know_one_position_of_text():
    model = make_model("llama_text", "raster")
    order = make_order(model)
    assert order.length == model.slots.num_slots
    branch = Branch.of(model, order, make_condition(model, [0, 1]), Guidance(3.0))
    assert branch.cache.keys[0].shape[:3] == (4, model.config.num_heads, model.slots.num_slots)
    tokens = branch.context.mask.sum(1)
    assert tokens.tolist() == [1, 3, 1, 3]  # null rows are as long as their prompt
    assert branch.context.prefix.shape[1] == 3 < model.config.text_tokens


@torch.no_grad()
def test_neither_features_behind_the_mask_nor_their_place_matter():
    model = make_model("llama_text", "raster")
    step = make_order(model).full_step()
    text = make_condition(model, [0, 1])
    noisy = TextFeatures(torch.where(text.mask[..., None], text.features, 99.0), text.mask)
    moved = TextFeatures(text.features.roll(2, 1), text.mask.roll(2, 1))
    other = TextFeatures(text.features + text.mask[..., None], text.mask)
    ids = torch.zeros(2, model.slots.num_slots - 1, dtype=torch.long)
    hidden = [model(ids, model.prepare(t), step) for t in (text, noisy, moved, other)]
    assert torch.allclose(hidden[1], hidden[0], atol=1e-6)
    assert torch.allclose(hidden[2], hidden[0], atol=1e-6)
    assert not torch.allclose(hidden[3], hidden[0], atol=1e-3)


def test_a_running_mean():
    values = torch.tensor([[[5.0], [1.0], [2.0], [6.0]]])
    mask = torch.tensor([[False, True, True, True]])
    assert running_mean(values, mask).flatten().tolist() == [0, 1, 1.5, 3]


@torch.no_grad()
def test_the_prefix_of_a_class_needs_no_keys():
    """One position sees itself alone: attention is its value."""
    model = make_model("llama", "raster")
    block, step = model.blocks[0], make_order(model).step(0)
    x = torch.randn(3, 1, model.config.width)
    table = model.rotary_table(x.device)[:1]
    out, value = block.prefix(x, None)
    uncached = dataclasses.replace(step, cached=False)
    assert torch.allclose(out, block(x, table, uncached, None), atol=1e-6)
    v = F.linear(block.attention_norm(x), block.qkv.weight).chunk(3, -1)[2]
    heads = v.unflatten(-1, (model.config.num_heads, -1)).transpose(1, 2)
    assert torch.allclose(value, heads, atol=1e-6)
    block.qkv.pack()
    assert torch.allclose(block.prefix(x, None)[0], out, atol=1e-6)


WRONG = [
    (torch.zeros(2, 7, 9), torch.ones(2, 7), "got text features of width 9; this model reads 10"),
    (torch.zeros(2, 9, 10), torch.ones(2, 9), "got text features of 9 tokens; this model reads at"),
]


@pytest.mark.parametrize(("features", "mask", "words"), WRONG)
def test_features_that_do_not_fit_are_told(features, mask, words):
    model = make_model("llama_text", "raster")
    for read in (model.prepare, model.with_null):
        with pytest.raises(ValueError) as caught:
            read(TextFeatures(features, mask))
        assert words in sentence(caught)


def test_labels_are_not_text():
    with pytest.raises(TypeError) as caught:
        make_model("llama_text", "raster").prepare(torch.tensor([0]))
    assert "got a condition of type Tensor; this model draws from text" in sentence(caught)


def test_a_model_of_text_has_no_classes():
    with pytest.raises(ValueError) as caught:
        LlamaTextConfig(num_classes=5, **TEXT)
    assert "got num_classes 5; a model of text has 0" in sentence(caught)
