"""Orders: context rules, steps, lessons, and the schedule of the masked one."""

import pytest
import torch
from tiny import MODEL_CASES, ToyFuser, make_model, make_order, sentence

from arimage.ar.base import CONTENT, PREFIX, QUERY, UNKNOWN, Draw, Known
from arimage.ar.orders.bits import BitOrder
from arimage.ar.orders.flexible import FlexibleScaleOrder
from arimage.ar.orders.grouped import GroupedOrder
from arimage.ar.orders.halton import HaltonOrder
from arimage.ar.orders.instructed import InstructedOrder
from arimage.ar.orders.local_groups import LocalGroupsOrder
from arimage.ar.orders.masked import MaskedOrder
from arimage.ar.orders.next_scale import NextScaleOrder
from arimage.ar.orders.random import RandomOrder
from arimage.ar.orders.random_groups import RandomGroupsOrder
from arimage.ar.orders.raster import RasterOrder
from arimage.ar.orders.refined import RefinedScaleOrder
from arimage.ar.orders.regions import RegionOrder
from arimage.ar.orders.within_scale import WithinScaleOrder
from arimage.ar.registry import ORDERS
from arimage.sampling.noise import PerImageNoise
from arimage.slots import square_grids

GRIDS = {
    "raster": [((2, 3),), ((4, 4),), ((1, 1),)],
    "random": [((2, 3),), ((4, 4),), ((1, 1),)],
    "masked": [((2, 3),), ((4, 4),)],
    "halton": [((2, 3),), ((4, 4),)],
    "bits": [((2, 3),), ((4, 4),)],
    "instructed": [((2, 3),), ((4, 4),), ((1, 1),)],
    "regions": [((2, 6),), ((4, 4),), ((2, 2),)],  # 4 of them
    "next_scale": [square_grids((1, 2, 3)), square_grids((1, 3, 4, 5)), ((1, 1),)],
    "random_groups": [((2, 3),), ((4, 4),), ((1, 1),)],
    "local_groups": [((2, 3),), ((4, 4),), ((1, 1),)],
    "within_scale": [square_grids((1, 2, 3)), square_grids((1, 3, 4, 5)), ((1, 1),)],
    "refined_scale": [square_grids((1, 2, 3)), ((1, 1),)],
    "flexible_scale": [square_grids((1, 2, 3)), ((1, 1), (2, 3), (3, 6)), ((1, 1),)],
}
BY_SCALE = ("next_scale", "within_scale", "flexible_scale", "refined_scale")
NAMES = [n for n in ORDERS if n != "jacobi"]  # raster's: test_jacobi.py
# the others: test_grouped_orders.py
RULED = [n for n in NAMES if not issubclass(ORDERS[n], GroupedOrder)]
UNCACHED = ("masked", "halton", "bits")  # everything is embedded at every step
OPTIONS = {"bits": {"splits": 1, "size": 32}}  # so that entries are ids of the toy fuser
CASES = [(name, grids, prefix) for name in RULED for grids in GRIDS[name] for prefix in (1, 3)]


def bind(name, grids, prefix=1, **options):
    options = OPTIONS.get(name, {}) | options
    return ORDERS[name](ToyFuser(grids, 32, 4), prefix, "cpu", **options)


def groups_of(name, grids):
    """Slots predicted together, from the definition of each order."""
    sizes = [h * w for h, w in grids]
    if name in BY_SCALE:
        return [range(sum(sizes[:k]), sum(sizes[: k + 1])) for k in range(len(sizes))]
    if name == "regions":
        return in_regions(*grids[0])
    return [range(i, i + 1) for i in range(sum(sizes))]


def in_regions(height, width):
    """Upper left cells of the 4 quarters one by one; then each next cell of all quarters."""
    down, across = height // 2, width // 2
    corners = [y * width + x for y in (0, down) for x in (0, across)]
    cells = [y * width + x for y in range(down) for x in range(across)]
    together = [[corner + cell for corner in corners] for cell in cells]
    return [[corner] for corner in corners] + together[1:]


