"""The squares of an image that are encoded, against the description of torchvision's TenCrop."""

import numpy as np
import pytest
from PIL import Image
from tiny import sentence

from arimage.images import center_crop
from arimage.training.augment import JITTER
from arimage.training.token_data import variants_of
from arimage.training.variants import VARIANTS, Augmentation


def photograph(width=60, height=50):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def mirrored(pixels):
    return pixels[:, ::-1]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_number_and_size_of_squares(name):
    squares = Augmentation(name=name).squares(photograph(), 40, 0)
    assert squares.shape == (Augmentation(name=name).variants, 40, 40, 3)
    assert squares.dtype == np.uint8
    assert len({square.tobytes() for square in squares}) == len(squares)


@pytest.mark.parametrize("name", ["none", "flip"])
def test_the_first_square_is_the_centre(name):
    squares = Augmentation(name=name).squares(photograph(), 16, 0)
    centre = np.asarray(center_crop(photograph(), 16))
    np.testing.assert_array_equal(squares[0], centre)
    if name == "flip":
        np.testing.assert_array_equal(squares[1], mirrored(centre))


def five_and_five(size, side, middle):
    """Corners and centre of a square of ``side`` pixels, and those of its mirror image."""
    whole, at = np.asarray(center_crop(photograph(), side)), slice(middle, middle + size)
    left, right = slice(None, size), slice(-size, None)
    places = [(left, left), (left, right), (right, left), (right, right), (at, at)]
    return [pixels[place] for pixels in (whole, mirrored(whole)) for place in places]


@pytest.mark.parametrize(("size", "side", "middle"), [(16, 17, 0), (32, 35, 2), (256, 281, 12)])
def test_ten_crops_are_corners_and_centres_of_a_larger_square(size, side, middle):
    """17 = int(1.1 * 16): the places left are 1, 3 and 25, half of which rounds to even."""
    found = Augmentation(name="ten_crop").squares(photograph(), size, 0)
    np.testing.assert_array_equal(found, np.stack(five_and_five(size, side, middle)))


def test_twenty_crops_are_ten_of_either_range():
    """int(1.1 * 256) = 281 and int(1.05 * 256) = 268."""
    found = Augmentation(name="twenty_crop").squares(photograph(), 256, 0)
    expected = five_and_five(256, 281, 12) + five_and_five(256, 268, 6)
    np.testing.assert_array_equal(found, np.stack(expected))
    assert Augmentation(name="twenty_crop").variants == 20


def test_half_of_the_draws_are_from_either_range():
    """4,000 images: both halves within five standard deviations, every square within six."""
    drawn = variants_of(4000, 20, 0, 3)
    assert abs((drawn >= 10).sum() - 2000) < 5 * 1000**0.5
    assert np.abs(np.bincount(drawn, minlength=20) - 200).max() < 6 * 190**0.5
    assert not np.array_equal(drawn, variants_of(4000, 20, 0, 4))


def test_jittered_copies_follow_from_seed_and_image():
    def copies(seed, index):
        augmentation = Augmentation(jittered_copies=3, seed=seed)
        return augmentation.squares(photograph(), 16, index)

    squares = copies(1, 5)
    assert len({square.tobytes() for square in squares}) == len(squares) == 4
    np.testing.assert_array_equal(squares[:1], Augmentation().squares(photograph(), 16, 5))
    np.testing.assert_array_equal(squares, copies(1, 5))
    assert not np.array_equal(squares, copies(2, 5))
    assert not np.array_equal(squares, copies(1, 6))
    about = Augmentation(jittered_copies=3, seed=1).describe()
    assert about["jitter"]["scale"] == JITTER.scale
    assert about["seed"] == 1
    assert "seed" not in Augmentation(seed=1).describe()


def test_what_is_not_there_is_told():
    with pytest.raises(ValueError, match="ten_crop") as caught:
        Augmentation(name="tencrop")
    assert "unknown augmentation 'tencrop'" in sentence(caught)
    with pytest.raises(ValueError, match="jittered_copies -1"):
        Augmentation(jittered_copies=-1)
