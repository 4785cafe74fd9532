"""In-painting, out-painting and other sizes: every model in every order does it or says why not."""

import numpy as np
import pytest
import torch
from tiny import MODEL_CASES, make_images, sentence

from arimage.ar.base import Known
from arimage.images import from_pixels, to_pixels
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.windows import steers

pytestmark = pytest.mark.untyped

PAIRS = pytest.mark.parametrize(("name", "order"), MODEL_CASES)
LEFT = np.arange(16)[None].repeat(16, axis=0) >= 8  # the right half is drawn anew
SIDES = ("left", "top")
OUTPAINTS = {  # direction by direction; whatever else is registered does it or refuses
    ("llama", "raster"): {"left"},
    ("llama", "masked"): set(SIDES),
    ("rar", "raster"): {"left"},
    ("rar", "random"): set(SIDES),
    ("par", "regions"): set(SIDES),
    ("randar", "instructed"): set(SIDES),
    ("arpg", "random_groups"): set(SIDES),
    ("lpd", "local_groups"): set(SIDES),
    ("halton", "halton"): set(SIDES),
    ("var", "next_scale"): set(),
}
RESIZES = {("llama", "raster"), ("llama", "masked"), ("par", "regions"), ("randar", "instructed")}
RESIZES |= {("arpg", "random_groups")}
LEARNED = {("var", "next_scale"), ("rar", "raster"), ("rar", "random")}


def pictures(generator, count=2):
    return to_pixels(make_images(generator.tokenizer, count, seed=4))


def attempt(call):
    """What a call makes, or None where it is refused by a sentence."""
    try:
        return call()
    except ValueError as error:
        text = str(error)
        assert "\n" not in text
        assert 20 < len(text) < 500
        return None


@PAIRS
def test_in_painting_keeps_what_is_given_or_is_refused(generators, name, order):
    generator = generators(name, order)
    output = attempt(lambda: generator.edit(pictures(generator), LEFT, [0, 1], seeds=3))
    if output is None:
        return
    known = generator.known(pictures(generator), LEFT)
    assert torch.equal(output.ids[known.mask], known.ids[known.mask])
    assert known.mask.any()


@PAIRS
def test_orders_that_choose_their_paths_take_given_tokens_first(generators, name, order):
    generator = generators(name, order)
    bound, known = generator.order(), attempt(lambda: generator.known(pictures(generator), LEFT))
    if known is None:
        return
    state = bound.start(PerImageNoise([5, 6], "cpu"), known)
    if state.path is None or not bound.cached:  # masked orders read all at every step
        return
    assert bound.given_first
    given = known.mask.gather(1, state.path)
    assert torch.equal(given, given.sort(dim=1, descending=True).values)
    free = bound.start(PerImageNoise([5, 6], "cpu")).path
    for i in range(2):  # otherwise as drawn
        for wanted in (True, False):
            kept = [s for s in free[i].tolist() if bool(known.mask[i, s]) == wanted]
            assert [s for s in state.path[i].tolist() if bool(known.mask[i, s]) == wanted] == kept


@PAIRS
@pytest.mark.parametrize("side", SIDES)
def test_out_painting_keeps_the_image_or_is_refused(generators, name, order, side):
    generator = generators(name, order)
    before = pictures(generator)
    output = attempt(
        lambda: generator.outpaint(before, [0, 1], seeds=3, output_type="pixels", **{side: 4})
    )
    if (name, order) in OUTPAINTS:
        assert (output is not None) == (side in OUTPAINTS[name, order])
    if output is None:
        return
    tall = side == "top"
    assert output.images.shape == ((2, 20, 16, 3) if tall else (2, 16, 20, 3))
    cells = output.ids.reshape(2, 5, 4) if tall else output.ids.reshape(2, 4, 5)
    inside = cells[:, 1:] if tall else cells[:, :, 1:]
    ids = generator.tokenizer.encode(from_pixels(before))
    assert torch.equal(inside.flatten(1), ids)
    assert (output.ids >= 0).all()