def rule(name, grids, prefix):
    """(n, n) True where position q may see position k, from the definition of each order.

    Of a random order's positions only their places in the path are known, as of raster's.
    """
    length = prefix + sum(h * w for h, w in grids) - (name not in UNCACHED)
    if name == "instructed":  # a query beside each token
        length = prefix + 2 * sum(h * w for h, w in grids) - 1
    if name in UNCACHED:
        return torch.ones(length, length, dtype=torch.bool)
    if name in ("raster", "random", "instructed"):
        return torch.ones(length, length, dtype=torch.bool).tril()
    if name == "regions":
        group = [0] * prefix + [1, 2, 3] + [4 + i // 4 for i in range(length - prefix - 3)]
        place, index = torch.tensor(group), torch.arange(length)
        return (place[None] < place[:, None]) | (
            (place[None] == place[:, None]) & ((place > 0) | (index[None] <= index[:, None]))
        )
    scale = [0] * (prefix - 1)
    for k, slots in enumerate(groups_of(name, grids)):
        scale += [k] * len(slots)
    place = torch.tensor(scale)
    seen = torch.eq if name in ("refined_scale", "within_scale") else torch.le
    return seen(place[None], place[:, None])


def obeys(order, expected):
    """Whether the training mask and every decoding mask are this rule."""
    full = order.full_step()
    masks = [(full.mask, expected)]
    for index in range(order.num_steps):
        step = order.step(index)
        first = 0 if step.cached else step.start
        masks.append((step.mask, expected[step.start : step.stop, first : step.stop]))
    return all(
        torch.equal(torch.ones_like(rows) if mask is None else mask, rows) for mask, rows in masks
    )


@pytest.mark.parametrize(("name", "grids", "prefix"), CASES)
def test_training_and_decoding_masks_are_the_rule(name, grids, prefix):
    assert obeys(bind(name, grids, prefix), rule(name, grids, prefix))


@pytest.mark.parametrize("name", RULED)
def test_the_masks_are_not_the_rule_of_another_order(name):
    grids = GRIDS[name][0]
    other = ~rule(name, grids, 2) | torch.eye(len(rule(name, grids, 2)), dtype=torch.bool)
    assert not obeys(bind(name, grids, 2), other)


@pytest.mark.parametrize(("name", "grids", "prefix"), CASES)
def test_steps_cover_every_slot_once_and_every_position_once(name, grids, prefix):
    order = bind(name, grids, prefix)
    steps = [order.step(i) for i in range(order.num_steps)]
    assert [s.index for s in steps] == list(range(order.num_steps))
    if name in UNCACHED:
        assert all((s.start, s.stop) == (0, order.length) for s in steps)
        predicted = [s.slots.tolist() for s in steps]
        if name == "halton":
            assert [slot for slots in predicted for slot in slots] == order.path.tolist()
            assert [(s.reads - prefix).tolist() for s in steps] == predicted
        else:
            assert all(slots == list(range(order.num_slots)) for slots in predicted)
        return
    assert [s.slots.tolist() for s in steps] == [list(g) for g in groups_of(name, grids)]
    positions = torch.cat([s.positions for s in steps])
    if name == "instructed":  # some are written twice, and after the last step nothing is open
        assert positions.unique().tolist() == list(range(order.length))
        return
    assert positions.tolist() == list(range(order.length))


@pytest.mark.parametrize(("name", "grids", "prefix"), CASES)
def test_descriptors_tell_the_prefix_from_the_content_and_where_it_is(name, grids, prefix):
    order = bind(name, grids, prefix)
    places = order.describe()
    assert len(places) == order.length
    kinds = [PREFIX] * prefix + [CONTENT] * (order.length - prefix)
    if name == "instructed":
        kinds[prefix::2] = [QUERY] * len(kinds[prefix::2])
    if name == "regions":
        kinds[prefix + 4 : prefix + 7] = [QUERY] * len(kinds[prefix + 4 : prefix + 7])
    if name in ("regions", "instructed"):
        held = order.full_step().holds.clamp_min(0)
        assert places.row.tolist() == order.fuser.slots.row[held].tolist()
        assert places.column.tolist() == order.fuser.slots.column[held].tolist()
    assert places.kind.tolist() == kinds
    if name in ("regions", "instructed"):
        return
    table, first = order.fuser.slots, prefix - (name in BY_SCALE)
    fed = order.length - first
    assert places.row[first:].tolist() == table.row[:fed].tolist()
    assert places.column[first:].tolist() == table.column[:fed].tolist()


def lesson(order, batch=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 32, (batch, order.num_slots), generator=generator)
    return ids, order.lesson(ids, generator)


def test_a_raster_lesson_shifts_the_tokens_by_one():
    ids, given = lesson(bind("raster", ((2, 3),)))
    assert torch.equal(given.inputs, ids[:, :-1])
    assert torch.equal(given.targets, ids)
    assert given.counts.all()


def test_a_next_scale_lesson_shows_each_map_what_generation_would_show():
    order = bind("next_scale", square_grids((1, 2, 3)))
    ids, given = lesson(order)
    assert given.inputs.shape == (6, 4 + 9, 4)
    assert torch.equal(given.targets, ids)
    assert given.counts.all()
    state = order.start(PerImageNoise(range(6), "cpu"))
    seen = []
    for index in range(order.num_steps):
        step = order.step(index)
        seen.append(order.inputs(state, step))
        draw = Draw(ids[:, step.slots], torch.zeros(6, step.predicts))
        state = order.commit(state, step, draw, PerImageNoise(range(6), "cpu"))
    assert seen[0] is None
    assert torch.equal(torch.cat(seen[1:], dim=1), given.inputs)


def test_a_lesson_of_one_map_feeds_nothing():
    _, given = lesson(bind("next_scale", ((1, 1),)))
    assert given.inputs.shape == (6, 0, 4)


def test_a_next_scale_lesson_leaves_no_gradient_in_the_tokenizer():
    fuser = ToyFuser(square_grids((1, 2)), 32, 4)
    fuser.codebook.requires_grad_()
    order = NextScaleOrder(fuser, 1, "cpu")
    assert not lesson(order)[1].inputs.requires_grad


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_a_lesson_fits_the_model(name, order):
    model = make_model(name, order)
    bound = make_order(model)
    _, given = lesson(bound, batch=2)
    hidden = model(given.inputs, model.prepare(torch.tensor([0, 1])), given.step)
    assert model.head(hidden).shape == (*given.targets.shape, model.num_choices)
    assert given.counts.shape == given.targets.shape


def half_known(order, batch, share):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 32, (batch, order.num_slots), generator=generator)
    return Known(ids, torch.rand(ids.shape, generator=generator) < share)


