"""Data sets of ``datasets``: by index the same as a folder; streamed in shards, and resumed."""

import json
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from shards import WRITERS, png, table, write_parquet, write_tars

from arimage.training.images import ImageData, open_images
from arimage.training.streams import WITHIN_SHARD

SIZES = (7, 5, 6, 4)
COUNT = sum(SIZES)
FIRST = np.cumsum([0, *SIZES])


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """A cache of their own for what ``datasets`` copies, and no bars."""
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    datasets.enable_progress_bars()


@pytest.fixture(params=WRITERS)
def shards(request, tmp_path):
    return WRITERS[request.param](tmp_path / "shards", *SIZES)


def data(path, **settings):
    return ImageData(path=path, **{"size": 8, "flip": 0.5, "buffer": 4, **settings})


def take(found, count, batch_size=3, **where):
    batches = found.batches(batch_size, **where)
    return [next(batches) for _ in range(count)]


def numbers(batches):
    """Which images, counted through all shards."""
    index = torch.cat([batch.index for batch in batches]).tolist()
    return [int(FIRST[i >> WITHIN_SHARD]) + i % (1 << WITHIN_SHARD) for i in index]


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert (a.index.tolist(), a.labels.tolist()) == (b.index.tolist(), b.labels.tolist())
        assert (a.epoch, a.skipped, a.state) == (b.epoch, b.skipped, b.state)


def test_by_index_it_is_the_same_as_a_folder(shards, tmp_path):
    (tmp_path / "png").mkdir()
    for i in range(COUNT):
        (tmp_path / "png" / f"{i:02d}.png").write_bytes(png(i))
    expected = take(open_images(data(tmp_path / "png")), 9)
    found = open_images(data(shards))
    assert found.count == COUNT
    for ours, theirs in zip(take(found, 9), expected, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.index, theirs.index)
        assert ours.labels.tolist() == [i % 3 for i in ours.index.tolist()]
    named = any(path.suffix == ".parquet" for path in shards.iterdir())
    assert found.class_names == (("a", "b", "c") if named else None)


