"""Recipes: every number of VAR's, who is decayed, and that the loop does what the recipe says."""

import dataclasses
import math
import re

import pytest
import torch
from tiny import TINY_MODELS, make_model, sentence
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from arimage.ar.var import VARModel
from arimage.training.common import Loss, Recipe, parameter_groups
from arimage.training.fit import fit
from arimage.training.recipes import RECIPES, describe, find_recipe
from arimage.training.schedules import Cosine, FlatThenLinear, half_cosine
from arimage.training.transformer_recipe import UNDECAYED, TransformerRecipe

# VAR's README: tblr, batch, wpe, twde, alng; the peak is tblr * batch / 256.
PUBLISHED = {
    "var": (1e-4, 768, 0.1, 0.05, 1e-3, 3e-4),
    "var-d24": (8e-5, 768, 0.01, 0.05, 1e-4, 2.4e-4),
    "var-d30": (8e-5, 1024, 0.01, 0.08, 1e-5, 3.2e-4),
    "var-d36": (8e-5, 768, 0.01, 0.08, 5e-6, 2.4e-4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_var_recipes_are_the_published_ones(name):
    rate, batch, final, decay, gates, peak = PUBLISHED[name]
    recipe = find_recipe(name, steps=205, batch_size=batch)
    assert recipe.learning_rate == rate
    assert recipe.rate_at(4) == pytest.approx(peak)
    assert recipe.rate_at(204) == pytest.approx(peak * final)
    assert (recipe.weight_decay_at(0), recipe.weight_decay_at(204)) == pytest.approx((0.05, decay))
    assert (recipe.gate_init, recipe.gradient_clip, recipe.label_dropout) == (gates, 2.0, 0.1)
    assert recipe.betas == (0.9, 0.95)
    assert recipe.ema_decay is None
    assert recipe.drop_path * 24 == pytest.approx(0.1)  # 0.1 * depth / 24, times the depth


def test_the_llamagen_recipe_is_the_published_one():
    """FoundationVision/LlamaGen@ce98ec4 autoregressive/train/train_c2i.py: defaults of main."""
    recipe = find_recipe("llamagen", steps=100)
    assert {recipe.rate_at(step) for step in range(100)} == {1e-4}
    assert {recipe.weight_decay_at(step) for step in range(100)} == {0.05}
    assert (recipe.betas, recipe.gradient_clip, recipe.label_dropout) == ((0.9, 0.95), 1.0, 0.1)
    assert (recipe.undecayed, recipe.ema_decay, recipe.drop_path) == ((), None, 0.0)
    assert recipe.random_share(0.0) == 0.0
    model = make_model("llama", "raster")
    embeddings = {"class_embedding.weight", "token_embedding.weight"}
    assert embeddings <= decayed_names(model, recipe.undecayed)


def test_the_rar_recipe_is_the_published_one():
    """bytedance/1d-tokenizer@942a96f configs/training/generator/rar.yaml, in 250 steps."""
    recipe = find_recipe("rar", steps=250)
    assert (recipe.betas, recipe.gradient_clip, recipe.label_dropout) == ((0.9, 0.96), 1.0, 0.1)
    assert (recipe.weight_decay_at(0), recipe.weight_decay_at(249)) == (0.03, 0.03)
    assert recipe.ema_decay is None
    rates = {0: 0.0, 31: 4e-4 * 31 / 62, 62: 4e-4, 156: 1e-5 + 3.9e-4 / 2}
    for step, rate in rates.items():
        assert recipe.rate_at(step) == pytest.approx(rate, rel=1e-9)
    assert 1e-5 < recipe.rate_at(249) < 1.01e-5
    shares = {0: 1.0, 124: 1.0, 125: 1.0, 150: 0.6, 187: 0.008, 188: 0.0, 249: 0.0}
    for step, share in shares.items():  # 1 - (step - 125) / 62.5
        assert recipe.random_share(step / 250) == pytest.approx(share, abs=1e-12)


def test_rar_decays_projections_and_the_start_alone():
    """Theirs: not what has "embed", "norm" or "ln" in its name, as adaln_before_head."""
    recipe = find_recipe("rar")
    kinds = r"(start|output\.weight|modulations\.\d+\.weight|blocks\.\d+\.\w+(\.\w+)?\.weight)"
    model = make_model("rar", "raster")
    names = {name for name, value in model.named_parameters() if re.fullmatch(kinds, name)}
    names = {name for name in names if "norm" not in name}
    assert len(names) == 2 + 5 * model.config.depth
    assert decayed_names(model, recipe.undecayed) == names


# 205 steps: 4 of warm-up (ep/50), 200 between the first step after it and the last.
LIN0 = {
    0: 0.005,
    1: 0.25375,  # 0.005 + 0.995 / 4
    2: 0.5025,
    3: 0.75125,
    4: 1.0,
    13: 1.0,  # 4.5 % of the rest has passed
    14: 1.0,  # 5 %: 0.1 + 0.9 * 0.95 / 0.95
    15: 0.1 + 0.9 * 0.945 / 0.95,
    104: 0.1 + 0.9 * 0.5 / 0.95,
    203: 0.1 + 0.9 * 0.005 / 0.95,
    204: 0.1,
}


@pytest.mark.parametrize("step", LIN0)
def test_flat_then_linear_is_lin0(step):
    assert FlatThenLinear(final=0.1).factor(step, 205) == pytest.approx(LIN0[step], abs=1e-12)
    if step == 104:
        twins = FlatThenLinear(final=0.01), FlatThenLinear(final=0.1, flat=0.15)
        for twin in twins:
            assert twin.factor(step, 205) != pytest.approx(LIN0[step], abs=1e-3)


def test_flat_then_linear_of_few_steps_stays_in_range():
    for steps in range(1, 12):
        for step in range(steps):
            assert 0 < FlatThenLinear(final=0.1).factor(step, steps) <= 1
            assert math.isfinite(half_cosine(0.05, 0.08, step, steps))


def test_weight_decay_follows_half_a_cosine():
    values = {0: 0.05, 51: 0.08 - 0.015 * (1 + math.sqrt(0.5)), 102: 0.065, 204: 0.08}
    for step, value in values.items():
        assert half_cosine(0.05, 0.08, step, 205) == pytest.approx(value, abs=1e-12)
        assert find_recipe("var-d30", steps=205).weight_decay_at(step) == pytest.approx(value)
        assert find_recipe("small", steps=205).weight_decay_at(step) == 0.05


@pytest.mark.parametrize("steps", [1, 7, 100, 450])
def test_cosine_to_zero_equals_transformers(steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2e-3)
    theirs = get_cosine_schedule_with_warmup(optimizer, round(0.1 * steps), steps)
    ours = Recipe(steps=steps, learning_rate=2e-3, schedule=Cosine())
    for step in range(steps):
        assert ours.rate_at(step) == theirs.get_last_lr()[0]
        optimizer.step()
        theirs.step()


DECAYED = re.compile(
    r"(class_embedding|code_embedding|blocks\.\d+\.(qkv|project|mlp\.up|mlp\.down)"
    r"|modulations\.\d+|shared_modulation|out_modulation|output)\.weight"
)


def decayed_names(model, undecayed):
    decayed, free = (group["params"] for group in parameter_groups(model, undecayed))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert len(decayed) + len(free) == len(names)
    return {names[id(parameter)] for parameter in decayed}


@pytest.mark.parametrize("size", range(len(TINY_MODELS["var"].sizes)))
def test_var_decays_projections_and_the_class_embedding_alone(size):
    model = make_model("var", "next_scale", size)
    names = {name for name, _ in model.named_parameters()}
    assert decayed_names(model, UNDECAYED) == {n for n in names if DECAYED.fullmatch(n)}
    plain = decayed_names(model, ())
    assert {"start", "position_embedding.weight", "scale_embedding.weight"} <= plain
    assert not any(name.endswith("bias") for name in plain)


def test_frozen_parameters_are_in_no_group():
    model = make_model("var", "next_scale")
    model.class_embedding.weight.requires_grad = False
    params = [id(p) for group in parameter_groups(model) for p in group["params"]]
    assert id(model.class_embedding.weight) not in params


def test_the_loop_is_adamw_at_the_rates_of_the_recipe():
    """Against AdamW written out in float64: a matrix (decayed) and a vector (not)."""
    schedule = FlatThenLinear(final=0.1, warmup=0.2)
    recipe = Recipe(
        steps=10,
        learning_rate=0.1,
        rate_batch=128,
        schedule=schedule,
        weight_decay=0.3,
        final_weight_decay=0.6,
        gradient_clip=1e9,
        progress=False,
    )
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, -1.0)

    def loss_of(model, batch):
        return Loss((model.weight - 5).square().sum() + (model.bias + 3).square().sum())

    fit("toy", model, loss_of, 4, recipe)
    weight, bias = 2.0, -1.0
    moments = {"weight": [0.0, 0.0], "bias": [0.0, 0.0]}

    def moved(name, value, gradient, step, decay):
        rate = 0.05 * schedule.factor(step, 10)  # half a batch, half the rate
        first, second = moments[name]
        moments[name] = [0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2]
        first, second = moments[name]
        root = math.sqrt(second / (1 - 0.95 ** (step + 1))) + 1e-8
        return value * (1 - rate * decay) - rate * first / (1 - 0.9 ** (step + 1)) / root

    for step in range(10):
        decay = 0.6 - 0.3 * 0.5 * (1 + math.cos(math.pi * step / 9))
        weight = moved("weight", weight, 2 * (weight - 5), step, decay)
        bias = moved("bias", bias, 2 * (bias + 3), step, 0.0)
    assert model.weight.item() == pytest.approx(weight, rel=1e-5)
    assert model.bias.item() == pytest.approx(bias, rel=1e-5)


def test_a_recipe_is_changed_by_words():
    recipe = find_recipe("var", ["learning_rate=3e-4", "batch_size=32", "ema_decay=0.9"], steps=7)
    assert (recipe.learning_rate, recipe.batch_size, recipe.ema_decay) == (3e-4, 32, 0.9)
    assert recipe.steps == 7
    assert find_recipe("small", ["ema_decay=none"]).ema_decay is None
    assert RECIPES["var"].learning_rate == 1e-4


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("vra", [], ["vra", "var"]),
        ("var", ["learning_rte=1"], ["learning_rte", "learning_rate"]),
        ("var", ["schedule=x"], ["schedule"]),
        ("var", ["learning_rate"], ["learning_rate=1e-4"]),
        ("var", ["learning_rate=fast"], ["fast", "a number"]),
        ("var", ["batch_size=1.5"], ["1.5", "a whole number"]),
        ("var", ["learning_rate=0"], ["learning_rate", "positive"]),
        ("var", ["learning_rate=nan"], ["learning_rate", "positive"]),
        ("var", ["weight_decay=-1"], ["weight_decay"]),
        ("var", ["ema_decay=1"], ["ema_decay", "below 1"]),
        ("var", ["label_dropout=1"], ["label_dropout", "below 1"]),
        ("var", ["batch_size=0"], ["batch_size", "at least 1"]),
        ("rar", ["anneal_start=0.8"], ["anneal_start 0.8 and anneal_end 0.75", "in this order"]),
        ("rar", ["anneal_end=1.2"], ["anneal_end 1.2"]),
    ],
)
def test_a_bad_recipe_is_told(name, changes, words):
    with pytest.raises((KeyError, ValueError)) as caught:
        find_recipe(name, changes)
    assert all(word in sentence(caught) for word in words)


def test_a_description_has_every_field():
    record = describe(find_recipe("var", steps=9))
    for field in dataclasses.fields(TransformerRecipe):
        assert (field.name in record) == (field.name != "progress")
    assert record["schedule"] == {
        "name": "FlatThenLinear",
        "final": 0.1,
        "warmup": 0.02,
        "start": 0.005,
        "flat": 0.05,
    }
    assert {"arimage", "torch"} <= set(record["versions"])


def test_gates_start_as_the_recipe_says():
    from arimage.training.generator_trainer import initialize_as

    model = make_model("var", "next_scale")
    assert isinstance(model, VARModel)
    width = model.config.width
    for name, gate in (("var", 1e-3), ("var-d36", 5e-6)):
        initialize_as(model, RECIPES[name])
        std = model.modulations[0].weight[: 2 * width].std().item()
        assert std == pytest.approx(gate * math.sqrt(1 / width / 3), rel=0.1)
