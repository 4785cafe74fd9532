"""Two models in turn (CoDe): exactly the one, the other, or the one's tokens continued."""

import dataclasses

import pytest
import torch
from published import full_size
from tiny import NUM_CLASSES, fill, make_generator, make_model, make_order, sentence

from arimage.ar.base import Known
from arimage.ar.convert.var import VARLayout
from arimage.ar.registry import MODELS
from arimage.generated import weights_of
from arimage.generator import ImageGenerator
from arimage.sampling.guidance import Guidance
from arimage.sampling.handover import HandsOver
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.categorical import Categorical
from arimage.sampling.settings import Settings
from arimage.zoo import PRESETS

CASES = [("var", "next_scale"), ("m_var", "within_scale"), ("llama", "raster")]
CALL = {"class_labels": [0, 2], "seeds": [3, 4], "guidance_scale": 2.5}
CALL |= {"guidance_schedule": "linear", "output_type": "pixels"}


def pair(name, order):
    """A generator, and one of another depth over its tokenizer."""
    generator = make_generator(name, order)
    fields = {
        f: getattr(generator.transformer.config, f)
        for f in generator.transformer.config_class.own_fields()
    }
    model = MODELS[name](MODELS[name].config_class(**fields | {"depth": 1})).eval()
    fill(model, seed=9)
    return generator, ImageGenerator(generator.tokenizer, model, Settings())


@pytest.mark.parametrize(("name", "order"), [*CASES, ("llama", "masked"), ("mvar", "within_scale")])
def test_at_the_ends_one_model_makes_everything(name, order):
    drafter, refiner = pair(name, order)
    alone = drafter(**CALL).ids, refiner(**CALL).ids
    assert not torch.equal(*alone)
    steps = drafter.order().num_steps
    assert torch.equal(drafter.hand_over(refiner, steps)(**CALL).ids, alone[0])
    assert torch.equal(drafter.hand_over(refiner, 0)(**CALL).ids, alone[1])
    between = drafter.hand_over(refiner, steps // 2)(**CALL).ids
    assert not torch.equal(between, alone[0])
    assert not torch.equal(between, alone[1])
    assert torch.equal(drafter.hand_over(None)(**CALL).ids, alone[0])


def states(generator, known=None):
    call = {k: v for k, v in CALL.items() if k != "output_type"}
    return list(generator.sample(**call, known=known))


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(("name", "order"), CASES)
def test_between_the_refiner_continues_the_drafters_tokens(name, order, step):
    drafter, refiner = pair(name, order)
    drafted = states(drafter)[step - 1]
    continued = states(refiner, Known(drafted.ids.clamp_min(0), drafted.ids >= 0))[-1]
    together = states(drafter.hand_over(refiner, step))
    assert torch.equal(together[step - 1].ids, drafted.ids)
    assert torch.equal(together[-1].ids, continued.ids)
    assert torch.equal(together[-1].canvas, continued.canvas)


def test_the_refiner_comes_in_as_by_one_pass_over_all_earlier_maps():
    """The published way: one uncached pass over the maps so far, under the rule."""
    drafter, refiner = pair("var", "next_scale")
    seen = []
    head = refiner.transformer.output
    head.register_forward_hook(lambda module, inputs, out: seen.append(out))
    *_, last = drafter.hand_over(refiner, 2).sample([0, 2], [3, 4])
    (ours,) = seen
    order = refiner.order()
    lesson = order.lesson(last.ids, torch.Generator())
    with torch.no_grad():
        context = refiner.transformer.prepare(torch.tensor([0, 2]))
        hidden = refiner.transformer(lesson.inputs, context, lesson.step)
        theirs = refiner.transformer.head(hidden[:, order.step(2).slots])
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - theirs.roll(1, 1)).abs().max() > 1e-2


@pytest.mark.parametrize(("name", "order"), CASES)
def test_captured_steps_hand_over_alike(name, order):
    drafter, refiner = pair(name, order)
    plain = states(drafter.hand_over(refiner, 1))[-1].ids
    assert torch.equal(states(drafter.compile("trace"))[-1].ids, plain)


def test_captures_of_another_step_are_not_used():
    drafter, refiner = pair("mvar", "within_scale")
    ids = [states(drafter.hand_over(refiner, step))[-1].ids for step in (1, 2)]
    drafter.compile("trace")
    for step in (1, 2):
        assert torch.equal(states(drafter.hand_over(refiner, step))[-1].ids, ids[step - 1])
    assert not torch.equal(*ids)


