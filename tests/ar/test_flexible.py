"""FlexVAR's order and model: any token maps, each from the one before."""

import pytest
import torch
from test_cached_decode import gap
from tiny import ToyFuser, make_generator, make_model, make_order, make_tokenizer, sentence

from arimage.ar.flexvar import FlexVARConfig
from arimage.ar.orders.flexible import FlexibleScaleOrder
from arimage.generator import ImageGenerator
from arimage.sampling.guidance import Guidance
from arimage.sampling.samplers.familiar import Familiar
from arimage.slots import square_grids

TALL = [1, 2, (4, 2), (6, 3), (8, 4)]


@pytest.fixture(scope="module")
def generator():
    return make_generator("flexvar", "flexible_scale", temperature=0.8)


def test_other_token_maps_give_other_images_by_the_same_weights(generator):
    tall = generator.at(TALL)
    output = tall([0, 1], seeds=[3, 4], output_type="pixels")
    assert output.images.shape == (2, 32, 16, 3)
    assert output.ids.shape == (2, 1 + 4 + 8 + 18 + 32)
    alone = tall([1], seeds=[4], output_type="pixels")
    assert torch.equal(alone.ids, output.ids[1:])
    assert tall.transformer.output.weight is generator.transformer.output.weight
    again = generator([0], seeds=[3]).ids
    assert torch.equal(again, generator.at([1, 2, 4])([0], seeds=[3]).ids)
    assert again.shape == (1, 21)
    assert len(list(tall.stream([0], seeds=0))) == 5


def test_steps_captured_over_other_token_maps_draw_the_same(generator):
    tall = generator.at(TALL)
    plain = tall([0, 1], seeds=0).ids
    assert torch.equal(tall.compile("trace")([0, 1], seeds=0).ids, plain)
    assert generator.captures is None


def test_cached_decode_over_other_token_maps_equals_the_full_forward():
    model = make_model("flexvar", "flexible_scale").double().at([(1, 1), (2, 2), (3, 5)])
    assert gap(model, make_order(model), 2, Guidance(2.0)) <= 2e-6
    assert gap(model, make_order(model), 2, Guidance(2.0), blind=True) > 1e-3


def test_editing_over_other_squares(generator):
    square = generator.at([1, 3, 6])
    picture, mask = torch.zeros(24, 24, 3, dtype=torch.uint8).numpy(), torch.ones(24, 24) > 0
    mask[:12] = False
    known = square.known(picture[None], mask.numpy())
    edited = square.edit(picture[None], mask.numpy(), [0], seeds=0, output_type="pixels")
    assert edited.images.shape == (1, 24, 24, 3)
    assert torch.equal(edited.ids[known.mask], known.ids[known.mask])
    with pytest.raises(ValueError) as caught:
        generator.at(TALL).edit(picture[None], mask.numpy(), [0])
    assert "end with 8 x 4; images are cut to squares" in sentence(caught)


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ([2, 4], "got token maps 2 x 2, 4 x 4; expected growing ones from 1 x 1"),
        ([1, 4, 2], "expected growing ones from 1 x 1"),
        ([1, 2, 33], "the learned positions reach 32 x 32"),
        ([], "got scales []; expected sides of token maps"),
        ([1, (2, 3, 4)], "expected sides of token maps, or (height, width)"),
        ([1, (0, 2)], "expected sides of token maps"),
    ],
)
def test_token_maps_that_cannot_be_had_are_told(generator, scales, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        generator.at(scales)
    assert words in sentence(caught)


@pytest.mark.parametrize(("name", "order"), [("var", "next_scale"), ("rar", "raster")])
def test_models_of_fixed_token_maps_say_so(name, order):
    made = make_generator(name, order)
    assert made.at(made.tokenizer.slots.grids).transformer is made.transformer
    with pytest.raises(ValueError) as caught:
        made.at([1, 2, 3, 5])
    assert "has learned the places of" in sentence(caught)
    assert "take a model for any scales" in sentence(caught)


def test_a_tokenizer_whose_maps_add_up_is_refused():
    with pytest.raises(ValueError) as caught:
        ImageGenerator(make_tokenizer("multiscale_vq"), make_model("flexvar", "flexible_scale"))
    assert "maps that add up; it reads maps that replace each other" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        ImageGenerator(make_tokenizer("flexible_vq"), make_model("var", "next_scale"))
    assert "maps that replace each other; it reads maps that add up" in sentence(caught)


def test_positions_are_the_area_means_of_the_learned_map():
    model = make_model("flexvar", "flexible_scale").at([(1, 1), (4, 2)])
    table = model.places()
    learned = model.position_embedding.unflatten(0, (32, 32))
    assert torch.allclose(table[0], learned.mean((0, 1)), atol=1e-6)
    assert torch.allclose(table[1 + 3], learned[8:16, 16:].mean((0, 1)), atol=1e-6)
    assert FlexVARConfig().table == 32


def test_a_lesson_leaves_maps_out_and_nothing_sees_them():
    order = FlexibleScaleOrder(ToyFuser(square_grids((1, 2, 3, 4, 5)), 32, 4), 1, "cpu")
    ids = torch.randint(0, 32, (400, 55), generator=torch.Generator().manual_seed(0))
    lesson = order.lesson(ids, torch.Generator().manual_seed(1))
    kept = lesson.counts[:, [0, 1, 5, 14, 30]]
    assert kept[:, [0, 1, 4]].all()
    assert torch.equal(lesson.counts, kept[:, order.fuser.slots.scale])
    assert 0.85 < kept.all(1).float().mean() < 0.95  # 9 in 10 are taught all, as published
    row = int((~kept[:, 3] & kept[:, 2]).nonzero()[0])
    mask = lesson.step.mask[row, 0]
    assert not mask[30:, 14:30].any()
    assert mask[30:, :14].all()
    assert mask[14:30, 14:30].all()
    for source, image in ((2, row), (3, int(kept.all(1).nonzero()[0]))):
        span = slice(*order.fuser.slots.span(source))
        codes = order.fuser.lookup(ids[image : image + 1, span])
        assert torch.equal(lesson.inputs[image, 29:], order._resized(codes, source, 4)[0])
    assert order.replay(ids, torch.Generator()).counts.all()


def test_lessons_do_not_depend_on_the_batch():
    order = FlexibleScaleOrder(ToyFuser(square_grids((1, 2, 3, 4, 5)), 32, 4), 3, "cpu")
    ids = torch.randint(0, 32, (6, 55), generator=torch.Generator().manual_seed(0))
    whole, part = (
        order.lesson(ids[rows], [torch.Generator().manual_seed(i) for i in range(6)][rows])
        for rows in (slice(0, 6), slice(2, 5))
    )
    assert torch.equal(whole.inputs[2:5], part.inputs)
    assert torch.equal(whole.counts[2:5], part.counts)


def test_unfamiliar_sizes_are_not_drawn():
    sampler = Familiar()
    assert [n for n in range(1, 20) if sampler.knows(n * n)] == [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
    assert sampler.knows(8 * 16)
    assert not sampler.knows(16 * 17)
    assert Familiar(largest=32).knows(32 * 32)
