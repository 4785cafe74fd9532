"""Random order with instructions: lessons, and decoding replayed."""

import torch
from test_orders import bind, lesson

from arimage.ar.base import UNKNOWN


def test_a_lesson_with_instructions_alternates_queries_and_tokens_along_each_path():
    order = bind("instructed", ((2, 3),))
    ids, given = lesson(order)
    path = given.step.slots
    assert len(path.unique(dim=0)) > 1
    assert torch.equal(given.targets, ids.gather(1, path))
    assert torch.equal(given.inputs[:, 1::2], given.targets[:, :-1])
    assert (given.inputs[:, ::2] == UNKNOWN).all()
    assert torch.equal(given.step.holds[:, given.step.reads], path)


def test_decoding_with_instructions_replayed_hides_what_is_predicted_together():
    order = bind("instructed", ((2, 3),), sizes=[1, 2, 3])
    ids, _ = lesson(order)
    step = order.replay(ids, torch.Generator().manual_seed(0)).step
    known = 1 + 2 * 3  # the prefix, then three queries with their tokens
    seen = [row.nonzero().flatten().tolist() for row in step.mask[known:]]
    assert seen[0] == [0, known]
    assert seen[1] == [0, 1, 2, known + 1]
    assert seen[2] == [0, 1, 2, known + 1, known + 2]
    assert seen[5] == [*range(known), known + 3, known + 4, known + 5]
