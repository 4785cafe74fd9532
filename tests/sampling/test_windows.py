"""Windows over a canvas of tokens: they cover it, near ones first, each with something given."""

import pytest
import torch

from arimage.ar.base import UNKNOWN
from arimage.sampling.windows import Slide, offsets, window_seeds

MARGINS = [(0, 2, 0, 0), (3, 0, 0, 0), (1, 7, 2, 5), (9, 9, 9, 9), (0, 0, 1, 0), (0, 1, 0, 13)]


@pytest.mark.parametrize("margins", MARGINS)
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (2, 3)])
def test_every_cell_is_drawn_once_from_what_is_given(grid, margins):
    slide = Slide.around(grid, *margins)
    image = torch.arange(grid[0] * grid[1])[None]
    cells = slide.blank(image)
    left, right, top, bottom = margins
    assert cells.shape == (1, grid[0] + top + bottom, grid[1] + left + right)
    assert int((cells != UNKNOWN).sum()) == image.numel()
    for number, place in enumerate(slide.places):
        known = slide.known(cells, place)
        assert known.mask.any()
        if number == 0:
            assert 2 * int(known.mask.sum()) >= known.mask.numel() - max(grid)
        fresh = torch.full_like(known.ids, 100 + number)
        slide.put(cells, place, torch.where(known.mask, known.ids, fresh))
    assert (cells != UNKNOWN).all()
    assert torch.equal(slide.known(cells, slide.start).ids, image)


def test_near_windows_come_first():
    assert offsets(4, 10, 2) == [(0, 2), (1, 0), (1, 4), (2, 6)]
    assert offsets(4, 4, 0) == [(0, 0)]
    slide = Slide.around((4, 4), 0, 4, 0, 2)
    assert slide.places == ((0, 2), (2, 0), (0, 4), (2, 2), (2, 4))


def test_each_window_draws_from_a_stream_of_its_own():
    seeds = [window_seeds([3, 2**63 - 1], number) for number in range(3)]
    assert len({seed for pair in seeds for seed in pair}) == 6
    assert all(0 <= seed < 2**63 for pair in seeds for seed in pair)
    assert window_seeds([3], 1) == [seeds[1][0]]
