"""Training masks in blocks: the rule entry by entry, outputs and gradients of the dense mask.

FlexAttention has no gradients on a CPU by a check of its own; behind it lies an implementation in
plain operations that has them. ``flex`` goes past the check.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from test_orders import GRIDS, RULED, UNCACHED, bind, rule
from tiny import MODELS, SIZED_MODEL_CASES, make_model, make_order, sentence
from torch.nn.attention import flex_attention as torch_flex

from arimage.ar import layers
from arimage.ar.block_mask import attend_blocks, choose_attention, make_block_mask, visible
from arimage.ar.registry import ORDERS
from arimage.slots import square_grids

LARGE = {
    "next_scale": [square_grids((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))],  # 680, VAR at 256 px
    "refined_scale": [square_grids((1, 2, 3, 5, 12))],
    "flexible_scale": [square_grids((1, 2, 3, 5, 12))],
    "raster": [((16, 16),), ((9, 15),)],
    "random": [((9, 15),)],
    "masked": [((16, 16),)],
    "halton": [((16, 16),)],
    "bits": [((16, 16),)],
    "regions": [((16, 16),)],
    "instructed": [((9, 15),)],
    "within_scale": [square_grids((1, 2, 5, 9))],
}
CASES = [
    (name, grids, prefix)
    for name in RULED
    for grids in (*GRIDS[name], *LARGE[name])
    for prefix in (1, 2)
]
MASKED = [
    (name, grids)
    for name in RULED
    if name not in UNCACHED
    for grids in (GRIDS[name][0], *LARGE[name])
]
CLASS_MODELS = [case for case in SIZED_MODEL_CASES if not MODELS[case[0]].takes_text]
ATTENTIONS = ("blocks", "flex")
EXACT = 1e-10  # float64
CLOSE = {"atol": 1e-5, "rtol": 1e-5}  # float32, sums in another order


@pytest.fixture
def unchecked(monkeypatch):
    """Torch's own implementation for CPUs, with gradients."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)


def flex(q, k, v, blocks, scale):
    return torch_flex.flex_attention(q, k, v, block_mask=blocks, scale=scale)


def quiet(test):
    """It says once that it is not compiled."""
    return pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")(test)


def inputs(length, width, seed=0, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(2, 3, length, width, generator=generator) for _ in range(4)]
    q, k, v, outer = (x.to(device, dtype) for x in drawn)
    return [x.requires_grad_() for x in (q, k, v)], outer


def results(attention, mask, given, outer, scale=None):
    """Output and the gradients of q, k, v."""
    out = attention(*given, mask, scale)
    return [out.detach(), *torch.autograd.grad(out, given, outer)]


def dense(q, k, v, mask, scale):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def all_close(a, b):
    return all(torch.allclose(x, y, **CLOSE) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("name", "grids", "prefix"), CASES)
def test_the_blocks_are_the_rule_entry_by_entry(name, grids, prefix):
    order, expected = bind(name, grids, prefix), rule(name, grids, prefix)
    if bool(expected.all()):
        assert order.block_mask is None
        assert order.full_step().mask is None
        return
    assert order.block_mask is order.block_mask  # made once
    assert torch.equal(visible(order.block_mask), expected)
    assert torch.equal(order.full_step().mask, expected)


def test_blocks_that_nobody_sees_are_left_out():
    """Of 6 x 6 blocks of a causal mask over 680, 21 are computed, 6 of them with the mask."""
    blocks = make_block_mask(torch.ones(680, 680, dtype=torch.bool).tril())
    assert blocks.kv_num_blocks.sum() + blocks.full_kv_num_blocks.sum() == 21
    assert 0 < blocks.full_kv_num_blocks.sum()


@pytest.mark.parametrize("entry", [(0, 1), (300, 5), (679, 679)])
def test_one_entry_more_or_less_is_another_block_mask(entry):
    """The negative twin."""
    mask = torch.ones(680, 680, dtype=torch.bool).tril()
    other = mask.clone()
    other[entry] ^= True
    assert not torch.equal(visible(make_block_mask(other)), mask)


@quiet
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("name", "grids"), MASKED)
def test_outputs_and_gradients_are_those_of_the_dense_mask(unchecked, name, grids, attention):
    order, scale = bind(name, grids, 2), 1.0 if name == "next_scale" else None
    given, outer = inputs(order.length, 12, dtype=torch.float64)
    attend = flex if attention == "flex" else attend_blocks
    found = results(attend, order.block_mask, given, outer, scale)
    expected = results(dense, order.full_step().mask, given, outer, scale)
    assert max(float((x - y).abs().max()) for x, y in zip(found, expected, strict=True)) < EXACT