def test_one_file_and_a_saved_folder_are_read_too(tmp_path):
    parquet, tar = write_parquet(tmp_path / "p", 5), write_tars(tmp_path / "t", 5)
    table(range(5)).save_to_disk(tmp_path / "saved")
    splits = datasets.DatasetDict({"train": table(range(5)), "test": table(range(2))})
    splits.save_to_disk(tmp_path / "splits")
    paths = [parquet / "000.parquet", tar / "000.tar", tmp_path / "saved", tmp_path / "splits"]
    first, *others = [take(open_images(data(path)), 2)[1] for path in paths]
    assert all(torch.equal(first.pixels, other.pixels) for other in others)
    assert open_images(data(paths[0])).class_names == ("a", "b", "c")
    assert open_images(data(paths[1])).class_names is None
    assert open_images(data(paths[3], split="test")).count == 2
    with pytest.raises(ValueError, match="has the splits train, test; got val"):
        open_images(data(paths[3], split="val"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_broken_images_are_skipped_and_named(kind, streaming, tmp_path):
    path = WRITERS[kind](tmp_path / "shards", *SIZES, broken=(0, 8))
    found = open_images(data(path, streaming=streaming))
    batches = take(found, 15)
    index = torch.cat([batch.index for batch in batches]).tolist()
    assert not {0, 8} & set(numbers(batches) if streaming else index)
    places = ("image 0 of shard 0", "image 1 of shard 1") if streaming else ("image 0 ", "image 8 ")
    assert sorted(text[: len(places[0])] for text in found.skipped) == sorted(places)
    with pytest.raises(ValueError, match="is not a readable image"):
        take(open_images(data(path, streaming=streaming, strict=True)), 15)


def test_nothing_but_broken_images_ends_a_stream(tmp_path):
    path = write_tars(tmp_path / "shards", 6, broken=tuple(range(6)))
    with pytest.raises(ValueError, match="101 images in a row cannot be used"):
        take(open_images(data(path, streaming=True)), 1)


def test_a_stream_has_every_image_once_in_an_epoch(shards):
    found = open_images(data(shards, streaming=True))
    assert found.count is None
    batches = take(found, 3 * COUNT // 2, 2)
    order = numbers(batches)
    epochs = [order[i : i + COUNT] for i in range(0, 3 * COUNT, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [batch.epoch for batch in batches] == [i // (COUNT // 2) for i in range(len(batches))]
    labels = torch.cat([batch.labels for batch in batches]).tolist()
    assert labels == [i % 3 for i in order]


def test_shards_come_in_another_order_each_epoch_and_buffers_are_shuffled(shards):
    read, shuffled = (
        numbers(take(open_images(data(shards, streaming=True, buffer=buffer)), 2 * COUNT, 1))
        for buffer in (1, 4)
    )
    orders = []
    for epoch in (0, COUNT):
        of_shards = dict.fromkeys(np.searchsorted(FIRST, read[epoch : epoch + COUNT], "right") - 1)
        whole = [i for shard in of_shards for i in range(FIRST[shard], FIRST[shard + 1])]
        assert read[epoch : epoch + COUNT] == whole
        orders.append(tuple(of_shards))
        for place in range(epoch, epoch + COUNT, 4):
            stop = min(place + 4, epoch + COUNT)
            assert set(shuffled[place:stop]) == set(read[place:stop])
    assert orders[0] != orders[1]
    assert shuffled != read


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_share_an_epoch(shards, world):
    found = open_images(data(shards, streaming=True))
    seen = Counter()
    for rank in range(world):
        batches = found.batches(1, rank=rank, world=world)
        batch = next(batches)
        while batch.epoch == 0:
            seen[numbers([batch])[0]] += 1
            batch = next(batches)
    assert seen == dict.fromkeys(range(COUNT), 1)


def test_pixels_follow_from_seed_epoch_and_image_however_it_is_shared(shards):
    found = open_images(data(shards, streaming=True, crop="random_zoom"))
    one = take(found, COUNT, 1)
    alone = {batch.index.item(): batch.pixels for batch in one}
    for rank in range(3):
        for batch in take(found, 6, 1, rank=rank, world=3):
            assert torch.equal(batch.pixels, alone[batch.index.item()])


@pytest.mark.parametrize("world", [1, 3])
def test_a_stream_goes_on_exactly_where_its_state_says(shards, world):
    settings = data(shards, streaming=True)
    where = {"rank": world - 1, "world": world}
    whole = take(open_images(settings), 20, 2, **where)
    for step in (1, 2, 3, 5, 11, 14):  # in the middle of buffers, at ends of shards and of epochs
        state = json.loads(json.dumps(whole[step - 1].state))
        again = take(open_images(settings), 20 - step, 2, start=step, state=state, **where)
        assert_same(whole[step:], again)


def test_a_state_that_does_not_fit_is_refused(shards):
    found = open_images(data(shards, streaming=True))
    state = take(found, 1)[0].state
    with pytest.raises(ValueError, match="start 3 without a state"):
        found.batches(3, start=3)
    with pytest.raises(ValueError, match="as many processes and workers"):
        found.batches(3, rank=1, world=2, start=1, state=state)
    assert "up to 4 images are read again" in found.resume_note()


def test_fewer_images_than_a_batch_end_a_stream(shards):
    found = open_images(data(shards, streaming=True))
    with pytest.raises(ValueError, match=r"has 22 images for each of 1 parts .*batch of 30"):
        take(found, 1, 30)


def test_torn_shards_are_one_sentence(tmp_path):
    path = write_tars(tmp_path / "tars", 30, 30)
    torn = path / "001.tar"
    torn.write_bytes(torn.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"shard 1 of .* cannot be read to its end"):
        take(open_images(data(path, streaming=True)), 30)
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    for streaming in (False, True):
        with pytest.raises(FileNotFoundError, match=r"cannot load the data set .*x\.parquet"):
            open_images(data(tmp_path / "x.parquet", streaming=streaming))


def test_without_a_column_of_images_it_says_which_there_are(tmp_path):
    datasets.Dataset.from_dict({"a": [1], "b": ["x"]}).to_parquet(tmp_path / "x.parquet")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="has no column of images; it has a, b"):
            open_images(data(tmp_path / "x.parquet", streaming=streaming))
