"""Autoguidance: the formula, what it comes to at its ends, captured steps, records, mistakes."""

import pytest
import torch
from branches import guided_logits
from tiny import (
    MODEL_CASES,
    TINY_MODELS,
    fill,
    make_generator,
    make_images,
    make_model,
    make_order,
    sentence,
)
from torch import nn

from arimage.ar.registry import MODELS
from arimage.eval.protocols import EvaluationProtocol
from arimage.generator import ImageGenerator
from arimage.sampling import compiled
from arimage.sampling.autoguidance import autoguided
from arimage.sampling.capture import Trace
from arimage.sampling.compiled import Captures
from arimage.sampling.groups import groups_of
from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.categorical import Categorical

LABELS, SEEDS = [0, 1, 2], [5, 6, 7]


def pair(name="var", order="next_scale", seed=1, **settings):
    """A generator, and another one over its tokenizer with other weights."""
    main = make_generator(name, order, **settings)
    other = make_model(name, order)
    fill(other, seed)
    return main, ImageGenerator(main.tokenizer, other)


def ids(generator, **settings):
    return generator(LABELS, seeds=SEEDS, output_type="pixels", **settings).ids


@torch.no_grad()
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_logits_are_pushed_away_from_those_of_the_weaker_model(name, order):
    main, weaker = pair(name, order)
    bound, labels = main.order(), torch.arange(2)
    step = bound.step(0)
    state = bound.start(PerImageNoise([0, 1], "cpu"))
    step, inputs = bound.placed(step, state), bound.inputs(state, step)
    models = (main.transformer, weaker.transformer)
    hidden = [model.within(model(inputs, model.prepare(labels), step), []) for model in models]
    m, w = (model.heads[0](h) for model, h in zip(models, hidden, strict=True))
    for s in (0.0, 0.5, 3.0):
        first, second = (Branch.of(model, bound, labels, Guidance()) for model in models)
        mixed = sum(guided_logits(b, inputs, step, 2) for b in autoguided([first], second, s))
        assert (mixed - (w + s * (m - w))).abs().max() < 1e-4
        assert (mixed - (m + s * (m - w))).abs().max() > 1e-3  # another convention


def test_what_it_comes_to_at_its_ends():
    main, weaker = pair("llama", "raster", temperature=0.0)
    assert torch.equal(ids(main, guide=weaker), ids(main))  # 1 is off
    assert torch.equal(ids(main, guide=weaker, guide_scale=0), ids(weaker, temperature=0.0))
    twin = ImageGenerator(main.tokenizer, make_model("llama", "raster"))  # nothing to push from
    assert torch.equal(ids(main, guide=twin, guide_scale=4.0), ids(main))
    assert not torch.equal(ids(main, guide=weaker, guide_scale=4.0), ids(main))


def test_an_image_follows_from_its_seed_and_goes_with_guidance_and_editing(monkeypatch):
    main, weaker = pair("llama", "raster", guidance_scale=2.0)
    call = {"guide": weaker, "guide_scale": 2.0}
    whole = ids(main, **call)
    assert torch.equal(ids(main, batch_size=1, **call), whole)
    assert not torch.equal(whole, ids(main, guidance_scale=1.0, **call))
    images = (make_images(main.tokenizer, 3) * 127.5 + 127.5).byte().permute(0, 2, 3, 1).numpy()
    everything = images[0, ..., 0] >= 0
    kept = main.edit(images, everything, LABELS, seeds=SEEDS, output_type="pixels", **call)
    assert torch.equal(kept.ids, whole)
    monkeypatch.setattr(type(main.tokenizer), "bytes_per_image", 0)
    assert main.plan(0.002, **call) < main.plan(0.002)


def chosen(models, order, scale, run=None):
    """Ids of the loop: a model and its guide, captured or not."""
    with torch.no_grad():
        guidances = (Guidance(2.0), Guidance())
        parts = [
            Branch.of(model, order, torch.arange(2), guidance, allocate=run is None)
            for model, guidance in zip(models, guidances, strict=True)
        ]
    noise = PerImageNoise([3, 4], "cpu")
    *_, state = generate(
        autoguided(parts[:1], parts[1], scale), order, Categorical(), noise, None, run
    )
    return state.ids


def test_captured_steps_choose_the_ids_of_plain_ones_for_each_guide(monkeypatch):
    monkeypatch.setattr(compiled, "groups_of", lambda order, **more: groups_of(order, 8, **more))
    main, weaker, other = (make_model("llama", "raster") for _ in range(3))
    fill(weaker, 1)
    fill(other, 2)
    order, kept = make_order(main), Captures(Trace(torch.device("cpu")))
    calls = (((main, weaker), 2.0), ((main, other), 2.0), ((main, weaker), 3.3))
    plain = [chosen(models, order, scale) for models, scale in calls]
    assert all(not torch.equal(a, b) for a in plain for b in plain if a is not b)
    for (models, scale), expected in zip(calls, plain, strict=True):
        assert torch.equal(chosen(models, order, scale, kept.run()), expected)
    assert len(kept.sessions) == 2  # one for each guide; a scale is a number in a buffer


PROTOCOL = EvaluationProtocol(
    name="tiny-v1", count=4, num_classes=3, image_size=16, features="pixels", metrics=("fid",)
)


def test_a_guide_by_name_and_what_a_record_says(tmp_path):
    main, weaker = pair()
    weaker.save_pretrained(tmp_path / "weaker")
    call = {"guide": str(tmp_path / "weaker"), "guide_scale": 2.0}
    assert torch.equal(ids(main, **call), ids(main, guide=weaker, guide_scale=2.0))
    source = main.stream_dataset(PROTOCOL, **call)
    assert source.record["sampling"]["guide"] == str(tmp_path / "weaker")
    plain = main.stream_dataset(PROTOCOL)
    assert set(source.record["weights"]) - set(plain.record["weights"]) == {"guide"}
    fill(weaker.transformer, 3)
    weaker.save_pretrained(tmp_path / "weaker")
    fresh = ImageGenerator(main.tokenizer, main.transformer)
    assert fresh.stream_dataset(PROTOCOL, **call).identity != source.identity


def other_vocabulary():
    fields = TINY_MODELS["var"].sizes[0] | {"vocab_size": 31, "num_classes": 3}
    return MODELS["var"](MODELS["var"].config_class(**fields))


class Twin:
    """A generator as a guide sees it."""

    def __init__(self, tokenizer, transformer):
        self.tokenizer, self.transformer = tokenizer, transformer


def test_a_guide_that_does_not_fit_is_told():
    main, weaker = pair()
    call = {"guide_scale": 2.0}
    with pytest.raises(ValueError) as caught:
        ids(main, guide=Twin(main.tokenizer, other_vocabulary()), **call)
    assert "the guide's vocabulary is 31 and this model's 32; give a weaker" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        ids(main, guide=make_generator("llama", "raster"), **call)
    assert "the guide's " in sentence(caught)
    foreign = make_generator("var", "next_scale").tokenizer
    fill(foreign, 9)
    foreign.quantizer.load_codebook(torch.randn(32, 6))
    with pytest.raises(ValueError) as caught:
        ids(main, guide=Twin(foreign, weaker.transformer), **call)
    assert "the guide's tokenizer has other codes: its ids mean something else" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        ids(main, guide=nn.Linear(1, 1), **call)
    assert "got a guide of type Linear; expected an ImageGenerator" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        ids(main, **call)
    assert "got guide_scale 2.0 and no guide" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        ids(main, guide=weaker, guide_scale=-1.0)
    assert "got guide_scale -1.0; expected a number >= 0, where 1 is off" in sentence(caught)
