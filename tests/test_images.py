"""Pixels: the conversion, files, grids."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import sentence

from arimage.images import (
    from_pixels,
    grid,
    list_images,
    read_image,
    to_pil,
    to_pixels,
    write_png,
)


def every_level():
    """One image that holds each of the 256 levels in each channel."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    return np.stack([levels, levels[::-1], levels.T], axis=-1)[None]


def test_every_level_comes_back():
    pixels = every_level()
    images = from_pixels(pixels)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    assert np.array_equal(to_pixels(images), pixels)
    assert np.array_equal(to_pixels(images.double()), pixels)


def test_reversed_and_sliced_pixels_are_read_too():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    for view in (pixels[::-1], pixels[::-1][0:1], pixels[:, ::-1, 1:4], pixels[:0]):
        assert np.array_equal(to_pixels(from_pixels(view)), view)


def test_truncation_would_not_bring_every_level_back():
    pixels = every_level()
    truncated = from_pixels(pixels).add(1).mul(127.5).to(torch.uint8)
    assert not np.array_equal(truncated.permute(0, 2, 3, 1).numpy(), pixels)


def test_values_outside_the_range_are_clamped_and_the_nearest_level_is_taken():
    values = torch.tensor([-7.0, -1.001, 1.001, 7.0, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1])
    pixels = to_pixels(values.expand(1, 3, 1, 6))
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 255, 255, 1, 0]


def test_channels_stay_last_and_batches_become_pil_images():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), dtype=np.uint8)
    images = to_pil(pixels)
    assert [im.size for im in images] == [(5, 3), (5, 3)]
    assert np.array_equal(np.asarray(images[1]), pixels[1])


def test_a_grid_runs_row_by_row_on_white():
    pixels = np.stack([np.full((2, 3, 3), value, dtype=np.uint8) for value in (10, 20, 30)])
    sheet = grid(pixels, 2, zoom=2, gap=1)
    assert sheet.shape == (1 + 2 * 5, 1 + 2 * 7, 3)
    assert (sheet[1:5, 1:7] == 10).all()
    assert (sheet[1:5, 8:14] == 20).all()
    assert (sheet[6:10, 1:7] == 30).all()
    covered = np.zeros(sheet.shape[:2], dtype=bool)
    for y, x in ((1, 1), (1, 8), (6, 1)):
        covered[y : y + 4, x : x + 6] = True
    assert (sheet[~covered] == 255).all()


def test_a_png_comes_back_with_its_settings(tmp_path):
    pixels, settings = every_level()[0], {"arimage": '{"seed": 1, "name": "\u732b"}'}
    path = write_png(tmp_path / "deep" / "a.png", pixels, settings)
    assert np.array_equal(read_image(path), pixels)
    with Image.open(path) as opened:
        assert opened.text == settings


def test_reading_crops_the_centre_and_resizes(tmp_path):
    wide = np.zeros((4, 12, 3), dtype=np.uint8)
    wide[:, 4:8] = 200
    path = write_png(tmp_path / "a.png", wide)
    square = read_image(path, 8)
    assert square.shape == (8, 8, 3)
    assert (square == 200).all()


def test_grey_and_palette_files_become_rgb(tmp_path):
    Image.new("L", (3, 2), 7).save(tmp_path / "grey.png")
    Image.new("P", (3, 2)).save(tmp_path / "palette.png")
    assert (read_image(tmp_path / "grey.png") == 7).all()
    assert read_image(tmp_path / "palette.png").shape == (2, 3, 3)


def test_a_file_that_is_no_image_is_told(tmp_path):
    whole = write_png(tmp_path / "whole.png", every_level()[0]).read_bytes()
    half = whole[: len(whole) // 2]
    for name, content in (("text.png", b"hello"), ("empty.png", b""), ("cut.png", half)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError) as caught:
            read_image(tmp_path / name)
        assert f"{name} is not a readable image" in sentence(caught)
    with pytest.raises(FileNotFoundError) as caught:
        read_image(tmp_path / "none.png")
    assert "no image file at" in str(caught.value)


def test_images_are_listed_by_path_below_a_folder(tmp_path):
    for name in ("b/2.png", "a/10.PNG", "a/9.png"):
        write_png(tmp_path / name, every_level()[0])
    (tmp_path / "a" / "note.txt").write_text("no image")
    found = [str(p.relative_to(tmp_path)) for p in list_images(tmp_path)]
    assert found == ["a/10.PNG", "a/9.png", "b/2.png"]


def test_a_folder_without_images_is_told(tmp_path):
    with pytest.raises(ValueError) as caught:
        list_images(tmp_path)
    assert "no image (.png" in sentence(caught)
    with pytest.raises(NotADirectoryError):
        list_images(tmp_path / "none")
