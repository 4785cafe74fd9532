"""Rotary positions, norms, masks and label dropout."""

import dataclasses
import inspect

import pytest
import torch
import torch.nn.functional as F
from tiny import make_tokenizer
from torch.fx.experimental.proxy_tensor import make_fx

from arimage.ar import layers
from arimage.ar.base import may_see
from arimage.ar.draws import drop_labels
from arimage.ar.layers import (
    RMSNorm,
    SwiGLU,
    attend,
    attend_by_products,
    rotary_2d,
    rotate,
)
from arimage.ar.orders.raster import RasterOrder

CPU = torch.device("cpu")


def test_prefix_rows_are_zero_so_that_their_queries_and_keys_vanish():
    table = rotary_2d((3, 4), 2, 8, 10000.0, CPU)
    assert table.shape == (2 + 12, 4, 2)
    assert (table[:2] == 0).all()
    assert (table[2:].norm(dim=-1) - 1).abs().max() < 1e-6
    turned = rotate(torch.randn(1, 2, 14, 8), table)
    assert (turned[:, :, :2] == 0).all()
    assert (turned[:, :, 2:] != 0).any(-1).all()


def test_half_of_the_pairs_turn_with_the_row_and_half_with_the_column():
    height, width = 3, 4
    table = rotary_2d((height, width), 0, 16, 10000.0, CPU).unflatten(0, (height, width))
    rows, columns = table[:, :, :4], table[:, :, 4:]
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert torch.equal(columns, columns[:1].expand_as(columns))
    angle = torch.atan2(rows[2, 0, :, 1], rows[2, 0, :, 0])
    assert torch.allclose(angle, 2 * 10000.0 ** -(torch.arange(4) / 4), atol=1e-6)
    assert torch.equal(rows[:, 0], columns[0, :height])


