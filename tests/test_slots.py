"""The slot table."""

import pytest
import torch
from tiny import sentence

from arimage.slots import SlotTable, square_grids


def test_slots_run_scale_by_scale_and_row_by_row():
    table = SlotTable(((1, 1), (2, 3)))
    assert (table.num_slots, table.num_scales) == (7, 2)
    assert [table.span(k) for k in range(2)] == [(0, 1), (1, 7)]
    assert table.scale.tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert table.row.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert table.column.tolist() == [0, 0, 1, 2, 0, 1, 2]


def test_every_slot_has_one_place():
    table = SlotTable(square_grids((1, 2, 3, 4)))
    places = torch.stack([table.scale, table.row, table.column], dim=1)
    assert len(places.unique(dim=0)) == table.num_slots == 30


@pytest.mark.parametrize("grids", [(), ((0, 2),), ((2, 2), (3, -1))])
def test_a_table_without_slots_is_an_error(grids):
    with pytest.raises(ValueError) as caught:
        SlotTable(grids)
    assert "expected at least one (height, width) >= 1" in sentence(caught)
