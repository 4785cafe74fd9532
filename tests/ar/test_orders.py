"""Orders: context rules, steps, lessons, and the schedule of the masked one."""

import math

import pytest
import torch
from tiny import MODEL_CASES, ToyFuser, make_model, make_order, sentence

from arimage.ar.base import CONTENT, PREFIX, QUERY, UNKNOWN, Draw, Known
from arimage.ar.orders.grouped import GroupedOrder
from arimage.ar.orders.instructed import InstructedOrder
from arimage.ar.orders.local_groups import LocalGroupsOrder
from arimage.ar.orders.masked import MaskedOrder
from arimage.ar.orders.next_scale import NextScaleOrder
from arimage.ar.orders.random import RandomOrder
from arimage.ar.orders.random_groups import RandomGroupsOrder
from arimage.ar.orders.raster import RasterOrder
from arimage.ar.orders.regions import RegionOrder
from arimage.ar.orders.within_scale import WithinScaleOrder
from arimage.ar.registry import ORDERS
from arimage.sampling.noise import PerImageNoise
from arimage.slots import square_grids

GRIDS = {
    "raster": [((2, 3),), ((4, 4),), ((1, 1),)],
    "random": [((2, 3),), ((4, 4),), ((1, 1),)],
    "masked": [((2, 3),), ((4, 4),)],
    "instructed": [((2, 3),), ((4, 4),), ((1, 1),)],
    "regions": [((2, 6),), ((4, 4),), ((2, 2),)],  # 4 of them
    "next_scale": [square_grids((1, 2, 3)), square_grids((1, 3, 4, 5)), ((1, 1),)],
    "random_groups": [((2, 3),), ((4, 4),), ((1, 1),)],
    "local_groups": [((2, 3),), ((4, 4),), ((1, 1),)],
    "within_scale": [square_grids((1, 2, 3)), square_grids((1, 3, 4, 5)), ((1, 1),)],
}
RULED = [n for n in ORDERS if not issubclass(ORDERS[n], GroupedOrder)]  # test_grouped_orders.py
CASES = [(name, grids, prefix) for name in RULED for grids in GRIDS[name] for prefix in (1, 3)]


def bind(name, grids, prefix=1, **options):
    return ORDERS[name](ToyFuser(grids, 32, 4), prefix, "cpu", **options)


def groups_of(name, grids):
    """Slots predicted together, from the definition of each order."""
    sizes = [h * w for h, w in grids]
    if name in ("next_scale", "within_scale"):
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
    length = prefix + sum(h * w for h, w in grids) - (name != "masked")
    if name == "instructed":  # a query beside each token
        length = prefix + 2 * sum(h * w for h, w in grids) - 1
    if name == "masked":
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
    if name == "within_scale":
        return place[None] == place[:, None]
    return place[None] <= place[:, None]


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
    if name == "masked":
        assert all(s.slots.tolist() == list(range(order.num_slots)) for s in steps)
        assert all((s.start, s.stop) == (0, order.length) for s in steps)
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
    table = order.fuser.slots
    first = prefix - 1 if name in ("next_scale", "within_scale") else prefix
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


def test_a_masked_lesson_hides_a_cosine_share_and_only_that_counts():
    order = bind("masked", ((8, 8),))
    ids, given = lesson(order, batch=4000)
    hidden = given.inputs == UNKNOWN
    assert torch.equal(hidden, given.counts)
    assert torch.equal(given.inputs[~hidden], ids[~hidden])
    assert torch.equal(given.targets, ids)
    counts = hidden.sum(1)
    assert counts.min() >= 1
    assert counts.max() <= 64
    shares = counts / 64
    assert shares.mean().item() == pytest.approx(2 / math.pi, abs=0.02)  # of cos(pi/2 u)
    assert hidden.float().mean(0).std() < 0.02  # every slot alike


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_a_lesson_fits_the_model(name, order):
    model = make_model(name, order)
    bound = make_order(model)
    _, given = lesson(bound, batch=2)
    hidden = model(given.inputs, model.prepare(torch.tensor([0, 1])), given.step)
    assert model.head(hidden).shape == (*given.targets.shape, model.config.vocab_size)
    assert given.counts.shape == given.targets.shape


def commit_sizes(order, known=None, batch=3, vocab=32):
    """How many slots of each image are chosen after each step; ids of the last state."""
    noise = PerImageNoise(range(batch), "cpu")
    state = order.start(noise, known)
    generator = torch.Generator().manual_seed(2)
    left, sizes = (order.inputs(state, order.step(0)) == UNKNOWN).sum(1), []
    while (step := order.next_step(state)) is not None:
        ids = torch.randint(0, vocab, (batch, order.num_slots), generator=generator)
        log_probs = torch.rand(ids.shape, generator=generator).log()
        before = state.ids
        state = order.commit(state, step, Draw(ids, log_probs), noise)
        kept = before != UNKNOWN
        assert torch.equal(state.ids[kept], before[kept]), "a chosen token was changed"
        now = (state.ids == UNKNOWN).sum(1)
        sizes.append((left - now).tolist())
        left = now
    return torch.tensor(sizes), state


