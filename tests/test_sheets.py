"""Sheets of pictures: pixels are where they should be, names are beside them."""

import numpy as np
import pytest

from arimage.sheets import ACROSS, BLOCK_GAP, GAP, sheet, zoom_of


def rows(count, side):
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        for name in ("original", "after\n20.1 dB", "before")
    }


def tile(drawn, side, count, row, i):
    """The pixels of image i of a row."""
    zoom, across = zoom_of(side), min(count, ACROSS)
    pitch = side * zoom + GAP
    block, column = divmod(i, ACROSS)
    left = drawn.shape[1] - across * pitch + column * pitch
    top = GAP + row * pitch + block * (3 * pitch + GAP + BLOCK_GAP)
    return drawn[top : top + side * zoom : zoom, left : left + side * zoom : zoom]


@pytest.mark.parametrize(("count", "side", "zoom"), [(3, 32, 3), (11, 40, 2), (8, 100, 1)])
def test_every_image_is_in_its_place(count, side, zoom):
    given = rows(count, side)
    drawn = sheet(given)
    assert zoom_of(side) == zoom
    for row, pixels in enumerate(given.values()):
        for i in range(count):
            assert np.array_equal(tile(drawn, side, count, row, i), pixels[i]), (row, i)


def test_names_are_beside_their_rows_and_paper_is_white():
    given = rows(2, 32)
    drawn = sheet(given)
    pitch = 96 + GAP
    margin = drawn[:, : drawn.shape[1] - 2 * pitch - GAP]
    inked = (margin < 128).all(-1).any(1)
    for row in range(3):
        middle = GAP + row * pitch + 48
        assert inked[middle - 20 : middle + 20].any()
        assert not inked[middle - 48 : middle - 24].any()
        assert not inked[middle + 24 : middle + 48].any()
    assert (drawn[:GAP] == 255).all()
    assert (drawn[:, -GAP:] == 255).all()
    other = sheet(dict(zip(("original", "later", "before"), given.values(), strict=True)))
    assert other.shape != drawn.shape or not np.array_equal(other, drawn)


def test_what_is_no_sheet():
    for bad in ({}, {"a": np.zeros((0, 4, 4, 3), np.uint8)}):
        with pytest.raises(ValueError, match="an image at least"):
            sheet(bad)
    with pytest.raises(ValueError, match="got rows of shapes"):
        sheet({**rows(2, 32), "x": np.zeros((3, 32, 32, 3), np.uint8)})
