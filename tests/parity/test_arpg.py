"""ARPG against recorded outputs of the reference (tests/golden/arpg); with negative twins."""

import dataclasses

import pytest
import torch
from published import case as recorded
from published import check_random_numbers, full_size, near, save_part
from tiny import Recorder, ToyFuser, sentence

from arimage import checkpoint
from arimage.ar.arpg import ARPGConfig
from arimage.ar.convert.arpg import ARPGLayout
from arimage.ar.orders.random_groups import NUM_STEPS, RandomGroupsOrder, group_sizes
from arimage.ar.registry import LAYOUTS
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import ReferenceNoise
from arimage.sampling.settings import Settings
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
SEEDED = ("seeded", "seeded_cosine_const", "seeded_one_by_one")
# of 256 slots: models/arpg.py generate with these schedules
ARCCOS_64 = (
    "3 3 2 3 2 3 2 3 2 3 3 2 3 2 3 3 2 3 3 2 3 3 2 3 3 3 2 3 3 3 3 3 3 3 3 3 3 3 3 4 3 3 4 3 4 3 4 "
    "4 4 4 4 4 5 4 5 5 6 5 7 7 7 10 12 28"
)
ARCCOS_32 = "6 5 5 5 5 5 5 6 5 5 6 5 6 5 6 6 6 6 6 7 6 7 7 8 8 8 9 10 11 14 17 40"
COSINE_64 = (
    "1 1 1 1 1 1 1 1 1 1 1 1 1 2 3 2 2 3 3 3 3 3 3 4 3 4 4 4 4 4 4 4 5 5 4 5 5 5 5 5 6 5 5 6 5 6 6 "
    "6 5 6 6 6 6 6 6 7 6 6 6 6 7 6 6 6"
)


@pytest.fixture(scope="module")
def case():
    found = recorded("arpg")
    converted = ARPGLayout().convert(found.parts["arpg"], num_heads=4, scales=[4])
    found.model = ARPGLayout.model(converted.config).eval()
    found.model.load_state_dict(converted.weights)
    found.dropped = converted.dropped
    with torch.no_grad():
        yield found


def bind(path=None, **options):
    return RandomGroupsOrder(ToyFuser(((4, 4),), 256, 4), 1, "cpu", path, **options)


def test_the_config_is_what_the_reference_was_built_with(case):
    config, theirs = case.model.config, case.config
    assert (config.depth, config.width) == (theirs["n_layer"], theirs["dim"])
    assert (config.num_heads, config.mlp_hidden) == (theirs["n_head"], theirs["ffn_hidden"])
    assert (config.vocab_size, config.num_classes) == (theirs["vocab_size"], 10)
    assert config.norm_eps == theirs["norm_eps"]
    assert list(case.dropped) == ["embeddings.weight.after"]


@pytest.mark.parametrize(
    ("steps", "schedule", "golden"),
    [(NUM_STEPS, "arccos", ARCCOS_64), (32, "arccos", ARCCOS_32), (64, "cosine", COSINE_64)],
)
def test_the_group_sizes_of_the_reference(steps, schedule, golden):
    assert group_sizes(256, steps, schedule) == [int(n) for n in golden.split()]


def test_sizes_are_rounded_as_published():
    """cos(pi / 2 * 26 / 39) is below one half by its last digit, cos(pi / 2 * (26 / 39)) is not."""
    assert group_sizes(64, 39, "cosine")[25:27] == [3, 2]


def logits(case, labels, path=None, **changes):
    """A row per place of the path."""
    path = case.expected["tf_orders"] if path is None else path
    ids = case.expected["tf_ids"][: len(labels)]
    lesson = bind(path[: len(labels)]).lesson(ids, torch.Generator())
    step = dataclasses.replace(lesson.step, **changes)
    return case.model.head(case.model(lesson.inputs, case.model.prepare(labels), step))


def test_teacher_forced_logits(case):
    """In training, where the rule is causal."""
    labels, expected = case.expected["tf_labels"], case.expected
    assert near(logits(case, labels), expected["logits"])
    assert near(logits(case, torch.tensor([10])), expected["logits_uncond"])
    assert not near(logits(case, (labels + 1) % 10), expected["logits"])
    assert not near(logits(case, labels, path=expected["tf_orders"].flip(0)), expected["logits"])
    assert not near(logits(case, labels, mask=None), expected["logits"])


def settings(call):
    """A recorded call in our words."""
    linear, greedy = call["cfg_schedule"] == "linear", call["top_k"] == 1
    return Settings(
        guidance_scale=call["guidance_scale"],
        guidance_schedule="linear_after" if linear else "constant",
        temperature=0.0 if greedy else call["temperature"],
        top_k=None if greedy else call["top_k"] or None,
    )