def scores_depend_on_the_offset_alone(turn):
    """Whether q.k is the same for every pair of cells with the same offset."""
    grid = (4, 5)
    table = rotary_2d(grid, 0, 8, 100.0, CPU)
    q, k = (torch.randn(8, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    turned_q, turned_k = (turn(x.expand(1, 1, 20, 8), table)[0, 0] for x in (q, k))
    scores = (turned_q @ turned_k.T).reshape(*grid, *grid)
    same = scores[0, 0, 1, 2], scores[1, 1, 2, 3], scores[2, 2, 3, 4]
    return all((s - same[0]).abs() < 1e-5 for s in same)


def test_scores_depend_on_the_offset_alone():
    assert scores_depend_on_the_offset_alone(rotate)


def test_a_table_added_instead_of_turned_does_not_do_that():
    def add(x, table):
        return x + table.flatten(-2)

    assert not scores_depend_on_the_offset_alone(add)


def test_turning_keeps_the_length_and_pairs_neighbours():
    x = torch.randn(2, 3, 6, 8)
    table = rotary_2d((2, 3), 0, 8, 10.0, CPU)
    turned = rotate(x, table)
    pairs, turned_pairs = x.unflatten(-1, (4, 2)), turned.unflatten(-1, (4, 2))
    assert torch.allclose(pairs.norm(dim=-1), turned_pairs.norm(dim=-1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_recorded_or_compiled_the_turn_is_made_of_real_numbers(dtype):
    x = torch.randn(2, 3, 6, 8).to(dtype)
    table = rotary_2d((2, 3), 0, 8, 10.0, CPU)
    recorded, seen = make_fx(rotate)(x, table), []

    def backend(graph, inputs):
        seen.append(graph)
        return graph

    compiled = torch.compile(inspect.unwrap(rotate), fullgraph=True, backend=backend)
    plain = rotate(x, table)
    for found in (recorded(x, table), compiled(x, table)):
        assert found.dtype == plain.dtype == dtype
        rtol = 2**-7 if dtype.itemsize == 2 else 0  # a last digit of bfloat16
        assert torch.allclose(found.float(), plain.float(), rtol, 1e-6)
    assert not any("complex" in graph.code for graph in (recorded, *seen))


def test_a_table_made_while_sampling_serves_training():
    with torch.inference_mode():
        rotary_2d((2, 7), 1, 12, 77.0, CPU)
    table = rotary_2d((2, 7), 1, 12, 77.0, CPU)
    x = torch.randn(1, 1, 15, 12, requires_grad=True)
    rotate(x, table).sum().backward()
    assert x.grad.isfinite().all()


def test_rms_norm_gives_rows_of_unit_mean_square():
    norm = RMSNorm(16, 1e-6)
    x = 100 * torch.randn(2, 3, 16)
    assert torch.allclose(norm(x).square().mean(-1), torch.ones(2, 3), atol=1e-4)
    half = RMSNorm(16, 1e-6).half()(10 * x.half())  # squares overflow in half precision
    assert half.dtype == torch.half
    assert half.isfinite().all()


def test_swiglu_is_its_formula():
    layer, x = SwiGLU(4, 6), torch.randn(1, 2, 4)
    gate, up = (x @ part.T for part in layer.gate_up.weight.chunk(2))
    expected = (gate * gate.sigmoid() * up) @ layer.down.weight.T
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_a_mask_is_left_out_where_all_is_visible():
    assert may_see(torch.ones(2, 3, dtype=torch.bool)) is None
    partly = torch.tensor([[True, False]])
    assert may_see(partly) is partly


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_labels_are_dropped_at_the_rate(rate):
    labels = torch.arange(20_000) % 10
    dropped = drop_labels(labels, rate, 10, torch.Generator().manual_seed(0))
    hidden = dropped == 10
    assert hidden.float().mean().item() == pytest.approx(rate, abs=0.01)
    assert torch.equal(dropped[~hidden], labels[~hidden])
    assert dropped.dtype == labels.dtype
    assert labels.max() == 9


@pytest.mark.parametrize(("rows", "queries", "keys"), [(1, 100, 100), (3, 130, 257), (2, 169, 424)])
@pytest.mark.parametrize("bound", [4.0, 10.0])
def test_attention_by_products_is_as_exact_as_the_fused_kernel(rows, queries, keys, bound):
    torch.manual_seed(0)
    exact = [
        F.normalize(torch.randn(rows, 4, n, 32, dtype=torch.float64), dim=-1)
        for n in (queries, keys)
    ]
    q, k, v = exact[0] * bound, exact[1], torch.randn(rows, 4, keys, 32, dtype=torch.float64)
    wanted = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    q, k, v = (x.bfloat16() for x in (q, k, v))
    cached = torch.randn(2, rows, 4, keys + 5, 32).bfloat16()  # views of a cache, as in the loop
    cached[0, :, :, :keys], cached[1, :, :, :keys] = k, v
    with torch.no_grad():
        fast = attend_by_products(q, *cached[:, :, :, :keys], 1.0)
        fused = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        scaled = attend_by_products(q / 2, k, v, 2.0)
    error, usual = ((x.double() - wanted).norm() / wanted.norm() for x in (fast, fused))
    assert error < 2.5 * usual
    assert torch.allclose(scaled.float(), fast.float(), atol=1e-2)
    assert not torch.allclose(attend_by_products(q, k, v, 2.0).float(), fast.float(), atol=1e-2)


@pytest.mark.parametrize(
    ("dtype", "bounded", "taken"),
    [
        (torch.bfloat16, True, True),
        (torch.bfloat16, False, False),
        (torch.float32, True, False),
    ],
)
def test_products_are_taken_where_scores_are_bounded(dtype, bounded, taken, monkeypatch):
    called = []
    monkeypatch.setattr(layers, "attend_by_products", lambda q, *_: called.append(q) or q)
    q, k, v = (torch.randn(1, 2, 128, 16).to(dtype) for _ in range(3))
    order = RasterOrder(make_tokenizer("vq"), 1, CPU)
    step = dataclasses.replace(order.step(0), cached=False, mask=None)
    with torch.no_grad():
        attend(q, k, v, step, None, 0, 1.0, bounded)
        assert bool(called) == taken
        short = (x[:, :, :20] for x in (q, k, v))
        attend(*short, step, None, 0, 1.0, bounded)
    attend(q, k, v, step, None, 0, 1.0, bounded)  # gradients
    assert len(called) == taken
