"""A stream of random numbers per image."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from tiny import sentence

from arimage.ar.base import Noise
from arimage.sampling.labels import count_images
from arimage.sampling.noise import BLOCK, PerImageNoise, ReferenceNoise, make_seeds
from arimage.sampling.registry import NOISES

SEEDS = [5, 0, 2**63 - 1]


class SharedNoise(PerImageNoise):
    """One stream for the whole batch: what a seed per image is there to avoid."""

    def uniform(self, count):
        return torch.from_numpy(self._streams[0].random((self.batch, count)))


def streams_are_independent(kind, draws):
    """Image i gets the same numbers in a batch, alone and in another place of the batch."""
    together = draws(kind(SEEDS, "cpu"))
    turned = draws(kind(SEEDS[::-1], "cpu")).flip(0)
    alone = torch.cat([draws(kind([seed], "cpu")) for seed in SEEDS])
    return torch.equal(together, alone) and torch.equal(together, turned)


DRAWS = {
    "uniform": lambda noise: noise.uniform(9),
    "gumbel": lambda noise: noise.gumbel(9),
    "choose": lambda noise: noise.choose(torch.full((noise.batch, 9, 100), 0.01)),
    "labels": lambda noise: torch.tensor(noise.labels(10**9)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_names_a_stream(name):
    assert streams_are_independent(PerImageNoise, DRAWS[name])


@pytest.mark.parametrize("name", ["uniform", "gumbel", "choose"])
def test_a_shared_stream_does_not(name):
    assert not streams_are_independent(SharedNoise, DRAWS[name])


@pytest.mark.parametrize("pieces", [(12,), (1,) * 12, (5, 7), (1, 10, 1)])
def test_how_draws_are_split_does_not_matter(pieces):
    noise = PerImageNoise(SEEDS, "cpu")
    parts = torch.cat([noise.uniform(count) for count in pieces], dim=1)
    assert torch.equal(parts, PerImageNoise(SEEDS, "cpu").uniform(12))


def test_drawing_ahead_changes_no_number():
    noise = PerImageNoise(SEEDS, "cpu")
    parts = torch.cat([noise.uniform(count) for count in (1, BLOCK, 3 * BLOCK + 5, 0, 7)], dim=1)
    streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in SEEDS]
    assert np.array_equal(parts, np.stack([s.random(4 * BLOCK + 13) for s in streams]))


def test_another_seed_is_another_stream():
    rows = PerImageNoise([0, 1, 2, 2**40], "cpu").uniform(4)
    assert len(rows.flatten().unique()) == 16


def test_the_stream_of_a_seed_never_changes():
    golden = [0.01154675, 0.2415492, 0.11142586]
    assert np.allclose(PerImageNoise([0], "cpu").uniform(3)[0].numpy(), golden, atol=1e-8)


def test_uniform_numbers_are_uniform_and_float64():
    numbers = PerImageNoise([4], "cpu").uniform(20_000)
    assert numbers.dtype == torch.float64
    assert 0 <= numbers.min() <= numbers.max() < 1
    assert kstest(numbers[0].numpy(), "uniform").pvalue > 1e-3


def test_gumbel_numbers_have_the_standard_law_and_stay_finite():
    numbers = PerImageNoise([4], "cpu").gumbel(20_000)
    assert kstest(numbers[0].numpy(), "gumbel_r").pvalue > 1e-3

    class Zero(PerImageNoise):
        def uniform(self, count):
            return torch.zeros(self.batch, count, dtype=torch.float64)

    assert Zero([0], "cpu").gumbel(2).isfinite().all()


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_a_seed_out_of_range_is_told(seed):
    with pytest.raises(ValueError) as caught:
        PerImageNoise([0, seed], "cpu")
    assert f"got seed {seed}; expected an integer from 0" in sentence(caught)


@pytest.mark.parametrize("name", NOISES)
def test_it_is_what_an_order_and_a_sampler_ask_for(name):
    assert isinstance(NOISES[name]([0], "cpu"), Noise)


@pytest.mark.parametrize("name", NOISES)
def test_every_kind_repeats_and_draws_within_range(name):
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.5]).expand(2, 1000, 4)
    first, again = (NOISES[name]([3, 3], "cpu").choose(probabilities) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (2, 1000)
    assert set(first.unique().tolist()) == {1, 3}
    assert 400 < (first[0] == 1).sum() < 600
    labels = NOISES[name]([5] * 50, "cpu").labels(7)
    assert len(labels) == 50
    assert all(0 <= label < 7 for label in labels)
    assert kstest(NOISES[name]([4], "cpu").gumbel(20_000)[0].numpy(), "gumbel_r").pvalue > 1e-3


def test_drawing_labels_leaves_the_other_draws_of_an_image_alone():
    noise = PerImageNoise(SEEDS, "cpu")
    noise.labels(10)
    assert torch.equal(noise.uniform(9), PerImageNoise(SEEDS, "cpu").uniform(9))


def test_reference_draws_are_those_of_torch_multinomial():
    torch.manual_seed(0)
    probabilities = torch.randn(3, 5, 40).softmax(-1)
    stream = torch.Generator().manual_seed(11)
    labels = torch.multinomial(torch.ones(10), 3, replacement=True, generator=stream)
    drawn = [
        torch.multinomial(probabilities.view(-1, 40), 1, replacement=True, generator=stream)
        for _ in range(3)
    ]
    noise = ReferenceNoise([11] * 3, "cpu")
    assert noise.labels(10) == labels.tolist()
    ours = [noise.choose(probabilities).view(-1, 1) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(ours, drawn, strict=True))
    unlabelled = ReferenceNoise([11] * 3, "cpu").choose(probabilities).view(-1, 1)
    assert not torch.equal(unlabelled, ours[0])


def test_the_reference_stream_takes_one_seed():
    with pytest.raises(ValueError) as caught:
        ReferenceNoise([1, 2], "cpu")
    assert "got seeds [1, 2]" in sentence(caught)


@pytest.mark.parametrize(
    ("seeds", "count", "shared", "expected"),
    [
        (3, 2, False, [3, 4]),
        (3, 2, True, [3, 3]),
        ([5, 1], 2, False, [5, 1]),
        ([5, 5], 2, True, [5, 5]),
    ],
)
def test_seeds(seeds, count, shared, expected):
    assert make_seeds(seeds, count, shared=shared) == expected


def test_fresh_seeds():
    first, again = make_seeds(None, 4), make_seeds(None, 4)
    assert len(set(first + again)) == 8
    assert len(set(make_seeds(None, 4, shared=True))) == 1


def test_images_are_counted_by_labels_a_count_or_a_list_of_seeds():
    assert count_images(3, None, None) == 3
    assert count_images(None, 4, None) == 4
    assert count_images(None, None, [5, 1]) == 2


@pytest.mark.parametrize("seeds", [None, 3])
def test_without_labels_and_count_one_seed_says_too_little(seeds):
    with pytest.raises(ValueError) as caught:
        count_images(None, None, seeds)
    assert "neither class_labels nor count" in sentence(caught)


def test_permutations_are_of_each_image():
    drawn = PerImageNoise([3, 4, 3], "cpu").permutations(9)
    assert torch.equal(drawn.sort(-1).values, torch.arange(9).expand(3, -1))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    theirs = torch.Generator().manual_seed(5)
    rows = [torch.randperm(9, generator=theirs) for _ in range(2)]
    assert torch.equal(ReferenceNoise([5, 5], "cpu").permutations(9), torch.stack(rows))


def test_tokens_drawn_apart_are_those_of_one_multinomial_each():
    odds = torch.rand(2, 3, 7, generator=torch.Generator().manual_seed(1))
    whole = ReferenceNoise([5, 5], "cpu")
    theirs = torch.Generator().manual_seed(5)
    rows = [torch.multinomial(odds[:, i], 1, generator=theirs) for i in range(3)]
    drawn = whole.apart().choose(odds)
    assert torch.equal(drawn, torch.cat(rows, dim=1))
    assert not whole.one_by_one
    noise = PerImageNoise([1], "cpu")
    assert noise.apart() is noise
