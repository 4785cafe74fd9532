"""First token maps that are kept by class change no bit, and follow the weights."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny import EVERY_MODEL, make_generator, make_order

from arimage.ar.registry import MODELS
from arimage.generator import ImageGenerator
from arimage.sampling import openings as openings_module
from arimage.sampling.capture import Trace
from arimage.sampling.compiled import Captures

pytestmark = pytest.mark.untyped

CASES = [case for case in EVERY_MODEL if MODELS[case[0]].opening_width]
LABELS = [2, 0, 1]


def made(generator, seed, labels=LABELS, **settings):
    """Canvas and ids of a batch."""
    *_, state = generator.sample(labels, [seed + i for i in range(len(labels))], **settings)
    return SimpleNamespace(ids=state.ids, canvas=state.canvas)


def same(one, other):
    return torch.equal(one.ids, other.ids) and torch.equal(one.canvas, other.canvas)


def fresh(generator):
    """The same models, to which no labels have come."""
    twin = ImageGenerator(generator.tokenizer, copy.deepcopy(generator.transformer))
    twin.settings = generator.settings
    return twin


def first_steps(generator, monkeypatch):
    """A list that grows by the rows of each first step that the transformer makes."""
    rows, forward = [], generator.transformer.forward

    def counted(inputs, context, step, cache=None):
        if step.index == 0:
            rows.append(len(context.prefix))
        return forward(inputs, context, step, cache)

    monkeypatch.setattr(generator.transformer, "forward", counted)
    return rows


def test_the_next_scale_family_opens_constant():
    assert {"var", "flexvar", "hmar", "mvar"} == {name for name, _ in CASES}


GUIDANCE = {"constant": (2.0, "constant"), "off": (1.0, "constant"), "linear": (2.0, "linear")}


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize(("name", "order"), CASES)
def test_images_are_the_same_to_the_bit(name, order, guidance, monkeypatch):
    scale, schedule = GUIDANCE[guidance]
    generator = make_generator(name, order, guidance_scale=scale, guidance_schedule=schedule)
    twins = [fresh(generator) for _ in range(5)]
    rows = first_steps(generator, monkeypatch)
    for turn, twin in enumerate(twins[:4]):
        assert same(made(generator, turn), made(twin, turn))
    kept = make_order(generator.transformer).cached  # else no null rows where s is 1, as at first
    guided = scale > 1 and (kept or schedule == "constant")
    assert rows[0] == rows[1] == len(LABELS) * (1 + guided)
    assert len(rows) == 2  # the first time, and to be kept
    assert same(made(generator, 0, [0, 2, 1]), made(twins[4], 0, [0, 2, 1]))
    assert len(rows) == 3


def test_keys_in_eight_bits_are_kept_apart(monkeypatch):
    generator = make_generator("var", "next_scale", guidance_scale=2.0)
    twin = fresh(generator)
    expected = {kept_as: made(twin, 5, cache_dtype=kept_as) for kept_as in ("fp8", None)}
    rows = first_steps(generator, monkeypatch)
    for kept_as in ("fp8", None, "fp8", None, "fp8", None):
        assert same(made(generator, 5, cache_dtype=kept_as), expected[kept_as])
    assert len(rows) == 4
    assert not same(expected["fp8"], expected[None])


@pytest.mark.parametrize("of", ["packed", "plain"])
def test_changed_weights_start_anew(of):
    generator = make_generator("var", "next_scale")
    for _ in range(3):
        before = made(generator, 7)
    assert generator.openings.kept
    model = generator.transformer
    with torch.no_grad():
        layer = model.blocks[0].mlp.up if of == "packed" else model.class_embedding
        layer.weight.mul_(-3.0)
    twin = fresh(generator)
    after = made(generator, 7)
    assert same(after, made(twin, 7))
    assert not torch.equal(after.canvas, before.canvas)
    assert not generator.openings.kept


@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize(("name", "order"), CASES)
def test_captured_first_steps(name, order, schedule):
    generator = make_generator(name, order, guidance_scale=2.0, guidance_schedule=schedule)
    calls = list(enumerate([LABELS, LABELS, LABELS, [0, 0, 1], LABELS]))
    plain = [made(fresh(generator), turn, labels) for turn, labels in calls]
    generator.captures = Captures(Trace(torch.device("cpu")))
    for (turn, labels), expected in zip(calls, plain, strict=True):
        assert torch.equal(made(generator, turn, labels).ids, expected.ids)
    (session,) = generator.captures.sessions.values()
    firsts = [key for key in session.replays if key[0] == 0]
    assert sorted(known for *_, known in firsts) == [(False,), (True,)]


def test_those_used_longest_ago_make_room(monkeypatch):
    generator = make_generator("var", "next_scale")
    for _ in range(2):
        made(generator, 0, [0])
    size = generator.openings.size
    assert size > 0
    monkeypatch.setattr(openings_module, "BYTES", 2 * size)
    for label in (1, 1, 0, 2, 2):
        made(generator, 0, [label])
    assert [key[-1] for key in generator.openings.kept] == [0, 2]
    assert generator.openings.size == 2 * size


def test_what_is_too_large_is_not_tried_again(monkeypatch):
    monkeypatch.setattr(openings_module, "BYTES", 10)
    generator = make_generator("var", "next_scale")
    rows = first_steps(generator, monkeypatch)
    for _ in range(4):
        made(generator, 0)
    assert len(rows) == 5  # one of them in vain
    assert generator.openings.size == 0


def test_annealed_classes_are_never_kept(monkeypatch):
    generator = make_generator("var", "next_scale", annealing="cads")
    rows = first_steps(generator, monkeypatch)
    for _ in range(3):
        made(generator, 3)
    assert len(rows) >= 3
    assert not generator.openings.kept


def test_single_tokens_are_not_worth_it():
    generator = make_generator("llama", "raster")
    for _ in range(3):
        made(generator, 0)
    assert not generator.openings.kept
