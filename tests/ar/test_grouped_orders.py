"""Orders of groups: the rules of training and decoding, rows of the cache, lessons."""

import dataclasses

import pytest
import torch
from tiny import ToyFuser, make_generator

from arimage.ar.base import CONTENT, NO_SLOT, PREFIX, QUERY, UNKNOWN, Draw, State
from arimage.ar.block_mask import visible
from arimage.ar.registry import ORDERS
from arimage.sampling.noise import PerImageNoise

GROUPED = {
    "random_groups": False,
    "local_groups": True,
}  # whether queries of a group see each other
CASES = [
    (name, grid, sizes, prefix)
    for name in GROUPED
    for grid, sizes in (((2, 3), [1, 2, 3]), ((4, 4), [4, 1, 9, 2]), ((1, 1), [1]))
    for prefix in (1, 3)
]
MODELS = {"random_groups": "arpg", "local_groups": "lpd"}


def bind(name, grid=(2, 3), sizes=None, prefix=1, **options):
    return ORDERS[name](ToyFuser((grid,), 32, 4), prefix, "cpu", sizes=sizes, **options)


def may_see(name, query, key):
    """From the definition; both are (kind, group of the token or asked for)."""
    (_, mine), (kind, theirs) = query, key
    if kind == PREFIX:
        return True
    if query[0] == PREFIX:
        return False
    if kind == QUERY:
        return GROUPED[name] and query[0] == QUERY and mine == theirs
    return theirs < mine or (theirs == mine and query[0] == CONTENT)


def rule(name, rows, columns):
    return torch.tensor([[may_see(name, row, column) for column in columns] for row in rows])


def group_of(sizes):
    return [g for g, size in enumerate(sizes) for _ in range(size)]


@pytest.mark.parametrize(("name", "grid", "sizes", "prefix"), CASES)
def test_the_masks_of_decoding_are_the_rule(name, grid, sizes, prefix):
    order, groups, done = bind(name, grid, sizes, prefix), group_of(sizes), 0
    for index, size in enumerate(sizes):
        step = order.step(index)
        known = [(PREFIX, 0)] * prefix + [(CONTENT, g) for g in groups[:done]]
        asked = [(QUERY, index)] * size
        rows = known[prefix + done - sizes[index - 1] if index else 0 :] + asked
        assert torch.equal(step.mask, rule(name, rows, known + asked))
        other = "random_groups" if GROUPED[name] else None
        if other is not None and size > 1:
            assert not torch.equal(step.mask, rule(other, rows, known + asked))
        done += size


@pytest.mark.parametrize(("name", "grid", "sizes", "prefix"), CASES)
def test_a_step_lies_where_its_tokens_are_kept(name, grid, sizes, prefix):
    order, groups, done = bind(name, grid, sizes, prefix), group_of(sizes), 0
    assert order.num_steps == len(sizes)
    for index, size in enumerate(sizes):
        step = order.step(index)
        before = sizes[index - 1] if index else 0
        start = prefix + done - before if index else 0
        assert (step.start, step.stop) == (start, prefix + done + size)
        assert step.positions.tolist() == list(range(start, prefix + done + size))
        assert step.slots.tolist() == [i for i, g in enumerate(groups) if g == index]
        places = list(range(done - before, done + size))
        assert step.holds.tolist() == [NO_SLOT] * (0 if index else prefix) + places
        done += size
    assert order.length == prefix + done


@pytest.mark.parametrize(("name", "grid", "sizes", "prefix"), CASES)
def test_descriptors_are_of_what_the_last_step_leaves(name, grid, sizes, prefix):
    order, groups = bind(name, grid, sizes, prefix), group_of(sizes)
    places, before = order.describe(), len(groups) - sizes[-1]
    assert len(places) == order.length
    assert places.kind.tolist() == [PREFIX] * prefix + [CONTENT] * before + [QUERY] * sizes[-1]
    expected = [0] * prefix + [g + 1 for g in groups[:before]] + [len(sizes) - 1] * sizes[-1]
    assert places.group.tolist() == expected
    table = order.fuser.slots
    assert places.row[prefix:].tolist() == table.row.tolist()
    assert places.column[prefix:].tolist() == table.column.tolist()


