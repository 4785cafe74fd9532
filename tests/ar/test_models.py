"""Transformers: their configs, their start, what they are paired with."""

import dataclasses
import math

import pytest
import torch
from tiny import (
    EVERY_MODEL,
    NUM_CLASSES,
    TINY_MODELS,
    make_condition,
    make_model,
    make_order,
    sentence,
)

from arimage.ar.llama import LlamaConfig
from arimage.ar.registry import MODELS
from arimage.ar.var import VARConfig, VARModel


@pytest.mark.parametrize(("name", "order"), EVERY_MODEL)
def test_a_model_says_what_it_was_built_for(name, order):
    model = make_model(name, order)
    assert model.config.order == order
    assert model.slots.num_slots > 1
    assert model.config.null_class == (0 if model.takes_text else NUM_CLASSES)
    shape = model.cache_shape
    assert shape.heads * shape.head_dim == model.config.width
    assert shape.layers == model.config.depth


@pytest.mark.parametrize(("name", "order"), EVERY_MODEL)
def test_context_rows_are_the_first_rows_of_every_tensor(name, order):
    model = make_model(name, order)
    context = model.prepare(make_condition(model, [2, 0, 1]))
    first = context.rows(2)
    assert type(first) is type(context)
    assert torch.equal(first.prefix, context.prefix[:2])
    bound = make_order(model)
    ids = torch.randint(0, model.config.vocab_size, (3, model.slots.num_slots))
    lesson = bound.lesson(ids[:1].expand(3, -1), torch.Generator().manual_seed(0))
    step = lesson.step
    if step.slots.ndim == 2:
        step = dataclasses.replace(step, slots=step.slots[:1], holds=step.holds[:1])
    with torch.no_grad():
        whole, part = model(lesson.inputs, context, step), model(lesson.inputs[:2], first, step)
    assert torch.allclose(part, whole[:2], atol=1e-5)
    assert not torch.allclose(part, whole[1:], atol=1e-2)


@pytest.mark.parametrize(("name", "order"), EVERY_MODEL)
def test_a_fresh_model_starts_near_the_uniform_distribution(name, order):
    cls, fields = MODELS[name], TINY_MODELS[name].sizes[0]
    model = cls(cls.config_class(order=order, **fields)).eval()
    bound = make_order(model)
    ids = torch.randint(0, model.config.vocab_size, (2, model.slots.num_slots))
    lesson = bound.lesson(ids, torch.Generator())
    with torch.no_grad():
        context = model.prepare(make_condition(model, [0, 1]))
        logits = model.head(model(lesson.inputs, context, lesson.step))
    size = getattr(bound, "size", model.parts[0])  # of what is chosen at once
    logits = logits.unflatten(-1, (-1, size))
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    assert math.log(size) - entropy.min() < 0.02


@pytest.mark.parametrize(("name", "order"), EVERY_MODEL)
def test_every_parameter_is_used(name, order):
    model = make_model(name, order)
    bound = make_order(model)
    ids = torch.randint(0, model.config.vocab_size, (6, model.slots.num_slots))
    lesson = bound.lesson(ids, torch.Generator().manual_seed(0))
    condition = model.with_null(make_condition(model, [0, 1, 2]))
    hidden = model(lesson.inputs, model.prepare(condition), lesson.step)
    model.head(hidden).square().sum().backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused


@pytest.mark.parametrize("name", MODELS)
def test_an_order_that_a_family_does_not_know_is_told(name):
    with pytest.raises(ValueError) as caught:
        MODELS[name].config_class(order="rastr")
    text = sentence(caught)
    assert "order of" in text
    assert "'rastr'" in text
    assert all(order in text for order in MODELS[name].config_class.orders)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (LlamaConfig, {"width": 30, "num_heads": 4}, "width 30 is not a multiple of num_heads 4"),
        (LlamaConfig, {"width": 24, "num_heads": 4}, "head_dim 6"),
        (LlamaConfig, {"grid": (4,)}, "got grid [4]; expected [height, width]"),
        (LlamaConfig, {"depth": 0}, "got depth 0; expected an integer >= 1"),
        (LlamaConfig, {"num_heads": 0}, "got num_heads 0; expected an integer >= 1"),
        (VARConfig, {"scales": (1, 3, 2)}, "expected growing sides from 1"),
        (VARConfig, {"scales": ()}, "expected growing sides from 1"),
        (VARConfig, {"scales": (2, 4)}, "expected growing sides from 1"),
        (VARConfig, {"width": 30, "num_heads": 4}, "width 30 is not a multiple of num_heads 4"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(config, fields, message):
    with pytest.raises(ValueError) as caught:
        config(**fields)
    assert message in sentence(caught)


def test_shared_modulation_starts_as_published():
    """FoundationVision/VAR@78b9539 models/var.py scales the offsets, not the shared projection."""
    width = 64
    model = VARModel(VARConfig(width=width, depth=3, shared_adaln=True))
    offsets = model.modulation.detach()
    assert offsets[:, :2].std().item() == pytest.approx(1e-3 * width**-0.5, rel=0.2)
    assert offsets[:, 2:].std().item() == pytest.approx(0.5 * width**-0.5, rel=0.2)
    shared = model.shared_modulation.weight.detach()
    assert shared[: 2 * width].std().item() == pytest.approx((3 * width) ** -0.5, rel=0.1)
    assert shared[2 * width :].std().item() == pytest.approx((3 * width) ** -0.5, rel=0.1)


def test_own_modulations_start_with_small_gates():
    width = 64
    model = VARModel(VARConfig(width=width, depth=2))
    for linear in model.modulations:
        weight = linear.weight.detach()
        assert weight[: 2 * width].std() < 2e-3 * width**-0.5
        assert weight[2 * width :].std().item() == pytest.approx(0.5 * (3 * width) ** -0.5, rel=0.1)
