"""Keys and values in 8 bits, opt-in by name: what a step sees, what is counted, what is refused."""

import pytest
import torch
from tiny import MODEL_CASES, make_generator, make_model, make_order, sentence

from arimage.ar.base import CacheShape
from arimage.ar.registry import ORDERS
from arimage.generator import ImageGenerator
from arimage.sampling import loop as loop_module
from arimage.sampling.cache import Float8Cache, StaticCache
from arimage.sampling.guidance import Guidance, Interval
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.planner import image_bytes
from arimage.sampling.samplers.categorical import Categorical
from arimage.sampling.settings import Settings

pytestmark = pytest.mark.untyped

CACHED = [case for case in MODEL_CASES if ORDERS[case[1]].cached]


def small_cache():
    return Float8Cache.allocate(CacheShape(1, 1, 4), 1, 3, torch.float8_e4m3fn, "cpu")


def test_what_is_read_is_rounded_to_a_sixteenth_and_cut_at_the_largest_number():
    order = make_order(make_model("llama", "raster"))
    values = torch.tensor([0.3, -1.7, 440.0, 0.021]).reshape(1, 1, 1, 4)
    large = torch.tensor([1e3, -1e9, 448.0, -449.0]).reshape(1, 1, 1, 4)
    cache = small_cache()
    read, cut = cache.update(0, order.step(0), values, large)
    assert read.dtype == torch.float32
    assert (read - values).abs().le(values.abs() / 16).all()
    assert not torch.equal(read, values)
    assert cut.flatten().tolist() == [448.0, -448.0, 448.0, -448.0]
    assert cache.keys[0].element_size() == 1


class Rounding(StaticCache):
    """The slow twin: float32 that was rounded on its way in."""

    def update(self, layer, step, keys, values):
        keys, values = (t.to(torch.float8_e4m3fn).to(t.dtype) for t in (keys, values))
        return super().update(layer, step, keys, values)


def last_logits(model, order, kept_as):
    found = []
    head = model.heads[0] if isinstance(model.heads[0], torch.nn.Module) else model.output
    hook = head.register_forward_hook(lambda module, inputs, out: found.append(out))
    branch = Branch.of(model, order, torch.tensor([0, 1]), Guidance(2.0), kept_as)
    list(generate([branch], order, Categorical(temperature=0.0), PerImageNoise([0, 1], "cpu")))
    hook.remove()
    return branch, torch.cat(found, 1)


@pytest.mark.parametrize(("name", "order"), CACHED)
def test_a_model_sees_exactly_the_rounded_keys_and_values(name, order, monkeypatch):
    model = make_model(name, order)
    bound = make_order(model)
    plain, exact = last_logits(model, bound, None)
    branch, found = last_logits(model, bound, "fp8")
    assert type(plain.cache) is StaticCache
    assert isinstance(branch.cache, Float8Cache)
    monkeypatch.setattr(loop_module, "make_cache", lambda kept_as, *rest: Rounding.allocate(*rest))
    _, twin = last_logits(model, bound, None)
    assert torch.equal(found, twin)
    assert not torch.equal(found, exact)


@pytest.mark.parametrize(("name", "order"), CACHED)
def test_off_is_what_it_was_and_on_is_reproducible(name, order):
    generator = make_generator(name, order, guidance_scale=2.0)
    call = {"seeds": 3, "output_type": "pixels"}
    exact = generator([0, 1, 2], **call).ids
    assert torch.equal(generator([0, 1, 2], cache_dtype=None, **call).ids, exact)
    small = generator([0, 1, 2], cache_dtype="fp8", **call).ids
    assert torch.equal(generator([0, 1, 2], cache_dtype="fp8", **call).ids, small)
    settings = Settings(guidance_scale=2.0, cache_dtype="fp8")
    kept = ImageGenerator(generator.tokenizer, generator.transformer, settings)
    assert torch.equal(kept([0, 1, 2], **call).ids, small)


def test_what_was_in_the_memory_is_never_read(monkeypatch):
    generator = make_generator("var", "next_scale", guidance_scale=2.0, cache_dtype="fp8")
    clean = generator([0, 1], seeds=3, output_type="pixels").ids
    allocate = StaticCache.allocate.__func__

    def poisoned(cls, *arguments):
        cache = allocate(cls, *arguments)
        for tensor in (*cache.keys, *cache.values):
            tensor.view(torch.uint8).fill_(0x7F)  # NaN
            assert tensor.float().isnan().all()
        return cache

    monkeypatch.setattr(StaticCache, "allocate", classmethod(poisoned))
    assert torch.equal(generator([0, 1], seeds=3, output_type="pixels").ids, clean)


@pytest.mark.parametrize(("name", "order"), CACHED[:2])
def test_captured_steps_round_it_alike(name, order):
    generator = make_generator(name, order, guidance_scale=2.0, cache_dtype="fp8")
    plain = generator([0, 1], seeds=3, output_type="pixels").ids
    assert torch.equal(generator.compile("trace")([0, 1], seeds=3, output_type="pixels").ids, plain)
    exact = generator([0, 1], seeds=3, output_type="pixels", cache_dtype=None).ids
    generator.compile("off")
    again = generator([0, 1], seeds=3, output_type="pixels", cache_dtype=None).ids
    assert torch.equal(exact, again)  # a cache of its own


def test_null_rows_are_dropped_from_it_too():
    model = make_model("var", "next_scale")
    bound, rows = make_order(model), []

    def spy(module, arguments):
        rows.append(len(arguments[3].keys[0]))

    handle = model.register_forward_pre_hook(spy)
    guidance = Guidance(2.0, Interval(0, 1))
    branch = Branch.of(model, bound, torch.arange(2), guidance, "fp8")
    list(generate([branch], bound, Categorical(), PerImageNoise([0, 1], "cpu")))
    handle.remove()
    assert rows == [4, 4, 2]


@pytest.mark.parametrize(("name", "order"), CACHED)
def test_the_planner_counts_it_and_one_layer_that_is_read(name, order):
    model = make_model(name, order)
    bound, guidance = make_order(model), Guidance(2.0)
    cache = Branch.of(model, bound, torch.tensor([0]), guidance, "fp8").cache
    allocated = sum(memory.nbytes for memory in (*cache.keys, *cache.values))
    read = 4 * allocated // model.cache_shape.layers
    plain, counted = (image_bytes(model, bound, guidance, 0, kept) for kept in (None, "fp8"))
    assert plain - counted == 4 * allocated - (allocated + read)


def test_wrong_names_and_models_without_a_cache_are_told():
    with pytest.raises(KeyError) as caught:
        Settings(cache_dtype="fp9")
    assert "unknown cache_dtype 'fp9'. Did you mean 'fp8'" in sentence(caught)
    generator = make_generator("llama", "masked")
    with pytest.raises(ValueError) as caught:
        generator([0], seeds=0, cache_dtype="fp8")
    assert "keeps no keys and values between steps; leave it out" in sentence(caught)
