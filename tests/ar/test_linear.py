"""The linear layer: two backends, and weights that are packed for sampling."""

import copy
import itertools

import pytest
import torch
from safetensors.torch import load_file
from tiny import EVERY_MODEL, make_condition, make_model, make_order
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from arimage.ar import linear as linear_module
from arimage.ar.linear import (
    Linear,
    are_few,
    as_packed_linear,
    linear,
    pack,
    suits_onednn,
    unpack,
)
from arimage.ar.registry import MODELS
from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.categorical import Categorical


@pytest.mark.parametrize("shape", [(5,), (2, 1), (3, 7), (2, 3, 130)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", ["tanh", "none", None])
def test_both_backends_of_linear_agree(shape, bias, gelu):
    layer = Linear(24, 40, bias=bias)
    x = torch.randn(*shape, 24)
    with torch.no_grad():
        plain = linear(x, layer.weight, layer.bias, backend="torch", gelu=gelu)
        fast = linear(x, layer.weight, layer.bias, backend="onednn", gelu=gelu)
        chosen = plain if are_few(x.shape[:-1].numel(), x.dtype) else fast
        assert torch.equal(linear(x, layer.weight, layer.bias, gelu=gelu), chosen)
        strided = x.transpose(0, -1).contiguous().transpose(0, -1)
        assert torch.allclose(
            linear(strided, layer.weight, layer.bias, gelu=gelu), plain, atol=1e-5
        )
    assert fast.shape == plain.shape == (*shape, 40)
    assert torch.allclose(fast, plain, atol=1e-5)
    other = linear(x + 0.1, layer.weight, layer.bias, "onednn", gelu=gelu)
    assert not torch.allclose(other, plain, atol=1e-3)


def test_gradients_go_through_the_plain_product():
    layer = Linear(6, 4)
    x = torch.randn(3, 6)
    layer(x).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    half = Linear(6, 4).to(torch.bfloat16)
    with torch.no_grad():
        assert half(x.to(torch.bfloat16)).dtype == torch.bfloat16


def packed_layer(dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    layer = Linear(48, 80, bias=bias).to(dtype)
    kept = layer.weight.detach().clone()
    layer.pack()
    assert (layer.packed is not None) == suits_onednn(kept)
    return layer, kept


@pytest.mark.parametrize("gelu", ["tanh", None])
def test_recorded_products_by_packed_weights_get_a_name_that_inductor_leaves_alone(gelu):
    layer, _ = packed_layer()
    x = torch.randn(5, 2, 48)
    with torch.no_grad():
        plain = layer(x, gelu=gelu)
        recorded = make_fx(lambda x: layer(x, gelu=gelu))(x)
        as_packed_linear(recorded)
        assert [n.target for n in recorded.graph.nodes if n.op == "call_function"] == [
            torch.ops.arimage.packed_linear.default
        ]
        assert torch.equal(recorded(x), plain)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert recorded(mode.from_tensor(x)).shape == plain.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [(0,), (1,), (2,), (1, 2), (2, 1), (3,), (4,), (7,), (33,), (130,)], ids=str
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", ["tanh", "none", None])
def test_packing_changes_nothing_beyond_rounding(dtype, shape, bias, gelu):
    layer, kept = packed_layer(dtype, bias)
    x = torch.randn(*shape, 48).to(dtype)
    with torch.no_grad():
        fast = layer(x, gelu=gelu)
        plain = linear(x, kept, layer.bias, backend="torch", gelu=gelu)
    assert (layer.packed is not None) == suits_onednn(kept)  # not every CPU packs bfloat16
    assert fast.shape == (*shape, 80)
    assert torch.allclose(fast.float(), plain.float(), atol=2e-2 if dtype.itemsize == 2 else 1e-5)
    if not x.numel():
        return
    with torch.no_grad():
        assert not torch.allclose(layer(x + 0.5, gelu=gelu).float(), plain.float(), atol=5e-2)


def test_a_cpu_without_bfloat16_packs_float32_alone(monkeypatch):
    monkeypatch.setattr(linear_module, "bfloat16_by_onednn", lambda: False)
    assert suits_onednn(torch.zeros(1))
    assert not suits_onednn(torch.zeros(1).bfloat16())
    layer, _ = packed_layer(torch.bfloat16)
    assert layer.packed is None
    with torch.no_grad():
        assert layer(torch.ones(1, 48).bfloat16()).isfinite().all()


DOORS = {
    "weight": lambda layer, model: layer.weight,
    "train": lambda layer, model: model.train(),
    "to": lambda layer, model: model.to(torch.float64),
    "half": lambda layer, model: model.half(),
    "state_dict": lambda layer, model: model.state_dict(),
    "load_state_dict": lambda layer, model: model.load_state_dict(model.state_dict()),
    "deepcopy": lambda layer, model: copy.deepcopy(model),
    "parameters": lambda layer, model: list(model.parameters()),
    "named_parameters": lambda layer, model: dict(model.named_parameters()),
    "gradients": lambda layer, model: layer(torch.zeros(1, layer.in_features)),
    "num_parameters": lambda layer, model: model.num_parameters(),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", MODELS)
def test_whoever_asks_for_the_weights_gets_them(name, door):
    model = make_model(name, MODELS[name].config_class.orders[0]).eval()
    layers = [m for m in model.modules() if isinstance(m, Linear)]
    kept = [layer.weight.detach().clone() for layer in layers]
    parameters = [layer.weight for layer in layers]
    pack(model)
    assert all(layer.packed is not None for layer in layers)
    hidden = [layer._parameters["weight"] for layer in layers]
    assert all(weight.isnan().all() for weight in hidden)  # no second copy
    assert all(weight.untyped_storage().nbytes() == 4 for weight in hidden)
    assert model.dtype == torch.float32
    assert model.device.type == "cpu"
    assert all(layer.packed is not None for layer in layers)  # those two do not need the values
    with torch.enable_grad():
        DOORS[door](layers[0], model)
    after = [layer._parameters["weight"].detach().float() for layer in layers]
    if door in ("weight", "gradients"):
        after, kept = after[:1], kept[:1]
    if door == "half":
        kept = [weight.half().float() for weight in kept]
    assert all(map(torch.equal, after, kept))
    assert all(map(lambda a, b: a is b, parameters, (m._parameters["weight"] for m in layers)))


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_model_is_saved_and_copied_whole(name, tmp_path):
    model = make_model(name, MODELS[name].config_class.orders[0]).eval()
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    pack(model)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    pack(model)
    for found in (saved, copy.deepcopy(model).state_dict()):
        assert found.keys() == kept.keys()
        assert all(torch.equal(found[key], kept[key]) for key in kept)
    pack(model)
    pack(model)  # twice is once
    unpack(model)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())


def test_a_trained_layer_is_packed_anew():
    layer, kept = packed_layer()
    x = torch.randn(3, 48)
    layer.train()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(x).square().sum().backward()
    optimizer.step()
    layer.eval()
    with torch.no_grad():
        plain = layer(x)
        layer.pack()
        assert torch.allclose(layer(x), plain, atol=1e-5)
    assert not torch.equal(layer.weight, kept)


def test_layers_that_onednn_does_not_take_stay_as_they_are():
    for dtype, device in itertools.product([torch.float16, torch.float64], ["cpu", "meta"]):
        layer = Linear(8, 8, device=device, dtype=dtype)
        layer.pack()
        assert layer.packed is None


@pytest.mark.parametrize(("name", "order"), EVERY_MODEL)
def test_sampling_leaves_all_weights_packed(name, order):
    model = make_model(name, order)
    bound = make_order(model)
    with torch.no_grad():
        branch = Branch.of(model, bound, make_condition(model, [0, 1]), Guidance(2.0))
    layers = [layer for layer in model.modules() if isinstance(layer, Linear)]
    once = [layer.packing for layer in layers]
    *_, _ = generate([branch], bound, Categorical(), PerImageNoise([0, 1], "cpu"))
    assert [layer.packing for layer in layers if layer.packed is not None] == once


def layers_of(name, order, rows):
    """The layers of a model that has drawn images of ``rows`` with guidance, and the ids."""
    model = make_model(name, order)
    bound = make_order(model)
    with torch.no_grad():
        branch = Branch.of(model, bound, make_condition(model, rows), Guidance(2.0))
    *_, state = generate([branch], bound, Categorical(), PerImageNoise(rows, "cpu"))
    return [layer for layer in model.modules() if isinstance(layer, Linear)], state.ids


@pytest.mark.parametrize(
    ("few", "rows", "packs"), [(3, [0], False), (3, [0, 1], True), (0, [0], True)]
)
def test_few_rows_go_by_plain_weights_where_that_is_faster(monkeypatch, few, rows, packs):
    monkeypatch.setattr(linear_module, "FEW", few)
    layers, ids = layers_of("llama", "raster", rows)
    assert [layer.packed is not None for layer in layers] == [packs] * len(layers)
    monkeypatch.setattr(linear_module, "FEW", 3 - few)
    assert torch.equal(layers_of("llama", "raster", rows)[1], ids)
    assert layers_of("var", "next_scale", [0])[0][0].packed is not None  # maps have many rows


def test_a_model_goes_from_few_rows_to_many_and_back(monkeypatch):
    monkeypatch.setattr(linear_module, "FEW", 3)
    model = make_model("llama", "raster")
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    layer = next(m for m in model.modules() if isinstance(m, Linear))
    for rows, packs in ((2, False), (4, True), (3, False), (8, True)):
        model.pack(rows)
        assert (layer.packed is not None) == packs
    model.to(torch.bfloat16).pack(2)  # in bfloat16 plain weights are no faster
    assert (layer.packed is not None) == suits_onednn(torch.zeros(1, dtype=torch.bfloat16))
    model.to(torch.float32)
    assert all(torch.equal(v, kept[k].bfloat16().float()) for k, v in model.state_dict().items())