def lesson(order, method="lesson", batch=5):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 32, (batch, order.num_slots), generator=generator)
    return ids, getattr(order, method)(ids, generator)


@pytest.mark.parametrize("method", ["lesson", "replay"])
@pytest.mark.parametrize(("name", "grid", "sizes", "prefix"), CASES)
def test_a_lesson_is_tokens_and_then_all_queries(name, grid, sizes, prefix, method):
    """ARPG is taught in groups of one."""
    order = bind(name, grid, sizes, prefix)
    ids, given = lesson(order, method)
    one_by_one = name == "random_groups" and method == "lesson"
    groups = group_of([1] * len(group_of(sizes)) if one_by_one else sizes)
    before = groups.index(groups[-1])
    path = given.step.slots
    assert given.counts.all()
    assert torch.equal(given.targets, ids.gather(1, path))
    assert torch.equal(given.inputs[:, :before], given.targets[:, :before])
    assert (given.inputs[:, before:] == UNKNOWN).all()
    assert torch.equal(given.step.holds[:, prefix : prefix + before], path[:, :before])
    assert torch.equal(given.step.holds[:, prefix + before :], path)
    assert (given.step.holds[:, :prefix] == NO_SLOT).all()
    tokens = [(CONTENT, g) for g in groups[:before]]
    everything = [(PREFIX, 0)] * prefix + tokens + [(QUERY, g) for g in groups]
    assert torch.equal(given.step.mask, rule(name, everything, everything))


@pytest.mark.parametrize("name", GROUPED)
def test_generation_feeds_what_the_replay_feeds(name):
    order = bind(name, (4, 4), [1, 3, 5, 7])
    ids, given = lesson(order, "replay")
    order = bind(name, (4, 4), [1, 3, 5, 7], path=given.step.slots)
    noise, seen = PerImageNoise(range(5), "cpu"), []
    state = order.start(noise)
    while (step := order.next_step(state)) is not None:
        fed = order.inputs(state, step)
        assert (fed[:, -step.predicts :] == UNKNOWN).all()
        seen.append(fed[:, : -step.predicts])
        draw = Draw(ids.gather(1, step.slots), torch.zeros(5, step.predicts))
        state = order.commit(state, step, draw, noise)
    assert torch.equal(state.ids, ids)
    assert torch.equal(torch.cat(seen, dim=1), given.inputs[:, :9])


@pytest.mark.parametrize("name", GROUPED)
def test_blocks_are_the_rule_of_the_lesson(name):
    """ARPG's model has its tokens apart from its queries, and one causal rule for both."""
    order = bind(name, (9, 15))
    mask = lesson(order, batch=2)[1].step.mask
    if name == "random_groups":
        tokens = order.num_slots
        queries = mask[tokens:, :tokens]
        assert torch.equal(mask[:tokens, :tokens], queries)
        assert not mask[:, tokens:].any()
        mask = queries
    assert torch.equal(visible(order.block_mask), mask)


@pytest.mark.parametrize("name", GROUPED)
def test_paths_come_from_seeds(name):
    order = bind(name, (4, 4))
    path = order.start(PerImageNoise([4, 7, 4], "cpu")).path
    assert torch.equal(path[0], path[2])
    assert not torch.equal(path[0], path[1])
    assert torch.equal(path.sort(1).values, torch.arange(16).expand(3, -1))


@pytest.mark.parametrize("name", GROUPED)
def test_the_number_of_steps_is_the_users(name):
    generator = make_generator(MODELS[name], name)
    for steps in (1, 3, 16):
        order = generator.order(steps)
        assert order.num_steps == steps
        assert sum(order.sizes) == 16
    with pytest.raises(ValueError, match="got num_steps 17; this order takes 1 to 16"):
        generator(class_labels=[0], seeds=0, num_steps=17)


def test_a_state_without_paths_is_left_as_it_is():
    order = bind("random_groups")
    step, ids = order.step(0), torch.full((1, 6), UNKNOWN)
    state = State(ids, order.fuser.blank(1), 0)
    assert order.placed(step, state) is step
    placed = order.placed(step, dataclasses.replace(state, path=torch.arange(6).flip(0)[None]))
    assert placed.slots.tolist() == [[5]]