def follows_the_cosine(sizes, totals, num_steps):
    """Whether floor(total cos(pi/2 t/T)) slots stay open after step t, but one is chosen each."""
    left = totals.clone()
    for t, chosen in enumerate(sizes, 1):
        stay = (totals.double() * math.cos(math.pi / 2 * t / num_steps)).floor().long()
        stay = torch.minimum(stay, left - 1).clamp_min(0)
        left = left - chosen
        if not torch.equal(left, stay):
            return False
    return bool((left == 0).all())


GOLDEN_8_OF_256 = [5, 15, 24, 31, 39, 45, 48, 49]
GOLDEN_12_OF_1024 = [9, 26, 43, 60, 74, 88, 101, 111, 121, 126, 132, 133]


@pytest.mark.parametrize(
    ("side", "steps", "golden"), [(16, 8, GOLDEN_8_OF_256), (32, 12, GOLDEN_12_OF_1024)]
)
def test_the_masked_order_commits_as_maskgit_does(side, steps, golden):
    sizes, state = commit_sizes(bind("masked", ((side, side),), num_steps=steps))
    assert sizes.tolist() == [[n] * 3 for n in golden]
    assert (state.ids != UNKNOWN).all()


def test_another_number_of_steps_commits_otherwise():
    sizes, _ = commit_sizes(bind("masked", ((16, 16),), num_steps=9))
    assert sizes[:, 0].tolist()[:8] != GOLDEN_8_OF_256
    assert not follows_the_cosine(sizes[:8], torch.full((3,), 256), 8)


def half_known(order, batch, share):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 32, (batch, order.num_slots), generator=generator)
    return Known(ids, torch.rand(ids.shape, generator=generator) < share)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize(("side", "steps"), [(4, 8), (8, 5), (8, 1), (3, 9)])
def test_editing_keeps_the_schedule_over_the_open_slots(side, steps, share):
    order = bind("masked", ((side, side),), num_steps=steps)
    known = half_known(order, 3, share)
    sizes, state = commit_sizes(order, known)
    assert follows_the_cosine(sizes, (~known.mask).sum(1), steps)
    assert torch.equal(state.ids[known.mask], known.ids[known.mask])


@pytest.mark.parametrize("name", ORDERS)
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


def test_the_most_confident_are_kept_where_there_is_no_gumbel_noise():
    order = bind("masked", ((4, 4),), num_steps=4, choice_temperature=0.0)
    noise = PerImageNoise([0], "cpu")
    log_probs = torch.linspace(-5, -1, 16)[None]
    draw = Draw(torch.zeros(1, 16, dtype=torch.long), log_probs)
    state = order.commit(order.start(noise), order.step(0), draw, noise)
    kept = (state.ids[0] != UNKNOWN).nonzero().flatten()
    assert kept.tolist() == [14, 15]  # 16 - floor(16 cos(pi/8))


def test_gumbel_noise_lets_others_win():
    order = bind("masked", ((4, 4),), num_steps=4)
    noise = PerImageNoise(range(50), "cpu")
    log_probs = torch.linspace(-5, -1, 16).expand(50, -1)
    draw = Draw(torch.zeros(50, 16, dtype=torch.long), log_probs)
    state = order.commit(order.start(noise), order.step(0), draw, noise)
    assert ((state.ids != UNKNOWN).sum(1) == 2).all()
    assert (state.ids[:, :14] != UNKNOWN).any()


def test_an_unfinished_canvas_holds_the_chosen_codes_alone():
    order = bind("masked", ((4, 4),), num_steps=4)
    noise = PerImageNoise([0], "cpu")
    draw = Draw(torch.full((1, 16), 3), torch.rand(1, 16).log())
    state = order.commit(order.start(noise), order.step(0), draw, noise)
    chosen = (state.ids[0] != UNKNOWN).reshape(4, 4)
    assert (state.canvas[0, :, ~chosen] == 0).all()
    assert torch.equal(state.canvas[0, :, chosen].T, order.fuser.lookup(torch.tensor([3, 3])))


@pytest.mark.parametrize("steps", [0, -1, 17])
def test_a_number_of_steps_out_of_range_is_told(steps):
    with pytest.raises(ValueError) as caught:
        bind("masked", ((4, 4),), num_steps=steps)
    assert f"got num_steps {steps}; the masked order takes 1 to 16 steps" in sentence(caught)


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
    }
    assert {name: ORDERS[name] for name in ORDERS} == bound


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