@pytest.mark.parametrize("name", NAMES)
def test_known_tokens_survive_and_are_in_the_canvas(name):
    order = bind(name, GRIDS[name][0])
    known = half_known(order, 3, 0.5)
    noise = PerImageNoise(range(3), "cpu")
    state = order.start(noise, known)
    while (step := order.next_step(state)) is not None:
        shape = (3, step.predicts)
        state = order.commit(state, step, Draw(torch.full(shape, 31), torch.zeros(shape)), noise)
    expected = torch.where(known.mask, known.ids, 31)
    assert torch.equal(state.ids, expected)
    canvas = order.fuser.blank(3)
    for scale in range(order.fuser.slots.num_scales):
        slots = torch.arange(*order.fuser.slots.span(scale))
        canvas = order.fuser.fuse(canvas, scale, slots, order.fuser.lookup(expected[:, slots]))
    assert torch.allclose(state.canvas, canvas, atol=1e-6)


def test_known_tokens_of_another_shape_are_told():
    ids, mask = torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, 6, dtype=torch.bool)
    order = bind("raster", ((4, 4),))
    with pytest.raises(ValueError) as caught:
        order.start(PerImageNoise([0, 1], "cpu"), Known(ids, mask))
    assert "got known tokens of shape (2, 6); expected (2, 16)" in sentence(caught)
    for wrong in (mask[:1], mask.long()):
        with pytest.raises(ValueError) as caught:
            Known(ids, wrong)
        assert "expected one shape and a bool mask" in sentence(caught)


def test_the_registry_leads_to_these_orders():
    bound = {
        "raster": RasterOrder,
        "random": RandomOrder,
        "masked": MaskedOrder,
        "next_scale": NextScaleOrder,
        "regions": RegionOrder,
        "instructed": InstructedOrder,
        "random_groups": RandomGroupsOrder,
        "local_groups": LocalGroupsOrder,
        "within_scale": WithinScaleOrder,
        "halton": HaltonOrder,
        "bits": BitOrder,
        "flexible_scale": FlexibleScaleOrder,
        "refined_scale": RefinedScaleOrder,
    }
    assert {name: ORDERS[name] for name in NAMES} == bound


def test_a_lesson_in_regions_feeds_what_generation_feeds():
    order = bind("regions", ((4, 4),))
    ids, given = lesson(order)
    assert torch.equal(given.targets, ids[:, order.path])
    assert given.counts.all()
    state, seen = order.start(PerImageNoise(range(6), "cpu")), []
    for index in range(order.num_steps):
        step = order.step(index)
        seen.append(order.inputs(state, step))
        draw = Draw(ids[:, step.slots], torch.zeros(6, step.predicts))
        state = order.commit(state, step, draw, PerImageNoise(range(6), "cpu"))
    assert torch.equal(state.ids, ids)
    assert torch.equal(torch.cat(seen[1:], dim=1), given.inputs)
    assert given.inputs[0, 4:7].tolist() == [UNKNOWN, UNKNOWN - 1, UNKNOWN - 2]
