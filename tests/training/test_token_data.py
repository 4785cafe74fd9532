"""Tokens that are read by row: which, in which order, whose they are, what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny import make_tokenizer, sentence, stripes
from token_runs import go, write_classes, write_tokenizer

from arimage.pretrained import identity
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.images import order_of
from arimage.training.token_data import INDEX, TokenData, check_classes, variants_of
from arimage.training.token_run import Encoding
from arimage.training.tokens import load_tokens, make_tokens, save_tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("data") / "stripes")


@pytest.fixture(scope="module")
def crops(tokenizer, data, tmp_path_factory):
    """Ten crops of ten images."""
    return go(tokenizer, data, tmp_path_factory.mktemp("crops") / "tokens", "ten_crop")


def take(tokens, count, batch_size=4, **where):
    batches = tokens.batches(batch_size, **where)
    return [next(batches) for _ in range(count)]


def joined(batches):
    """(ids, labels, images) of several batches."""
    return tuple(
        torch.cat([getattr(b, part) for b in batches]) for part in ("ids", "labels", "index")
    )


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_every_epoch_has_every_image_once_in_the_order_of_images(crops):
    batches = take(crops, 10)
    index = joined(batches)[2].tolist()
    assert index == [i for epoch in range(4) for i in order_of(10, 0, epoch).tolist()]
    assert [batch.epoch for batch in batches] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert joined(take(crops, 10, seed=1))[2].tolist() != index


def test_variants_follow_from_seed_epoch_and_image(crops):
    every = [crops.rows(torch.arange(10), torch.full((10,), v))[0] for v in range(10)]
    for batch_size in (3, 5):
        ids, labels, index = joined(take(crops, 30 // batch_size, batch_size))
        for place, (row, image) in enumerate(zip(ids, index.tolist(), strict=True)):
            variant = variants_of(10, 10, 0, place // 10)[image]
            assert torch.equal(row, every[variant][image])
        assert torch.equal(labels, torch.from_numpy(crops.labels)[index])


def test_variants_are_uniform_and_each_epoch_draws_anew():
    drawn = np.stack([variants_of(4000, 10, 3, epoch) for epoch in range(5)])
    counts = np.bincount(drawn.ravel(), minlength=10)
    assert counts.sum() == 20000
    assert abs(counts - 2000).max() < 4.5 * np.sqrt(2000 * 0.9)  # 4.5 standard deviations
    assert np.mean(drawn[0] == drawn[1]) < 0.15
    assert not np.array_equal(drawn[0], variants_of(4000, 10, 4, 0))


@pytest.mark.parametrize("start", [0, 1, 7])
def test_two_processes_see_what_one_sees(crops, start):
    one = take(crops, 5, 4, start=start)
    halves = [take(crops, 5, 2, rank=rank, world=2, start=start) for rank in (0, 1)]
    for whole, *parts in zip(one, *halves, strict=True):
        assert same(joined([whole]), joined(parts))


def test_a_run_goes_on_with_its_step_alone(crops):
    whole = take(crops, 9)
    for step in (1, 2, 6):
        assert same(joined(whole[step:]), joined(take(crops, 9 - step, start=step)))


def test_rows_come_in_the_order_asked_for(crops):
    ids, labels = crops.rows(torch.tensor([9, 0, 3, 3]))
    every, classes = crops.rows(torch.arange(10))
    assert torch.equal(ids, every[[9, 0, 3, 3]])
    assert torch.equal(labels, classes[[9, 0, 3, 3]])
    none, _ = crops.rows(torch.arange(0))
    assert none.shape == (0, crops.num_slots)
    for index, variants in (([10], [0]), ([-1], [0]), ([0], [10])):
        with pytest.raises(IndexError, match="the tokens have 0 to 9"):
            crops.rows(torch.tensor(index), torch.tensor(variants))


def test_shards_are_mapped_and_not_read(crops, monkeypatch):
    from safetensors import numpy

    monkeypatch.setattr(numpy, "load_file", None)
    read = []

    class Watched:
        def __init__(self, ids):
            self.ids = ids

        def get_shape(self):
            return self.ids.get_shape()

        def __getitem__(self, place):
            read.append(place)
            return self.ids[place]

    tokens = TokenData(crops.folder)
    tokens._ids = [Watched(ids) for ids in tokens._ids]
    tokens.rows(torch.tensor([0, 4]), torch.tensor([2, 9]))
    assert read == [(0, 2), (1, 9)]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, "uint16"), (65537, "int32")])
def test_ids_are_as_narrow_as_the_vocabulary_allows(
    tokenizer, data, tmp_path, monkeypatch, vocab_size, dtype
):
    """A tokenizer that says it has so many codes, and uses the last one."""
    plain = Encoding.__init__

    def many(self, run):
        plain(self, run)
        self.encoder.tokenizer.config.vocab_size = vocab_size
        ids = self.encoder._ids
        self.encoder._ids = lambda pixels: np.full_like(ids(pixels), vocab_size - 1)

    monkeypatch.setattr(Encoding, "__init__", many)
    tokens = go(tokenizer, data, tmp_path / "tokens")
    with safe_open(tmp_path / "tokens" / "shard-00000.safetensors", "np") as opened:
        assert str(opened.get_tensor("ids").dtype) == dtype
    assert (tokens.rows(torch.arange(10))[0] == vocab_size - 1).all()


def test_all_is_loaded_as_before(crops):
    tokens, loaded = load_tokens(crops.folder)
    assert tokens.ids.shape == (100, crops.num_slots)
    assert identity(loaded) == tokens.tokenizer == crops.tokenizer
    assert torch.equal(tokens.ids[13], crops.rows(torch.tensor([1]), torch.tensor([3]))[0][0])
    assert tokens.class_labels.tolist() == [0] * 50 + [1] * 50
    assert tokens.augmentation["name"] == "ten_crop"
    assert tokens.class_names == ["across", "down"]


def test_folders_of_one_file_are_read_too(tmp_path):
    model = make_tokenizer("vq")
    pixels, labels = stripes(10)
    tokens = make_tokens(model, pixels, labels, class_names=["across", "down"])
    save_tokens(tmp_path, tokens, model)
    data = TokenData(tmp_path)
    ids, classes = data.rows(torch.arange(10))
    assert torch.equal(ids, tokens.ids)
    assert np.array_equal(classes, tokens.class_labels)
    assert (data.variants, data.num_classes, data.class_names) == (1, 2, ["across", "down"])
    data.check(model)
    assert sorted(joined(take(data, 5, 2))[2].tolist()) == list(range(10))
    other = make_tokens(model, pixels[::-1].copy(), labels)
    save_tokens(tmp_path / "other", other, model)
    assert TokenData(tmp_path / "other").identity != data.identity


def test_an_identity_is_of_the_tokens_and_not_of_the_place(crops, tokenizer, data, tmp_path):
    moved = TokenData(shutil.copytree(crops.folder, tmp_path / "moved"))
    assert moved.identity == crops.identity
    assert go(tokenizer, data, tmp_path / "one").identity != crops.identity
    assert crops.describe()["identity"] == crops.identity
    assert str(tmp_path) not in json.dumps(moved.describe())


def test_tokens_of_another_tokenizer_are_refused(crops, tokenizer, tmp_path):
    other = ImageTokenizer.from_pretrained(tokenizer)
    crops.check(other)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match="arimage tokens --tokenizer") as caught:
        crops.check(other)
    assert crops.tokenizer[:12] in sentence(caught)
    folder = shutil.copytree(crops.folder, tmp_path / "tokens")
    other.save_pretrained(folder / "image_tokenizer")
    with pytest.raises(ValueError, match="made by the tokenizer"):
        TokenData(folder).load_tokenizer()


@pytest.mark.parametrize(
    ("labels", "count", "names", "text"),
    [
        ([0, 1, 2], 2, None, "got class labels from 0 to 2 for 2 classes"),
        ([-1, 1], 2, None, "got class labels from -1 to 1 for 2 classes"),
        ([0, 2], 3, ["a", "b", "c"], "got 3 classes and images of 2 of them, none of b;"),
        ([0], 6, None, "got 6 classes and images of 1 of them, none of 1, 2, 3, ...;"),
    ],
)
def test_labels_and_classes_that_do_not_fit_are_refused(labels, count, names, text):
    with pytest.raises(ValueError) as caught:
        check_classes(np.array(labels), count, names)
    assert text in sentence(caught)


def test_the_classes_of_a_model_are_those_of_the_tokens(crops):
    crops.check_classes()
    crops.check_classes(2)
    for count, word in ((1, "class labels from 0 to 1"), (3, "none of 2")):
        with pytest.raises(ValueError, match=word):
            crops.check_classes(count)


def test_more_images_in_a_step_than_there_are_is_told(crops):
    with pytest.raises(ValueError, match="tokens of 10 images and a step takes 12"):
        crops.batches(6, world=2)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        crops.batches(1, rank=2, world=2)


@pytest.mark.parametrize("harm", ["gone", "torn", "another", "count", "labels", "ids"])
def test_damaged_folders_are_told(crops, tmp_path, harm):
    folder = shutil.copytree(crops.folder, tmp_path / "tokens")
    shard, index = folder / "shard-00001.safetensors", json.loads((folder / INDEX).read_text())
    if harm == "gone":
        shard.unlink()
    elif harm == "torn":
        shard.write_bytes(shard.read_bytes()[:-9])
    elif harm == "another":
        shutil.copy(folder / "shard-00000.safetensors", shard)
    index["images"] += harm == "count"
    index["num_classes"] -= harm == "labels"
    index["vocab_size"] = 1 if harm == "ids" else index["vocab_size"]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="arimage tokens") as caught:
        TokenData(folder).rows(torch.arange(10))
    assert str(folder) in sentence(caught)


def test_folders_without_tokens_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a folder made by arimage tokens"):
        TokenData(tmp_path)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(ValueError, match="was not made by arimage tokens"):
        TokenData(tmp_path)
