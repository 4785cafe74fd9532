"""RandAR against recorded outputs of the reference (tests/golden/randar); with negative twins."""

import dataclasses

import pytest
import torch
from published import case as recorded
from published import check_random_numbers, full_size, near
from tiny import Recorder, ToyFuser, sentence

from arimage import checkpoint
from arimage.ar.base import UNKNOWN
from arimage.ar.convert.randar import RandARLayout
from arimage.ar.orders.instructed import NUM_STEPS, InstructedOrder, group_sizes
from arimage.ar.randar import RandARConfig
from arimage.ar.registry import LAYOUTS
from arimage.sampling.guidance import LinearBefore
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import ReferenceNoise
from arimage.sampling.settings import Settings
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
SEEDED = (
    "seeded",
    "seeded_filters",
    "seeded_sequential",
    "seeded_no_cfg",
    "seeded_random_order",
)
# RandAR/model/utils.py, 256 slots: 24 of one, then these
GOLDEN = "2222223232332333333343343434434444444444454445445454545454545454"


@pytest.fixture(scope="module")
def case():
    found = recorded("randar")
    converted = RandARLayout().convert(found.parts["randar"], num_heads=4, scales=[4])
    found.model = RandARLayout.model(converted.config).eval()
    found.model.load_state_dict(converted.weights)
    with torch.no_grad():
        yield found


def bind(path=None, **options):
    return InstructedOrder(ToyFuser(((4, 4),), 256, 4), 1, "cpu", path, **options)


def test_the_config_is_what_the_reference_was_built_with(case):
    config, theirs = case.model.config, case.config
    assert (config.depth, config.width) == (theirs["n_layer"], theirs["dim"])
    assert (config.num_heads, config.mlp_hidden) == (theirs["n_head"], theirs["ffn_hidden"])
    assert (config.vocab_size, config.num_classes) == (theirs["vocab_size"], 10)
    assert config.norm_eps == theirs["norm_eps"]


def logits(case, labels, path=None, **changes):
    """A row per place of the path."""
    path = case.expected["tf_orders"] if path is None else path
    lesson = bind(path[: len(labels)]).lesson(
        case.expected["tf_ids"][: len(labels)], torch.Generator()
    )
    step = dataclasses.replace(lesson.step, **changes)
    return case.model.head(case.model(lesson.inputs, case.model.prepare(labels), step))


def test_teacher_forced_logits(case):
    labels, expected = case.expected["tf_labels"], case.expected
    assert near(logits(case, labels), expected["logits"])
    assert near(logits(case, torch.tensor([10])), expected["logits_uncond"])
    assert not near(logits(case, (labels + 1) % 10), expected["logits"])
    assert not near(logits(case, labels, path=expected["tf_orders"].flip(0)), expected["logits"])
    assert not near(logits(case, labels, mask=None), expected["logits"])


def settings(call):
    """A recorded call in our words."""
    first, last = call["cfg_scales"]
    return Settings(
        guidance_scale=last,
        guidance_schedule=LinearBefore(first),
        temperature=call["temperature"] if call["top_k"] != 1 else 0.0,
        top_k=(call["top_k"] or None) if call["top_k"] != 1 else None,
        top_p=None if call["top_p"] == 1 else call["top_p"],
    )


def sample(case, name, sampler=None, **changes):
    """Ids of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    call = case.calls[name]
    steps, path = call["num_inference_steps"], call.get("token_order")
    order = bind(None if path is None else torch.tensor(path), num_steps=steps if steps > 0 else 16)
    asked = settings(call).updated(changes)
    branch = Branch.of(case.model, order, case.expected["gen_labels"], asked.guidance())
    noise = ReferenceNoise([call.get("manual_seed", 0)] * 2, "cpu")
    *_, state = generate([branch], order, sampler or asked.make_sampler(), noise)
    return state.ids


def test_greedy_generation(case):
    assert torch.equal(sample(case, "greedy"), case.expected["greedy_ids"])
    recorder = Recorder()
    sample(case, "greedy", recorder)
    guided = torch.cat(recorder.logits, dim=1)[:1]
    assert near(guided, case.expected["greedy_cfg_logits"])
    assert not near(guided.roll(1, 1), case.expected["greedy_cfg_logits"])


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_generation(case, name):
    assert torch.equal(sample(case, name), case.expected[f"{name}_ids"])


CHANGES = ({"guidance_scale": 9.0}, {"temperature": 2.0}, {"guidance_schedule": "constant"})


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_gives_other_ids(case, change):
    assert not torch.equal(sample(case, "seeded", **change), case.expected["seeded_ids"])


def test_tokens_of_a_step_drawn_at_once_differ(case, monkeypatch):
    monkeypatch.setattr(type(case.model), "draws_apart", False)
    assert not torch.equal(sample(case, "seeded"), case.expected["seeded_ids"])


def test_the_steps_of_the_published_models():
    sizes = group_sizes(256, NUM_STEPS)
    assert sizes[:24] == [1] * 24
    assert (len(sizes), sum(sizes)) == (88, 256)
    assert "".join(map(str, sizes[24:])) == GOLDEN
    assert group_sizes(256, 256) == [1] * 256


def test_queries_are_written_anew_with_the_tokens_between_them():
    order = bind(torch.arange(16), sizes=[1, 3, 12])
    steps = [order.step(i) for i in range(3)]
    assert [(s.start, s.stop) for s in steps] == [(0, 2), (2, 6), (4, 21)]
    assert steps[2].holds.tolist() == [1, 2, 2, 3, 3, *range(4, 16)]
    state = order.start(ReferenceNoise([0], "cpu"))
    state = dataclasses.replace(state, ids=torch.arange(16)[None])
    given = order.inputs(state, steps[2])[0].tolist()
    assert given == [1, UNKNOWN, 2, UNKNOWN, 3, *[UNKNOWN] * 12]


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("randar-")])
def test_full_size_transformers_load_strictly(name):
    """The recorded manifests, and the one of MaskGIT's vocabulary made of LlamaGen's."""
    preset = PRESETS[name]
    size = "l" if "0.3b" in name else "xl"
    weights = dict(full_size(f"randar_{size}_llamagen", "randar"))
    if "maskgit" in name:
        for key in ("tok_embeddings.weight", "output.weight"):
            weights[key] = torch.empty(1024, weights[key].shape[1], device="meta")
    converted = RandARLayout().convert(weights, **preset.hints)
    assert not converted.dropped
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert list(converted.config.grid) == [16, 16]
    assert converted.config.head_dim == 64


def test_a_file_is_recognised_as_randar_alone(case):
    weights = case.parts["randar"]
    found = [name for name in LAYOUTS if LAYOUTS[name]().recognizes(weights)]
    assert found == ["randar"]
    assert checkpoint.Layout.recognizes(LAYOUTS["llamagen"](), weights)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": [1, 3, 11]}, "got steps of 15 tokens in all"),
        ({"sizes": [1, 0, 15]}, "the smallest of 0"),
        ({"num_steps": 17}, "got num_steps 17"),
        ({"num_steps": 0}, "takes 1 to 16 steps"),
    ],
)
def test_steps_that_do_not_sum_to_the_grid_are_told(options, words):
    with pytest.raises(ValueError) as caught:
        bind(**options)
    assert words in sentence(caught)


def test_another_order_is_told():
    with pytest.raises(ValueError) as caught:
        RandARConfig(order="raster")
    assert "unknown order of RandARConfig 'raster'" in sentence(caught)
