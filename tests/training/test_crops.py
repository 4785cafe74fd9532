"""Crops as published: which part of an image, at which zoom, from which draws."""

import numpy as np
import pytest
from PIL import Image

from arimage.images import center_crop
from arimage.training.crops import ASPECT, CROP, CROPS, crop_pixels, random_stream

SIZE = 32


def draw(index=0, seed=0, epoch=0):
    return random_stream(seed, epoch, index, CROP).random


def ramps(width, height):
    """Red says the column, green the row: 0 to 250 from one edge to the other."""
    x, y = np.linspace(0, 250, width), np.linspace(0, 250, height)
    red, green = np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))
    pixels = np.stack([red, green, np.zeros_like(red)], axis=2)
    return Image.fromarray(pixels.round().astype(np.uint8))


def share_seen(pixels, *sides):
    """Share of the image's width and height that a crop of ``ramps(*sides)`` shows."""
    inner = pixels[SIZE // 2].astype(float), pixels[:, SIZE // 2].astype(float)
    spans = (inner[0][-3, 0] - inner[0][2, 0], inner[1][-3, 1] - inner[1][2, 1])
    between = (np.array(sides) - 1) / sides  # a ramp goes from the first pixel's centre to the last
    return np.array(spans) / 250 * between * SIZE / (SIZE - 5)  # centres 2 to SIZE - 3


def crops(image, crop, count=200, flip=0.0):
    return [crop_pixels(image, SIZE, crop, flip, draw(i)) for i in range(count)]


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("sides", [(300, 200), (32, 32), (9, 20), (400, 33), (30, 500), (1, 1)])
def test_any_image_gives_a_square(crop, sides):
    pixels = crop_pixels(ramps(*sides), SIZE, crop, 0.5, draw())
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("crop", CROPS)
def test_seed_epoch_and_index_name_the_draws(crop):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))

    def of(**names):
        return crop_pixels(image, SIZE, crop, 0.5, draw(**names)).tobytes()

    assert of(index=3, seed=1, epoch=2) == of(index=3, seed=1, epoch=2)
    for name in ("index", "seed", "epoch"):
        several = {of(**{name: value}) for value in range(12)}
        assert len(several) > 2 if crop != "center" else len(several) == 2, name


def test_the_centre_is_that_of_the_evaluations():
    image = ramps(150, 90)
    expected = np.asarray(center_crop(image, SIZE))
    for pixels in crops(image, "center", 3):
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(("flip", "low", "high"), [(0.0, 0, 0), (1.0, 400, 400), (0.3, 80, 160)])
def test_flip_mirrors_that_share(flip, low, high):
    image = ramps(SIZE, SIZE)
    plain = np.asarray(image)
    found = crops(image, "center", 400, flip)
    mirrored = sum(np.array_equal(pixels, plain[:, ::-1]) for pixels in found)
    assert low <= mirrored <= high  # 120 expected of 400 at 0.3; 4.4 standard deviations
    assert mirrored + sum(np.array_equal(pixels, plain) for pixels in found) == 400


def test_random_place_cuts_where_the_image_has_the_size_already():
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE + 3, 3), dtype=np.uint8)
    found = [crop.tobytes() for crop in crops(Image.fromarray(pixels), "random_place")]
    places = [pixels[:, left : left + SIZE].tobytes() for left in range(4)]
    assert set(found) == set(places)
    assert min(found.count(place) for place in places) > 25  # 50 expected; 4 standard deviations


ZOOMS = {  # share of the shorter side that is seen: lowest, highest
    "random": (1 / 1.125, 1 / 1.125),
    "random_place": (1, 1),
    "random_zoom": (0.8, 1),
}


@pytest.mark.parametrize("sides", [(150, 100), (100, 150), (30, 20)])
@pytest.mark.parametrize("crop", ZOOMS)
def test_the_shorter_side_is_zoomed_as_published(crop, sides):
    seen = np.array([share_seen(pixels, *sides) for pixels in crops(ramps(*sides), crop)])
    shorter = seen[:, np.argmin(sides)]
    low, high = ZOOMS[crop]
    assert shorter.min() == pytest.approx(low, abs=0.04)  # levels are whole numbers
    assert shorter.max() == pytest.approx(high, abs=0.04)
    np.testing.assert_allclose(seen[:, np.argmax(sides)] * 1.5, shorter, atol=0.09)


def test_a_resized_part_has_the_published_area_and_aspect():
    found = crops(ramps(120, 120), "random_resized")
    seen = np.array([share_seen(pixels, 120, 120) for pixels in found])
    area, aspect = seen.prod(axis=1), seen[:, 0] / seen[:, 1]
    assert area.min() == pytest.approx(0.8, abs=0.05)
    assert area.max() == pytest.approx(1.0, abs=0.05)
    # a part of at least 80 % of a square fits into it for aspects of 0.8 to 1.25 alone
    assert aspect.min() == pytest.approx(0.8, abs=0.07)
    assert aspect.max() == pytest.approx(1.25, abs=0.07)


def test_a_resized_part_of_a_narrow_image_is_its_centre():
    for pixels in crops(ramps(400, 40), "random_resized", 5):
        wide, high = share_seen(pixels, 400, 40)
        assert high == pytest.approx(1, abs=0.04)
        assert wide * 400 / (high * 40) == pytest.approx(ASPECT[1], abs=0.15)
        assert pixels[0, SIZE // 2, 0] == pytest.approx(125, abs=3)