def decode(case, name, sampler=None, **changes):
    """The last state of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    call = case.calls[name]
    order = bind(num_steps=call["num_iter"], schedule=call["sample_schedule"])
    asked = settings(call).updated(changes)
    branch = Branch.of(case.model, order, case.expected["gen_labels"], asked.guidance())
    noise = ReferenceNoise([call["manual_seed"]] * 2, "cpu")
    *_, state = generate([branch], order, sampler or asked.make_sampler(), noise)
    return state


def test_greedy_generation(case):
    assert torch.equal(decode(case, "greedy").ids, case.expected["greedy_ids"])
    recorder = Recorder()
    state = decode(case, "greedy", recorder)
    assert torch.equal(state.path[0], case.expected["greedy_order"])
    guided = torch.cat(recorder.logits, dim=1)[:1]
    assert near(guided, case.expected["greedy_cfg_logits"])
    assert not near(guided.roll(1, 1), case.expected["greedy_cfg_logits"])


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_generation(case, name):
    state = decode(case, name)
    assert torch.equal(state.path, case.expected[f"{name}_order"].expand(2, -1))
    assert torch.equal(state.ids, case.expected[f"{name}_ids"])


CHANGES = ({"guidance_scale": 9.0}, {"temperature": 2.0}, {"guidance_schedule": "linear_before"})


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_gives_other_ids(case, change):
    assert not torch.equal(decode(case, "seeded", **change).ids, case.expected["seeded_ids"])


def test_the_rule_of_decoding_is_not_that_of_training(case):
    order, ids = bind(num_steps=5, path=torch.arange(16)), case.expected["tf_ids"]
    lessons = order.replay(ids, torch.Generator()), order.lesson(ids, torch.Generator())
    context = case.model.prepare(case.expected["tf_labels"])
    replayed, taught = (case.model(a.inputs, context, a.step) for a in lessons)
    assert near(replayed[:, :1], taught[:, :1])
    assert not near(replayed, taught)
    one_by_one = bind(num_steps=16, path=torch.arange(16)).replay(ids, torch.Generator())
    assert near(case.model(one_by_one.inputs, context, one_by_one.step), taught)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("arpg-")])
def test_full_size_transformers_load_strictly(name):
    preset = PRESETS[name]
    converted = ARPGLayout().convert(full_size(name.removeprefix("arpg-"), "arpg"), **preset.hints)
    assert list(converted.dropped) == ["embeddings.weight.after"]
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert list(converted.config.grid) == [16, 16]
    assert (converted.config.head_dim, converted.config.num_classes) == (64, 1000)


def test_a_file_is_recognised_as_arpg_alone(tmp_path):
    path = save_part("arpg", "arpg", tmp_path)
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    layout, _ = checkpoint.find_one([path], layouts, "transformer")
    assert isinstance(layout, ARPGLayout)


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        ({"depth": 6}, "holds an ARPG of depth 4, not 6"),
        ({"num_heads": None}, "an ARPG of width 128, which is no published size"),
        ({"scales": [1, 4]}, "has one token map: give one side"),
    ],
)
def test_hints_that_do_not_fit_are_told(case, hints, words):
    with pytest.raises(ValueError) as caught:
        ARPGLayout().convert(case.parts["arpg"], **{"num_heads": 4, "scales": [4], **hints})
    assert words in sentence(caught)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": [1, 3, 11]}, "got steps of 15 tokens in all"),
        ({"sizes": [1, 0, 15]}, "the smallest of 0"),
        ({"num_steps": 17}, "got num_steps 17; this order takes 1 to 16 steps"),
        ({"num_steps": 0}, "takes 1 to 16 steps"),
    ],
)
def test_groups_that_do_not_sum_to_the_grid_are_told(options, words):
    with pytest.raises(ValueError) as caught:
        bind(**options)
    assert words in sentence(caught)


def test_an_unknown_schedule_is_told():
    with pytest.raises(KeyError) as caught:
        bind(schedule="cosinus")
    assert "unknown schedule 'cosinus'. Did you mean 'cosine'?" in sentence(caught)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"order": "raster"}, "unknown order of ARPGConfig 'raster'"), ({"depth": 3}, "even depth")],
)
def test_configs_that_cannot_be_are_told(fields, words):
    with pytest.raises(ValueError) as caught:
        ARPGConfig(**fields)
    assert words in sentence(caught)
