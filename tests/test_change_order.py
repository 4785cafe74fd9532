"""An order that the model was not trained for: said, and refused unless forced."""

import pytest
from tiny import make_generator, sentence

from arimage.ar.orders.random import RandomOrder
from arimage.parts import change_order


def test_another_order_is_refused_unless_forced():
    generator = make_generator("rar", "raster")
    with pytest.raises(ValueError) as caught:
        change_order(generator.transformer, "random")
    assert "got order 'random' for RARModel, which was trained for 'raster'" in sentence(caught)
    assert "give force=True" in sentence(caught)
    assert not isinstance(generator.order(), RandomOrder)
    change_order(generator.transformer, "random", force=True)
    assert isinstance(generator.order(), RandomOrder)
    *_, state = generator.sample([0, 1], [3, 4])
    assert state.path is not None
    assert (state.ids >= 0).all()


def test_its_own_order_needs_no_force():
    generator = make_generator("arpg", "random_groups")
    change_order(generator.transformer, "random_groups")
    assert generator.transformer.config.order == "random_groups"


@pytest.mark.parametrize(
    ("model", "trained", "asked"),
    [("llama", "raster", "random"), ("llama", "raster", "masked"), ("llama", "masked", "raster")],
)
def test_an_order_that_the_model_cannot_be_run_in_is_refused_even_so(model, trained, asked):
    transformer = make_generator(model, trained).transformer
    with pytest.raises(ValueError) as caught:
        change_order(transformer, asked, force=True)
    assert "cannot be run in it" in sentence(caught)
    assert transformer.config.order == trained


def test_an_unknown_order_is_told():
    with pytest.raises(KeyError) as caught:
        change_order(make_generator("rar", "raster").transformer, "rastre", force=True)
    assert "unknown order 'rastre'. Did you mean 'raster'" in sentence(caught)
