"""From a mask image to the slots it keeps: golden masks, an independent twin, refusals."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import sentence

from arimage.ar.base import UNKNOWN
from arimage.sampling.editing import (
    kept_cells,
    kept_slots,
    known_tokens,
    mask_pixels,
    paste_kept,
    read_masks,
)
from arimage.slots import SlotTable, square_grids

SMALL, PUBLISHED = (1, 2, 3, 4), (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
RESOLUTIONS = [(4, 4), (16, 16), (32, 32), (3, 3), (7, 7), (100, 100), (1, 1), (37, 61), (256, 64)]


def box(side, y0, x0, y1, x1):
    draw = np.zeros((side, side), dtype=bool)
    draw[y0:y1, x0:x1] = True
    return draw


def rows(kept, sides):
    """The kept slots as one string per scale and row: # kept, . drawn."""
    table = SlotTable(square_grids(sides))
    maps = [kept[slice(*table.span(k))].reshape(table.grids[k]) for k in range(len(sides))]
    return [" ".join("".join(".#"[int(c)] for c in row) for row in m.tolist()) for m in maps]


# The two recorded masks of the reference, and two by hand.
GOLDEN = {
    "in-painting a box": (box(4, 0, 0, 3, 3), ["#", ".. .#", "..# ..# ###", "...# ...# ...# ####"]),
    "out-painting": (~box(4, 0, 0, 3, 3), ["#", "#. ..", "##. ##. ...", "###. ###. ###. ...."]),
    "the right half": (box(4, 0, 2, 4, 4), ["#", "#. #.", "#.. #.. #..", "##.. ##.. ##.. ##.."]),
    "one cell": (box(4, 1, 1, 2, 2), ["#", "## ##", "### ### ###", "#### #.## #### ####"]),
}


@pytest.mark.parametrize("repeat", [1, 2, 8, 25])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_masks_at_any_resolution(name, repeat):
    draw, expected = GOLDEN[name]
    large = draw.repeat(repeat, axis=0).repeat(repeat, axis=1)
    slots = SlotTable(square_grids(SMALL))
    assert rows(kept_slots(large, slots), SMALL) == expected
    assert rows(kept_slots(~large, slots), SMALL) != expected


def test_the_published_schedule():
    slots = SlotTable(square_grids(PUBLISHED))
    kept = kept_slots(box(256, 64, 64, 192, 192), slots)
    assert rows(kept, PUBLISHED)[:7] == [
        "#",
        "## ##",
        "### #.# ###",
        "#### #..# #..# ####",
        "##### #...# #...# #...# #####",
        "###### ##..## #....# #....# ##..## ######",
        "######## ######## ##....## ##....## ##....## ##....## ######## ########",
    ]
    counts = [int(kept[slice(*slots.span(k))].sum()) for k in (7, 8, 9)]
    assert counts == [10 * 10 - 32, 13 * 13 - 49, 16 * 16 - 64]
    inverse = kept_slots(~box(256, 64, 64, 192, 192), slots)
    assert bool(inverse[0])
    assert int((kept & inverse).sum()) == 1  # the 1 x 1 map is kept whole both times


def bilinear(cells, side, half_pixel=True):
    """A plain loop: the value at each centre, or at each corner for the negative twin."""
    size = len(cells)
    out = np.zeros((side, side))
    place = [(i + 0.5) * size / side - 0.5 if half_pixel else i * size / side for i in range(side)]
    for i, y in enumerate(place):
        for j, x in enumerate(place):
            y, x = min(max(y, 0), size - 1), min(max(x, 0), size - 1)
            a, b = int(y), int(x)
            c, d = min(a + 1, size - 1), min(b + 1, size - 1)
            top = cells[a, b] * (1 - (x - b)) + cells[a, d] * (x - b)
            low = cells[c, b] * (1 - (x - b)) + cells[c, d] * (x - b)
            out[i, j] = top * (1 - (y - a)) + low * (y - a)
    return out


