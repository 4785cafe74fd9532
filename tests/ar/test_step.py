"""A step says which of its positions give logits."""

import torch

from arimage.ar.base import Step


def make_step(slots: torch.Tensor, reads: torch.Tensor | None) -> Step:
    positions = torch.arange(4)
    return Step(
        index=0,
        num_steps=1,
        scale=0,
        slots=slots,
        positions=positions,
        start=0,
        stop=4,
        cached=False,
        mask=None,
        holds=positions,
        reads=reads,
    )


X = torch.arange(2 * 4 * 3).reshape(2, 4, 3).float()


def test_without_places_the_last_positions_are_read():
    step = make_step(torch.arange(2), None)
    assert torch.equal(step.read(X), X[:, 2:])
    assert torch.equal(step.tiled(2).slots, step.slots)  # the same for all images


def test_places_of_all_images():
    step = make_step(torch.arange(2), torch.tensor([3, 0]))
    assert torch.equal(step.read(X), X[:, [3, 0]])


def test_places_of_each_image_and_its_null_row():
    reads = torch.tensor([[3, 0]])
    step = make_step(torch.arange(2), reads).tiled(2)
    assert torch.equal(step.reads, reads.repeat(2, 1))
    assert torch.equal(step.slots, torch.arange(2))
    each = make_step(torch.arange(2), torch.tensor([[3, 0], [1, 1]]))
    assert torch.equal(each.read(X), torch.stack([X[0, [3, 0]], X[1, [1, 1]]]))
