"""The registry, and that every registered name has a tiny entry in the tests."""

import pytest
from tiny import (
    TINY_MODELS,
    TINY_QUANTIZERS,
    TINY_SAMPLERS,
    TINY_SCHEDULES,
    TINY_TOKENIZERS,
    entry,
    sentence,
)

from arimage.ar.registry import MODELS, ORDERS
from arimage.registry import Registry, unknown_name
from arimage.sampling.registry import SAMPLERS, SCHEDULES
from arimage.tokenizers.registry import QUANTIZERS, TOKENIZERS

TABLES = [
    (TOKENIZERS, TINY_TOKENIZERS),
    (QUANTIZERS, TINY_QUANTIZERS),
    (MODELS, TINY_MODELS),
    (SAMPLERS, TINY_SAMPLERS),
    (SCHEDULES, TINY_SCHEDULES),
]
NAMES = [(registry.kind, name, table) for registry, table in TABLES for name in registry]


@pytest.mark.parametrize(("kind", "name", "table"), NAMES, ids=[f"{k} {n}" for k, n, _ in NAMES])
def test_every_registered_name_has_a_tiny_entry(kind, name, table):
    assert entry(kind, table, name)


def test_a_name_without_an_entry_is_told():
    with pytest.raises(pytest.fail.Exception, match=r"'later' has no tiny entry; add one to tests"):
        entry("model", TINY_MODELS, "later")


@pytest.mark.parametrize("registry", [*(r for r, _ in TABLES), ORDERS], ids=lambda r: r.kind)
def test_every_name_leads_to_a_class(registry):
    assert len(registry) > 0
    for name in registry:
        assert name in registry
        assert isinstance(registry[name], type)


def test_every_order_belongs_to_a_model():
    used = {order for name in MODELS for order in MODELS[name].config_class.orders}
    assert used == set(ORDERS)


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(KeyError) as caught:
        QUANTIZERS["vq_emma"]
    text = sentence(caught)
    assert "unknown quantizer 'vq_emma'. Did you mean 'vq_ema'" in text
    assert all(name in text for name in QUANTIZERS)


def test_a_name_far_from_all_gets_the_list_alone():
    text = unknown_name("tokenizer", "zzzz", TOKENIZERS)
    assert "Did you mean" not in text
    assert "Known: flexible_vq, multiscale_vq, titok, vq" in text


def test_a_taken_name_is_an_error():
    registry = Registry("tokenizer", {"vq": "a.b:C"})
    with pytest.raises(ValueError) as caught:
        registry.add("vq", "d.e:F")
    assert "'vq' is already registered as a.b:C" in sentence(caught)


def test_a_target_without_an_attribute_is_an_error():
    with pytest.raises(ValueError) as caught:
        Registry("tokenizer", {"vq": "a.b.C"})
    assert "give 'module:Class'" in sentence(caught)


def test_nothing_is_imported_before_it_is_asked_for():
    registry = Registry("tokenizer", {"lazy": "no.such.module:Class"})
    assert list(registry) == ["lazy"]
    with pytest.raises(ModuleNotFoundError):
        registry["lazy"]


def test_a_long_list_of_names_is_counted_instead():
    text = unknown_name("class", "tenhc", [f"name {i}" for i in range(500)] + ["tench"])
    assert "Did you mean 'tench'" in text
    assert text.endswith("Known: 501 names")


def test_a_tokenizer_and_a_transformer_never_share_a_name():
    """Both become ``arimage_<name>``, by which AutoModel tells them apart."""
    assert not set(TOKENIZERS) & set(MODELS)
    for registry in (TOKENIZERS, MODELS):
        for name in registry:
            assert registry[name].config_class.model_type == f"arimage_{name}"