def test_given_tokens_are_kept_and_steps_are_streamed():
    drafter, refiner = pair("var", "next_scale")
    slots = drafter.tokenizer.slots.num_slots
    given = Known(torch.full((2, slots), 7), torch.arange(slots).expand(2, -1) % 2 == 0)
    drafter.hand_over(refiner, 2)
    previews = list(drafter.stream([0, 2], seeds=[3, 4], known=given))
    assert [p.step for p in previews] == [1, 2, 3]
    assert (previews[-1].ids[given.mask] == 7).all()


def test_the_drafters_memory_ends_with_its_steps():
    fields = {"grid": (8, 9), "vocab_size": 5, "depth": 1, "width": 8, "num_heads": 1}
    model = MODELS["llama"](MODELS["llama"].config_class(num_classes=NUM_CLASSES, **fields))
    order, label = make_order(model), torch.tensor([0])
    whole = Branch.of(model, order, label, Guidance())
    some = Branch.of(model, order, label, Guidance(), last=10)
    assert whole.cache.keys[0].shape[2] == 72
    assert some.cache.keys[0].shape[2] == 64
    rest = Branch.of(model, order, label, Guidance(), first=10)
    *_, state = generate([some, rest], order, Categorical(), PerImageNoise([1], "cpu"))
    *_, plain = generate([whole], order, Categorical(), PerImageNoise([1], "cpu"))
    assert torch.equal(state.ids, plain.ids)


def test_both_models_are_counted_recorded_and_moved():
    drafter, refiner = pair("var", "next_scale")
    settings, size = drafter.settings, drafter.plan(0.001)
    alone = weights_of(drafter, settings)
    drafter.hand_over(refiner, 2)
    both = weights_of(drafter, settings)
    assert both["handover"] == "2"
    assert both["refiner"] == weights_of(refiner, settings)["transformer"]
    assert {k: v for k, v in both.items() if k in alone} == alone
    assert drafter.plan(0.001) < size
    assert drafter.to("cpu").refiner is refiner


WRONG = {
    "vocabulary": {"vocab_size": 16},
    "list of token maps": {"scales": (1, 3, 4)},
    "number of classes": {"num_classes": 5},
}


class Stranger(HandsOver):
    """What ``hand_over`` looks at of a generator, with another transformer."""

    def __init__(self, tokenizer, transformer):
        self.tokenizer, self.transformer = tokenizer, transformer


@pytest.mark.parametrize("what", WRONG)
def test_a_refiner_of_other_tokens_is_told(what):
    drafter, _ = pair("var", "next_scale")
    config = drafter.transformer.config
    fields = {f: getattr(config, f) for f in type(config).own_fields()} | WRONG[what]
    other = MODELS["var"](type(config)(**fields))
    with pytest.raises(ValueError) as caught:
        drafter.hand_over(Stranger(drafter.tokenizer, other), 1)
    assert f"got a refiner whose {what} is" in sentence(caught)
    assert drafter.refiner is None


def test_a_refiner_of_another_order_or_codes_and_a_step_too_far_are_told():
    drafter, refiner = pair("var", "next_scale")
    with pytest.raises(ValueError) as caught:
        drafter.hand_over(make_generator("mvar", "within_scale"), 1)
    assert "got a refiner whose order is within_scale" in sentence(caught)
    strange = make_generator("var", "next_scale")
    with torch.no_grad():
        fill(strange.tokenizer, seed=5)
    with pytest.raises(ValueError) as caught:
        drafter.hand_over(strange, 1)
    assert "whose tokenizer has other codes" in sentence(caught)
    for step in (-1, 4):
        with pytest.raises(ValueError) as caught:
            drafter.hand_over(refiner, step)
        assert f"got step {step} to hand over at; expected 0 to 3" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        drafter.hand_over(drafter, 1)
    assert "the generator itself" in sentence(caught)


@pytest.mark.parametrize("name", ["code-drafter-8", "code-refiner-8"])
def test_the_published_pairs_are_vars(name):
    preset = PRESETS[name]
    converted = VARLayout().convert(full_size(f"var_d{preset.depth}"), **preset.hints)
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert dataclasses.asdict(preset)["order"] == make_model("var", "next_scale").config.order