@PAIRS
def test_another_size_is_drawn_or_refused(generators, name, order):
    generator = generators(name, order)
    ratio = (3, 2)  # 24 x 16 pixels, 3:2 in every map
    scales = [(-(-h * ratio[0] // ratio[1]), w) for h, w in generator.tokenizer.slots.grids]
    other = attempt(lambda: generator.at(scales))
    if (name, order) in RESIZES | LEARNED:
        assert (other is not None) == ((name, order) in RESIZES)
    if other is None:
        return
    output = other([0, 1], seeds=3, output_type="pixels")
    assert output.images.shape == (2, 24, 16, 3)
    assert output.ids.shape[1] > generator.tokenizer.slots.num_slots
    before = generator([0, 1], seeds=3)  # the original is as it was
    same = generator.at(generator.tokenizer.slots.grids)([0, 1], seeds=3)
    assert torch.equal(same.ids, before.ids)


def test_an_out_painting_does_not_depend_on_its_batch_and_follows_seed_and_label(generators):
    generator = generators("llama", "masked")
    before, margins = pictures(generator, 3), {"left": 4, "top": 4}
    options = {**margins, "output_type": "pixels"}
    whole = generator.outpaint(before, [0, 1, 2], seeds=[7, 8, 9], **options)
    parts = generator.outpaint(before, [0, 1, 2], seeds=[7, 8, 9], batch_size=1, **options)
    assert torch.equal(whole.ids, parts.ids)
    alone = generator.outpaint(before[1], 1, seeds=[8], **options)
    assert torch.equal(alone.ids[0], whole.ids[1])
    assert not torch.equal(
        generator.outpaint(before[1], 1, seeds=[9], **options).ids[0], whole.ids[1]
    )
    assert not torch.equal(
        generator.outpaint(before[1], 2, seeds=[8], **options).ids[0], whole.ids[1]
    )
    assert whole.images.shape == (3, 20, 20, 3)
    pasted = generator.outpaint(before, [0, 1, 2], seeds=[7, 8, 9], paste=True, **options)
    assert np.array_equal(pasted.images[:, 4:, 4:], before)
    assert not np.array_equal(whole.images[:, 4:, 4:], before)


def test_what_a_window_finds_steers_it(generators):
    """Another image, other tokens around it; with given tokens last, none could differ."""
    generator = generators("rar", "random")
    first, second = pictures(generator, 2)
    made = [generator.outpaint(p, 0, right=8, top=8, seeds=[3]).ids for p in (first, second)]
    around = torch.ones(6, 6, dtype=torch.bool)
    around[2:, :4] = False
    assert not torch.equal(made[0][:, around.flatten()], made[1][:, around.flatten()])


def test_raster_order_does_not_see_what_lies_below(generators):
    order = generators("llama", "raster").order()
    rows = torch.arange(16) // 4
    assert not steers(order, rows >= 2)
    assert steers(order, rows < 2)
    assert steers(generators("llama", "masked").order(), rows >= 2)


WRONG = [
    ({}, "got no margin; give left, right, top or bottom"),
    ({"left": 3}, "got left 3; expected a multiple of 4 pixels"),
    ({"top": -4}, "got top -4; expected a multiple"),
    ({"top": 4}, "draws the tokens of that margin before it sees any of the image"),
    ({"right": 4, "output_type": "np"}, "got output_type 'np'"),
    ({"right": 4, "seeds": [1, 2]}, "2 seeds"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_margin_is_told(generators, options, message):
    generator = generators("llama", "raster")
    with pytest.raises(ValueError, match=r"got |order") as caught:
        generator.outpaint(pictures(generator)[0], 0, **options)
    assert message in sentence(caught)


def test_a_wrong_size_is_told(generators):
    with pytest.raises(ValueError, match="this model has one token map: give one"):
        generators("llama", "raster").at([4, 6])
    with pytest.raises(ValueError, match=r"got scales \[0\]; expected sides"):
        generators("llama", "raster").at([0])
    with pytest.raises(ValueError, match="has learned the places of"):
        generators("rar", "raster").at([6])
    scales = generators("var", "next_scale")
    with pytest.raises(ValueError, match="3 token maps; the coarse ones cover the whole"):
        scales.outpaint(pictures(scales)[0], 0, right=8)
    with pytest.raises(ValueError, match="regions for a grid of 5 x 4"):
        generators("par", "regions").at([(5, 4)])


def test_given_paths_stay_as_they_are(generators):
    from arimage.ar.orders.random import RandomOrder

    generator = generators("rar", "random")
    path = torch.arange(16).flip(0)
    order = RandomOrder(generator.tokenizer, 2, "cpu", path)
    known = Known(torch.zeros(1, 16, dtype=torch.long), torch.arange(16)[None] < 4)
    assert torch.equal(order.start(PerImageNoise([1], "cpu"), known).path[0], path)
