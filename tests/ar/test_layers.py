"""Rotary positions, norms, masks and label dropout."""

import pytest
import torch

from arimage.ar.base import drop_labels, may_see
from arimage.ar.layers import Linear, RMSNorm, SwiGLU, linear, rotary_2d, rotate

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
    gate, up = x @ layer.gate.weight.T, x @ layer.up.weight.T
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


@pytest.mark.parametrize("shape", [(5,), (2, 1), (3, 7), (2, 3, 130)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
def test_both_backends_of_linear_agree(shape, bias, gelu):
    layer = Linear(24, 40, bias=bias)
    x = torch.randn(*shape, 24)
    with torch.no_grad():
        plain = linear(x, layer.weight, layer.bias, backend="torch", gelu=gelu)
        fast = linear(x, layer.weight, layer.bias, backend="onednn", gelu=gelu)
        assert torch.equal(linear(x, layer.weight, layer.bias, gelu=gelu), fast)
        strided = x.transpose(0, -1).contiguous().transpose(0, -1)
        assert torch.allclose(
            linear(strided, layer.weight, layer.bias, gelu=gelu), plain, atol=1e-5
        )
    assert fast.shape == plain.shape == (*shape, 40)
    assert torch.allclose(fast, plain, atol=1e-5)
    other = linear(x + 0.1, layer.weight, layer.bias, "onednn", gelu=gelu)
    assert not torch.allclose(other, plain, atol=1e-3)


def test_gradients_go_through_the_plain_product():
    layer = Linear(6, 4)
    x = torch.randn(3, 6)
    layer(x).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    half = Linear(6, 4).to(torch.bfloat16)
    with torch.no_grad():
        assert half(x.to(torch.bfloat16)).dtype == torch.bfloat16
