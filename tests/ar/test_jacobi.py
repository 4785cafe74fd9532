"""Guessing ahead: raster's tokens in fewer passes, whatever is guessed."""

import pytest
import torch
from tiny import make_condition, make_generator, make_images, make_model, make_order, sentence

from arimage.ar.base import UNKNOWN, Known
from arimage.ar.orders.jacobi import JacobiOrder
from arimage.ar.orders.raster import RasterOrder
from arimage.parts import change_order
from arimage.parts import make_order as order_for
from arimage.sampling.guidance import Guidance, Linear, LinearAfter
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.argmax import Argmax
from arimage.sampling.samplers.categorical import Categorical

SETTINGS = [
    (Categorical(), Guidance()),
    (Categorical(0.3, top_k=5), Guidance(2.0)),
    (Categorical(0.5), Guidance(3.0, Linear())),
    (Categorical(0.5), Guidance(3.0, LinearAfter())),
    (Argmax(), Guidance(1.5)),
]


def run(name, order, sampler, guidance, seeds=(3, 4), known=None, size=0, **options):
    """Ids and the number of passes."""
    model = make_model(name, order, size)
    bound, rows = make_order(model, **options), torch.arange(len(seeds)) % 3
    branch = Branch.of(model, bound, make_condition(model, rows), guidance)
    *_, state = generate([branch], bound, sampler, PerImageNoise(seeds, "cpu"), known)
    assert (state.ids != UNKNOWN).all()
    return state.ids, state.step


@pytest.mark.parametrize("window", [2, 5, 16])
@pytest.mark.parametrize(("sampler", "guidance"), SETTINGS)
def test_the_tokens_are_those_of_raster_order(sampler, guidance, window):
    plain, steps = run("llama", "raster", sampler, guidance)
    ids, passes = run("llama", "jacobi", sampler, guidance, window=window)
    assert torch.equal(ids, plain)
    assert passes <= steps
    other, _ = run("llama", "jacobi", sampler, guidance, seeds=(8, 9), window=window)
    assert isinstance(sampler, Argmax) or not torch.equal(other, plain)


def test_easy_tokens_take_fewer_passes():
    """Near-greedy draws of one image repeat, and so are guessed right."""
    sampler = Categorical(0.05)
    plain, steps = run("llama", "raster", sampler, Guidance(), seeds=(3,))
    ids, passes = run("llama", "jacobi", sampler, Guidance(), seeds=(3,))
    assert torch.equal(ids, plain)
    assert passes < steps


@pytest.mark.parametrize("size", [1, 2])
def test_given_tokens_are_guessed_right(size):
    plain, _ = run("llama", "raster", Categorical(), Guidance(2.0), size=size)
    mask = torch.ones_like(plain, dtype=torch.bool)
    mask[:, -1] = False
    known = Known(plain, mask)
    ids, passes = run("llama", "jacobi", Categorical(), Guidance(2.0), known=known, size=size)
    assert torch.equal(ids, plain)
    assert passes <= 2  # the first token, then all others at once


def test_a_generator_edits_and_streams():
    generator = make_generator("llama", "raster", temperature=0.5)
    images = make_images(generator.tokenizer, 2)
    ids = generator.tokenizer.encode(images)
    known = Known(ids, torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.5)
    made = []
    for order in ("raster", "jacobi"):
        change_order(generator.transformer, order)
        expected = {"raster": RasterOrder, "jacobi": JacobiOrder}[order]
        assert type(generator.order()) is expected
        *_, state = generator.sample([0, 1], seeds=[5, 6], known=known)
        made.append(state)
    assert torch.equal(made[0].ids, made[1].ids)
    assert torch.equal(made[0].canvas, made[1].canvas)
    assert made[1].step < made[0].step


def test_lessons_are_those_of_raster_order():
    model = make_model("llama", "jacobi")
    ids = torch.randint(0, 32, (2, 16))
    ours = make_order(model).lesson(ids, torch.Generator())
    theirs = make_order(make_model("llama", "raster")).lesson(ids, torch.Generator())
    assert torch.equal(ours.inputs, theirs.inputs)
    assert torch.equal(ours.targets, theirs.targets)
    assert torch.equal(ours.step.mask, theirs.step.mask)


def test_what_cannot_be_is_told():
    generator = make_generator("llama", "jacobi")
    with pytest.raises(ValueError) as caught:
        generator(0, seeds=0, rng="reference")
    assert "rng='reference' draws from a stream that only goes forward" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        order_for(generator.tokenizer, generator.transformer, 5)
    assert "the order 'jacobi' has a fixed number of steps" in sentence(caught)