def by_hand(draw, sides, **options):
    """The kept slots, and where the value is a half that rounding may push either way."""
    cells = by_counting(draw, (sides[-1], sides[-1])).astype(float)
    maps = [bilinear(cells, side, **options) for side in sides]
    kept = np.concatenate([((m > 0.5) | (m.size <= 3)).ravel() for m in maps])
    ties = np.concatenate([(np.abs(m - 0.5) < 1e-5).ravel() for m in maps])
    return torch.from_numpy(kept), torch.from_numpy(ties)


def by_counting(draw, grid, shift=0):
    """Every pixel is split into grid_h x grid_w parts and every cell counts its parts."""
    fine = np.kron(~draw, np.ones(grid, dtype=bool))
    fine = np.roll(fine, (shift * grid[0] // 2, shift * grid[1] // 2), axis=(0, 1))
    parts = fine.reshape(grid[0], draw.shape[0], grid[1], draw.shape[1])
    return parts.mean(axis=(1, 3)) > 0.5


def blobs(shape, seed):
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape).reshape(2, 1, 1)
    a, b, c, d = np.random.default_rng(seed).uniform(0.2, 0.8, 4)
    return (y - a) ** 2 + (x - b) ** 2 < (0.3 * (c + d)) ** 2


@pytest.mark.parametrize("sides", [SMALL, PUBLISHED])
def test_slots_equal_a_plain_loop_and_its_twins_do_not(sides):
    slots, twins = SlotTable(square_grids(sides)), []
    for resolution in [(64, 64), (37, 61), (256, 256)]:
        for seed in range(3):
            draw = blobs(resolution, seed)
            kept = kept_slots(draw, slots)
            expected, ties = by_hand(draw, sides)
            assert bool((kept == expected)[~ties].all())
            assert ties.float().mean() < 0.2
            twin, _ = by_hand(draw, sides, half_pixel=False)
            twins.append(bool((kept == twin)[~ties].all()))
    assert not all(twins)


@pytest.mark.parametrize("grid", [(4, 4), (16, 16), (3, 5)])
def test_cells_equal_counting_and_a_shift_of_half_a_pixel_is_seen(grid):
    shifted = []
    for resolution in RESOLUTIONS:
        for seed in range(4):
            draw = np.random.default_rng(seed).random(resolution) < 0.5
            kept = kept_cells(draw, grid)
            assert np.array_equal(kept, by_counting(draw, grid))
            assert torch.equal(
                kept_slots(draw, SlotTable((grid,))), torch.from_numpy(kept).flatten()
            )
            shifted.append(np.array_equal(kept, by_counting(draw, grid, shift=1)))
    assert not all(shifted)


def test_half_a_cell_is_drawn_and_a_pixel_more_is_kept():
    draw = box(8, 0, 0, 8, 8)
    draw[:, :1] = False  # half of the first column of a 4 x 4 grid
    assert not kept_cells(draw, (4, 4)).any()
    draw[0, 1] = False
    assert kept_cells(draw, (4, 4)).sum() == 1
    thirds = np.zeros((3, 3), dtype=bool)
    thirds[:, :1] = True  # two thirds of the left half drawn, as exact thirds
    assert kept_cells(thirds, (2, 2)).tolist() == [[False, True], [False, True]]


def test_a_single_map_keeps_nothing_whole():
    assert not kept_slots(box(4, 0, 0, 4, 4), SlotTable(((1, 3),))).any()
    assert kept_slots(box(4, 0, 0, 4, 4), SlotTable(((1, 3), (4, 4)))).sum() == 3


def test_known_tokens_are_the_ids_where_the_mask_keeps():
    ids = torch.arange(32).reshape(2, 16)
    draws = [box(4, 0, 0, 4, 4), box(4, 0, 0, 2, 4)]
    known = known_tokens(ids, draws, SlotTable(((4, 4),)))
    assert known.mask.sum(1).tolist() == [0, 8]
    assert torch.where(known.mask, known.ids, UNKNOWN)[1].tolist() == [-1] * 8 + [*range(24, 32)]
    part = known.part(slice(1, 2)).to("cpu")
    assert torch.equal(part.ids, ids[1:])
    assert torch.equal(part.mask, known.mask[1:])


def test_paste_and_pictures_of_masks():
    made, original = (np.full((2, 4, 4, 3), level, dtype=np.uint8) for level in (9, 200))
    draws = [box(2, 0, 0, 1, 2), box(8, 0, 0, 0, 0)]
    pasted = paste_kept(made, original, draws)
    assert (pasted[0, :2] == 9).all()
    assert (pasted[0, 2:] == 200).all()
    assert (pasted[1] == 200).all()
    pictures = mask_pixels(draws, 4)
    assert (pictures[0, :2] == 255).all()
    assert (pictures[0, 2:] == 0).all()
    assert not pictures[1].any()


def test_all_kinds_of_masks_are_read_alike(tmp_path):
    draw = blobs((12, 12), 1)
    pixels = np.where(draw, 255, 0).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "mask.png")
    kinds = [
        draw,
        draw[None],
        [draw],
        pixels,
        torch.from_numpy(draw),
        image,
        image.convert("1"),
        image.convert("RGB"),
        image.convert("P"),
        tmp_path / "mask.png",
        str(tmp_path / "mask.png"),
    ]
    for kind in kinds:
        (read,) = read_masks(kind, [(32, 32)])
        assert np.array_equal(read, draw)
    assert len(read_masks(image, [(32, 32)] * 3)) == 3
    first, second = read_masks(np.stack([draw, ~draw]), [(32, 32)] * 2)
    assert np.array_equal(first, ~second)