@quiet
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_they_are_not_those_of_another_order(unchecked, attention):
    """The negative twin: raster's mask for next scale."""
    order = bind("next_scale", square_grids((1, 2, 3)))
    given, outer = inputs(order.length, 12)
    blocks = make_block_mask(torch.ones(order.length, order.length, dtype=torch.bool).tril())
    attend = flex if attention == "flex" else attend_blocks
    found = results(attend, blocks, given, outer)
    assert not all_close(found, results(dense, order.full_step().mask, given, outer))


@pytest.mark.parametrize(("name", "order_name", "size"), CLASS_MODELS)
def test_a_model_computes_the_same_under_blocks(name, order_name, size):
    """Logits and gradients of the parameters, for every family, order and size."""
    model = make_model(name, order_name, size)
    order = make_order(model)
    ids = torch.randint(0, model.config.vocab_size, (2, order.num_slots))
    lesson, labels = order.lesson(ids, torch.Generator().manual_seed(0)), torch.tensor([0, 2])

    def computed(step):
        model.zero_grad()
        logits = model.head(model(lesson.inputs, model.prepare(labels), step))
        logits.square().mean().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        return [logits.detach(), *grads]

    blocks = dataclasses.replace(lesson.step, mask=order.block_mask)
    plain = computed(lesson.step)
    assert all_close(computed(blocks), plain)
    if order.block_mask is not None:  # and the mask matters
        assert not all_close(computed(dataclasses.replace(lesson.step, mask=None)), plain)


def test_mixed_precision_attends_in_the_dtype_of_the_values():
    order = bind("raster", ((4, 4),))
    (q, k, v), _ = inputs(order.length, 12)
    step = dataclasses.replace(order.full_step(), mask=order.block_mask)
    out = layers.attend(q, k, v.bfloat16(), step, None, 0)
    assert out.dtype == torch.bfloat16
    full = layers.attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), order.full_step(), None, 0)
    assert torch.equal(out, full)


class Pretend:
    """As much of a transformer as the choice looks at."""

    def __init__(self, device="cpu", head_dim=64, takes_text=False):
        self.device, self.takes_text = torch.device(device), takes_text
        self.cache_shape = dataclasses.make_dataclass("Shape", ["head_dim"])(head_dim)


@pytest.mark.parametrize(
    ("asked", "given", "chosen"),
    [
        (None, {}, "sdpa"),
        (None, {"device": "cuda"}, "flex"),
        ("sdpa", {"device": "cuda"}, "sdpa"),
        ("flex", {}, "flex"),
        ("flex", {"head_dim": 4}, "flex"),
        (None, {"device": "cuda", "head_dim": 8}, "sdpa"),
        (None, {"device": "cuda", "takes_text": True}, "sdpa"),
    ],
)
def test_the_device_chooses_where_nobody_does(asked, given, chosen):
    choose = getattr(choose_attention, "__wrapped__", choose_attention)
    assert choose(asked, Pretend(**given)) == chosen


@pytest.mark.parametrize(
    ("asked", "given", "message"),
    [
        ("flash", {}, "got attention 'flash'; expected flex or sdpa"),
        ("flex", {"device": "cuda", "head_dim": 8}, "a model that has a head_dim of 8"),
        ("flex", {"takes_text": True}, "a model that is of text"),
    ],
)
def test_what_flex_cannot_do_is_told(asked, given, message):
    choose = getattr(choose_attention, "__wrapped__", choose_attention)
    with pytest.raises(ValueError) as caught:
        choose(asked, Pretend(**given))
    assert message in sentence(caught)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 24), (torch.bfloat16, 64)])
@pytest.mark.parametrize(("name", "grids"), MASKED)
def test_the_compiled_kernel_is_the_dense_mask(name, grids, dtype, width):
    """Products in TF32 (float32 inputs) or sums of bfloat16 products: ten bits or eight."""
    order = ORDERS[name](bind(name, grids).fuser, 2, "cuda")
    given, outer = inputs(order.length, width, device="cuda", dtype=dtype)
    found = results(attend_blocks, order.block_mask, given, outer)
    exact = [x.detach().double().requires_grad_() for x in given]
    expected = results(dense, order.full_step().mask, exact, outer.double())
    bound = 5e-3 if dtype == torch.float32 else 4e-2
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b).abs().max() <= bound * b.abs().max()
    wrong = results(dense, None, exact, outer.double())
    assert (found[0].double() - wrong[0]).abs().max() > bound * wrong[0].abs().max()
