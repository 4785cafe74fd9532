"""The planner counts what is allocated, and the batch follows the budget."""

import dataclasses
import math

import pytest
import torch
from tiny import MODEL_CASES, make_model, make_order, sentence
from torch.utils._pytree import tree_leaves

from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch
from arimage.sampling.planner import (
    ACTIVATIONS,
    GIB,
    LARGEST_BATCH,
    LOGIT_BYTES,
    budget_bytes,
    fitting_batch,
    image_bytes,
)


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_the_cache_is_counted_as_allocated(name, order, scale):
    model = make_model(name, order)
    bound, guidance = make_order(model), Guidance(scale)
    branch = Branch.of(model, bound, torch.tensor([0]), guidance)
    fields = [] if branch.cache is None else dataclasses.fields(branch.cache)
    held = tree_leaves([getattr(branch.cache, f.name) for f in fields])
    cache = sum(t.numel() * t.element_size() for t in held)
    steps = [bound.step(i) for i in range(bound.num_steps)]
    rows, widest = 1 + (scale != 1), max(len(s.positions) for s in steps)
    activations = rows * widest * model.config.width * ACTIVATIONS * 4
    logits = max(len(s.slots) for s in steps) * max(model.parts) * LOGIT_BYTES
    counted = image_bytes(model, bound, guidance, 1000)
    assert counted == cache + activations + logits + 1000


@pytest.mark.parametrize(("dtype", "halved"), [(torch.bfloat16, False), (torch.float16, True)])
def test_half_precision_halves_what_is_kept_in_it(dtype, halved):
    model = make_model("llama", "raster")
    bound, vocab, width = make_order(model), max(model.parts), model.config.width
    logits, activations = vocab * LOGIT_BYTES, width * ACTIVATIONS * 4
    cache = image_bytes(model, bound, Guidance(), 0) - logits - activations
    half = image_bytes(model.to(dtype), bound, Guidance(), 0) - logits - activations / 2
    assert half == (cache / 2 if halved else cache)  # bfloat16 steps of one token: see cache_dtype


def test_the_batch_follows_the_budget():
    assert [fitting_batch(100, b) for b in (0, 99, 100, 250, 10**9)] == [1, 1, 1, 2, LARGEST_BATCH]


def test_the_budget(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert budget_bytes(0.5, cpu) == GIB // 2
    assert budget_bytes(None, cpu) == 4 * GIB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
    assert budget_bytes(None, cuda) == 8 * GIB  # 0.8 of 7 free and 3 that torch keeps
    assert budget_bytes(1.0, cuda) == GIB


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_a_wrong_budget_is_told(wrong):
    with pytest.raises(ValueError) as caught:
        budget_bytes(wrong, torch.device("cpu"))
    assert f"got memory_budget {wrong}; expected GiB" in sentence(caught)