def test_a_mask_is_cut_as_its_image_is():
    draw = np.zeros((20, 30), dtype=bool)
    draw[:, 5:10] = True
    (cut,) = read_masks(draw, [(200, 300)])
    assert cut.shape == (20, 20)
    assert np.array_equal(cut, draw[:, 5:25])
    assert read_masks(np.zeros((67, 100), dtype=bool), [(200, 300)])[0].shape == (67, 67)


WRONG = [
    ([], ValueError, "got no mask; pass one per image or one for all"),
    (np.zeros((0, 4, 4), dtype=bool), ValueError, "got no mask"),
    ([np.zeros((4, 4), dtype=bool)] * 3, ValueError, "got 3 masks for 2 images"),
    (np.zeros((4, 5), dtype=bool), ValueError, "a mask of 4 x 5 pixels for an image of 32 x 32"),
    (np.zeros((33, 32), dtype=bool), ValueError, "a mask of 33 x 32 pixels for an image of 32"),
    (np.zeros((2, 1, 4, 4), dtype=bool), ValueError, "got masks of shape (2, 1, 4, 4)"),
    ([np.zeros((1, 4, 4), dtype=bool)], ValueError, "got a mask of shape (1, 4, 4)"),
    (np.zeros((0, 4), dtype=bool), ValueError, "got a mask of shape (0, 4)"),
    (np.ones((4, 4), dtype=np.uint8), ValueError, "got mask value 1; expected only 0 (kept) and"),
    (np.full((4, 4), 128, dtype=np.uint8), ValueError, "got mask value 128"),
    (np.ones((4, 4)), ValueError, "got a mask of dtype float64; expected bool"),
    (torch.ones(4, 4, dtype=torch.int64), ValueError, "got a mask of dtype int64"),
    (Image.new("L", (4, 4), 77), ValueError, "got mask value 77"),
    (Image.new("RGB", (4, 4), "red"), ValueError, "got mask value 76"),
    (Image.new("RGBA", (4, 4)), ValueError, "got a mask of mode 'RGBA'; expected black and"),
    ([None], TypeError, "got a mask of type NoneType"),
    ("no-such-mask.png", FileNotFoundError, "no image file at no-such-mask.png"),
]


@pytest.mark.parametrize(("masks", "kind", "message"), WRONG)
def test_a_wrong_mask_is_told(masks, kind, message):
    with pytest.raises(kind) as caught:
        read_masks(masks, [(32, 32)] * 2)
    assert message in sentence(caught)
