"""VAR's initialisation, kind by kind: facts of FoundationVision/VAR@78b9539 models/var.py."""

import math

import pytest
import torch

from arimage.ar.var import VARConfig, VARModel

WIDTH, DEPTH = 192, 3


def fresh(shared):
    torch.manual_seed(0)
    config = VARConfig(
        width=WIDTH, depth=DEPTH, num_heads=3, num_classes=30, vocab_size=64, shared_adaln=shared
    )
    return VARModel(config)


def expected_stds(model):
    """(name, values, std) of every parameter, split where its rows differ."""
    base, deep = math.sqrt(1 / (3 * WIDTH)), math.sqrt(2 * DEPTH)
    for name, parameter in model.named_parameters():
        values, kind = parameter.detach(), name.rpartition(".")[0].rpartition(".")[2] or name
        if name.endswith("bias"):
            yield name, values, 0.0
        elif name.endswith("log_scale"):
            yield name, values - math.log(4), 0.0
        elif name == "modulation":  # an offset per block beside the shared projection
            yield f"{name} gates", values[:, :2], 1e-3 / math.sqrt(WIDTH)
            yield f"{name} rest", values[:, 2:], 0.5 / math.sqrt(WIDTH)
        elif name.startswith("modulations."):
            yield f"{name} gates", values[: 2 * WIDTH], 1e-3 * base
            yield f"{name} rest", values[2 * WIDTH :], 0.5 * base
        else:
            factor = {"output": 0.02, "out_modulation": 0.5, "project": 1 / deep, "down": 1 / deep}
            yield name, values, base * factor.get(kind, 1.0)


def wrong(model):
    """Names of what has another mean or std than expected, at five standard errors."""
    found = []
    for name, values, std in expected_stds(model):
        error = 5 / math.sqrt(values.numel())
        if abs(values.mean().item()) > std * error:
            found.append(name)
        elif std and abs(values.std().item() / std - 1) > error / math.sqrt(2):
            found.append(name)
        elif not std and values.any():
            found.append(name)
    return found


@pytest.mark.parametrize("shared", [False, True])
def test_a_fresh_model_has_the_published_stds(shared):
    assert wrong(fresh(shared)) == []


TWINS = {
    False: ("output.weight", "blocks.1.project.weight", "blocks.2.mlp.down.weight", "start"),
    True: ("shared_modulation.weight", "position_embedding.weight", "class_embedding.weight"),
}


@pytest.mark.parametrize(("shared", "name"), [(s, n) for s, names in TWINS.items() for n in names])
def test_another_std_would_be_seen(shared, name):
    model = fresh(shared)
    with torch.no_grad():
        model.get_parameter(name).mul_(1.5)
    assert wrong(model) == [name]


@pytest.mark.parametrize("shared", [False, True])
def test_gates_that_are_not_small_would_be_seen(shared):
    model = fresh(shared)
    with torch.no_grad():
        if shared:
            model.modulation[:, :2].mul_(2)
        else:
            model.modulations[1].weight[: 2 * WIDTH].mul_(2)
    (name,) = wrong(model)
    assert name.endswith("gates")
