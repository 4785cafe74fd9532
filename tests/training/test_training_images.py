"""Batches of images: which images, in which order, from which files, and what broken ones do."""

import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arimage.images import write_png
from arimage.training import image_files, images
from arimage.training.images import ImageData, open_images, order_of

COUNT, SIZE = 10, 8


def write_images(folder, count=COUNT, classes=("",)):
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 11, 3), dtype=np.uint8)
        write_png(Path(folder) / classes[i % len(classes)] / f"{i:02d}.png", pixels)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "png")


def data(path, **settings):
    return ImageData(path=path, **{"size": SIZE, "crop": "random", "flip": 0.5, **settings})


def take(found, count, batch_size=4, **where):
    batches = found.batches(batch_size, **where)
    return [next(batches) for _ in range(count)]


def joined(batches):
    """(pixels, indices) of several batches."""
    pixels = torch.cat([batch.pixels for batch in batches])
    return pixels.numpy(), torch.cat([batch.index for batch in batches]).tolist()


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_epoch_has_every_image_once_in_an_order_of_its_own(folder):
    batches = take(open_images(data(folder)), 10)
    index = joined(batches)[1]
    epochs = [index[i : i + COUNT] for i in range(0, 40, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[2] == order_of(COUNT, 0, 2).tolist()
    assert [batch.epoch for batch in batches] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert joined(take(open_images(data(folder, seed=1)), 10))[1] != index


def test_pixels_follow_from_seed_epoch_and_image(folder):
    seen = {}
    for batch_size in (3, 5):
        place = 0
        for batch in take(open_images(data(folder)), 20, batch_size):
            for pixels, index in zip(batch.pixels, batch.index.tolist(), strict=True):
                key, place = (place // COUNT, index), place + 1
                assert torch.equal(seen.setdefault(key, pixels), pixels)
    of_one = {pixels.numpy().tobytes() for (_, index), pixels in seen.items() if index == 0}
    assert len(of_one) > 3  # other epochs, other crops


@pytest.mark.parametrize("start", [0, 1, 7])
def test_two_processes_see_what_one_sees(folder, start):
    one = take(open_images(data(folder)), 5, 4, start=start)
    halves = [
        take(open_images(data(folder)), 5, 2, rank=rank, world=2, start=start) for rank in (0, 1)
    ]
    for whole, *parts in zip(one, *halves, strict=True):
        assert_same(joined([whole]), joined(parts))


def test_a_run_goes_on_with_its_step_alone(folder):
    whole = take(open_images(data(folder)), 9)
    for step in (1, 2, 6):
        again = take(open_images(data(folder)), 9 - step, start=step)
        assert_same(joined(whole[step:]), joined(again))


def test_each_image_is_decoded_once_per_epoch(folder, monkeypatch):
    opened = Counter()
    plain = image_files.open_image

    def counted(path):
        opened[path.name] += 1
        return plain(path)

    monkeypatch.setattr(image_files, "open_image", counted)
    take(open_images(data(folder)), 6, 5)
    assert opened == {f"{i:02d}.png": 3 for i in range(COUNT)}


def test_global_random_state_is_not_touched(folder):
    before = torch.get_rng_state()
    take(open_images(data(folder)), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_are_sub_folders(tmp_path):
    found = open_images(data(write_images(tmp_path, classes=("cat", "ant"))))
    assert found.class_names == ("ant", "cat")
    for batch in take(found, 5):
        expected = [1 if Path(found.files.names[i]).parts[0] == "cat" else 0 for i in batch.index]
        assert batch.labels.tolist() == expected


def test_classes_named_by_numbers_are_those(tmp_path):
    found = open_images(data(write_images(tmp_path, classes=("10", "9"))))
    assert found.class_names is None
    assert set(take(found, 1, 10)[0].labels.tolist()) == {9, 10}


def test_without_sub_folders_there_are_no_classes(folder):
    found = open_images(data(folder))
    assert (found.class_names, take(found, 1)[0].labels, found.count) == (None, None, COUNT)
    assert "would have seen next" in found.resume_note()


def test_identity_stays_when_the_folder_moves(folder, tmp_path):
    before = open_images(data(folder)).identity
    shutil.copytree(folder, tmp_path / "copy")
    assert open_images(data(tmp_path / "copy")).identity == before
    (tmp_path / "copy" / "03.png").unlink()
    assert open_images(data(tmp_path / "copy")).identity != before


def break_images(folder, *numbers):
    for i in numbers:
        path = folder / f"{i:02d}.png"
        path.write_bytes(path.read_bytes()[: 60 if i % 2 else 0])


def test_a_broken_image_is_replaced_by_the_next_readable_one(folder):
    whole = take(open_images(data(folder)), 5)
    break_images(folder, 3, 4, 9)
    found = open_images(data(folder))
    batches = take(found, 5)
    instead = {3: 5, 4: 5, 9: 0}
    expected = [instead.get(i, i) for i in joined(whole)[1]]
    pixels, index = joined(batches)
    assert index == expected
    kept = [place for place, i in enumerate(joined(whole)[1]) if i not in instead]
    np.testing.assert_array_equal(pixels[kept], joined(whole)[0][kept])
    assert sorted(Path(text.split()[0]).name for text in found.skipped) == [
        "03.png",
        "04.png",
        "09.png",
    ]
    assert all("is not a readable image" in text for text in found.skipped)
    met = [text for batch in batches for text in batch.skipped]
    assert len(met) == 8  # twice the three, and image 4 again on the way from 3
    halves = [take(open_images(data(folder)), 5, 2, rank=rank, world=2) for rank in (0, 1)]
    for batch, *parts in zip(batches, *halves, strict=True):
        assert_same(joined([batch]), joined(parts))


def test_what_has_no_plain_meaning_as_8_bit_colour_is_skipped_too(folder):
    Image.new("I;16", (12, 12), 9000).save(folder / "01.png")
    Image.new("RGBA", (12, 12), (1, 2, 3, 100)).save(folder / "02.png")
    Image.new("L", (12, 12), 7).save(folder / "05.png")
    found = open_images(data(folder))
    (batch,) = take(found, 1, 10)
    assert batch.pixels[batch.index.tolist().index(5)].unique().tolist() == [7]
    assert sorted(text[len(str(folder)) + 1 :][:27] for text in found.skipped) == [
        "01.png has more than 8 bits",
        "02.png is transparent in pl",
    ]


def test_strict_stops_at_a_broken_image(folder):
    break_images(folder, 3)
    with pytest.raises(ValueError, match=r"03\.png is not a readable image"):
        take(open_images(data(folder, strict=True)), 3)


def test_nothing_but_broken_images_is_an_error(folder, monkeypatch):
    break_images(folder, *range(1, COUNT))
    found = open_images(data(folder))
    assert set(joined(take(found, 3))[1]) == {0}
    assert len(found.skipped) == COUNT - 1
    monkeypatch.setattr(images, "BROKEN_IN_A_ROW", 4)
    with pytest.raises(ValueError, match=r"5 images in a row cannot be used, the last since .*png"):
        take(open_images(data(folder)), 3)
    monkeypatch.undo()
    break_images(folder, 0)
    with pytest.raises(ValueError, match="10 images in a row cannot be used"):
        take(open_images(data(folder)), 1)


def test_a_file_that_vanished_is_skipped(folder):
    found = open_images(data(folder))
    (folder / "06.png").unlink()
    assert 6 not in joined(take(found, 5))[1]
    assert [Path(text.split()[-1]).name for text in found.skipped] == ["06.png"]


def test_nothing_to_train_on_is_one_sentence(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no image .* found below"):
        open_images(data(tmp_path / "empty"))
    with pytest.raises(NotADirectoryError, match="is not a folder and no file"):
        open_images(data(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"has 10 images and a step takes 12 \(6 for each of 2"):
        open_images(data(folder)).batches(6, world=2)
    with pytest.raises(ValueError, match="rank below the number of processes"):
        open_images(data(folder)).batches(2, rank=2, world=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": "centre"}, "unknown crop 'centre'. Did you mean 'center'"),
        ({"flip": 1.5}, "flip 1.5; expected a share"),
        ({"size": 0}, "size 0; expected a whole number from 1"),
        ({"workers": -1}, "workers -1"),
        ({"seed": -1}, "seed -1"),
        ({"buffer": 0}, "buffer 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        data("x", **settings)


def test_a_hub_data_set_without_a_network_is_one_sentence():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the hub's own
        with pytest.raises(FileNotFoundError, match="cannot load the data set 'arimage/none'"):
            open_images(data("arimage/none"))
