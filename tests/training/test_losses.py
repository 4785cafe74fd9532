"""Per-map losses, validation losses and stochastic depth."""

import numpy as np
import pytest
import torch
from tiny import make_generator, sentence, stripes

from arimage.ar.layers import ResidualDropout
from arimage.ar.var import VARConfig
from arimage.generator import make_order
from arimage.training.ar_trainer import (
    drop_paths,
    score_tokens,
    set_drop_paths,
    train_transformer,
)
from arimage.training.common import History, Loss
from arimage.training.tokens import make_tokens
from arimage.training.transformer_recipe import TransformerRecipe


def setting(name, order):
    torch.manual_seed(0)  # codebooks start from drawn images
    generator = make_generator(name, order)
    pixels, labels = stripes(12)
    tokens = make_tokens(generator.tokenizer, pixels, labels)
    bound = make_order(generator.tokenizer, generator.transformer)
    return generator.transformer, bound, tokens


def train(name, order, **fields):
    model, bound, tokens = setting(name, order)
    recipe = TransformerRecipe(steps=4, batch_size=6, progress=False, **fields)
    return train_transformer(model, bound, tokens.ids, tokens.class_labels, recipe)


def test_maps_weighted_by_their_tokens_add_up_to_the_loss():
    _, history = train("var", "next_scale")
    assert list(history.parts) == ["scale 0", "scale 1", "scale 2"]
    sizes = np.array([1, 4, 16])
    parts = np.array(list(history.parts.values()))
    assert parts.shape == (3, 4)
    assert history.losses == pytest.approx((sizes @ parts / 21).tolist(), rel=1e-5)
    assert history.losses != pytest.approx(parts.mean(0).tolist(), rel=1e-3)


def test_one_map_has_no_parts():
    assert train("llama", "raster")[1].parts == {}


def test_recent_is_the_mean_of_the_last_steps():
    history = History("toy")
    for i in range(5):
        history.add(Loss(torch.tensor(float(i)), {"half": torch.tensor(i / 2)}))
    assert history.recent(2) == {"loss": 3.5, "half": 1.75}
    assert history.recent(50)["loss"] == 2


def test_scores_do_not_depend_on_batches_and_know_their_class():
    model, order, tokens = setting("var", "next_scale")
    whole = score_tokens(model, order, tokens.ids, tokens.class_labels)
    parts = score_tokens(model, order, tokens.ids, tokens.class_labels, batch_size=5)
    assert whole == pytest.approx(parts, rel=1e-5)
    assert list(whole) == ["loss", "scale 0", "scale 1", "scale 2"]
    other = score_tokens(model, order, tokens.ids, 1 - tokens.class_labels)
    assert other["loss"] != pytest.approx(whole["loss"], rel=1e-4)


def test_a_dropped_branch_is_dropped_whole_and_the_rest_scaled_up():
    layer, x = ResidualDropout(0.0).train(), torch.rand(4000, 3, 2) + 0.1
    assert torch.equal(layer(x), x)
    layer.path = 0.25
    out = layer(x)
    kept = out.flatten(1).any(1)
    assert torch.allclose(out[kept], x[kept] / 0.75)
    assert not out[~kept].any()
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize(("name", "order"), [("var", "next_scale"), ("llama", "raster")])
def test_drop_path_grows_over_blocks_and_ends_with_the_training(name, order):
    model, bound, tokens = setting(name, order)
    set_drop_paths(model, 0.3)
    branches = [m for m in model.modules() if isinstance(m, ResidualDropout)]
    assert len(branches) == model.config.depth
    assert [b.path for b in branches] == pytest.approx([0.0, 0.3])
    recipe = TransformerRecipe(steps=2, batch_size=4, drop_path=0.2, ema_decay=0.5, progress=False)
    trained, _ = train_transformer(model, bound, tokens.ids, tokens.class_labels, recipe)
    assert trained is not model
    for one in (model, trained):
        assert not any(m.path for m in one.modules() if isinstance(m, ResidualDropout))
    assert "drop_path" not in VARConfig.own_fields()


def test_drop_path_changes_training_and_repeats():
    plain, some = train("var", "next_scale"), train("var", "next_scale", drop_path=0.2)
    assert plain[1].losses != some[1].losses
    again = train("var", "next_scale", drop_path=0.2)
    assert again[1].losses == some[1].losses
    for a, b in zip(some[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_drop_path_of_everything_is_told():
    model, _, _ = setting("var", "next_scale")
    with pytest.raises(ValueError) as caught, drop_paths(model, 1.2):
        pass
    assert "1.2" in sentence(caught)
    assert "drop_path" in sentence(caught)
