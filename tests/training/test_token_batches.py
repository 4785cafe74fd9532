"""Tokens that a training reads where some images are held out."""

import numpy as np
import pytest
import torch
from generator_runs import write_tokens
from tiny import sentence

from arimage.training.token_batches import Part, TrainingTokens, hold_out
from arimage.training.token_data import TokenData


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return TokenData(write_tokens(tmp_path_factory.mktemp("data") / "tokens", "vq", 10))


def rows_of(batches, count):
    return [next(batches) for _ in range(count)]


def test_a_share_is_held_out_and_no_image_is_on_both_sides(data):
    rest, held_out = hold_out(data, 0.3, seed=0)
    assert isinstance(rest, TrainingTokens)
    assert (len(rest), len(held_out)) == (7, 3)
    both = torch.cat([rest.chosen, held_out.chosen])
    assert both.sort().values.tolist() == list(range(10))
    ids, labels = held_out.rows(torch.arange(3))
    assert torch.equal(ids, data.rows(held_out.chosen)[0])
    assert labels.tolist() == [data.labels[i] for i in held_out.chosen.tolist()]
    assert hold_out(data, 0.3, seed=1)[1].chosen.tolist() != held_out.chosen.tolist()
    assert hold_out(data, 0.0, seed=0) == (data, None)
    descriptions = [part.describe() for part in (data, rest, held_out)]
    assert len({about["identity"] for about in descriptions}) == 3
    assert [about["images"] for about in descriptions] == [10, 7, 3]


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_a_side_empty_is_told(data, share):
    with pytest.raises(ValueError) as caught:
        hold_out(data, share, seed=0)
    assert "expected some, not all" in sentence(caught)


def test_every_epoch_has_every_image_once_and_a_run_goes_on_anywhere(data):
    part = Part(data, torch.tensor([1, 2, 3, 5, 8, 9]))
    batches = rows_of(part.batches(4, seed=3), 6)
    seen = torch.cat([batch.index for batch in batches]).reshape(4, 6)
    assert (seen.sort(1).values == torch.arange(6)).all()
    assert len(np.unique(seen.numpy(), axis=0)) > 1
    later = next(part.batches(4, seed=3, start=5))
    assert torch.equal(later.index, batches[5].index)
    assert torch.equal(later.ids, data.rows(part.chosen[later.index])[0])


def test_two_processes_have_the_batch_of_one(data):
    part = Part(data, torch.arange(1, 9))
    whole = rows_of(part.batches(4), 3)
    halves = [rows_of(part.batches(2, rank, 2), 3) for rank in range(2)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(batch.ids, torch.cat([first.ids, second.ids]))
