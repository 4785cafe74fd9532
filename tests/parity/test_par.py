"""PAR against recorded outputs of the reference (tests/golden/par); each has a negative twin."""

import dataclasses

import pytest
import torch
from published import case as recorded
from published import check_random_numbers, full_size, near, save_part
from tiny import Recorder, ToyFuser, make_generator, sentence

from arimage import checkpoint
from arimage.ar.convert.par import PARLayout
from arimage.ar.orders.regions import RegionOrder, region_path
from arimage.ar.par import PARConfig
from arimage.ar.registry import LAYOUTS
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import ReferenceNoise
from arimage.sampling.settings import Settings
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
SEEDED = ("seeded", "seeded_filters", "seeded_no_cfg")


@pytest.fixture(scope="module")
def case():
    found = recorded("par")
    converted = PARLayout().convert(found.parts["par"], num_heads=4, scales=[4])
    found.model = PARLayout.model(converted.config).eval()
    found.model.load_state_dict(converted.weights)
    fuser = ToyFuser(((4, 4),), 256, 4)
    found.order = RegionOrder(fuser, 1, "cpu", **found.model.order_options)
    with torch.no_grad():
        yield found


def test_the_config_is_what_the_reference_was_built_with(case):
    config, theirs = case.model.config, case.config
    assert (config.depth, config.width) == (theirs["n_layer"], theirs["dim"])
    assert (config.num_heads, config.mlp_hidden) == (theirs["n_head"], theirs["ffn_hidden"])
    assert (config.vocab_size, config.norm_eps) == (theirs["vocab_size"], theirs["norm_eps"])
    assert (config.num_classes, config.regions) == (10, theirs["ar_token_num"])


def test_the_order_of_the_tokens(case):
    assert torch.equal(case.order.path, case.expected["token_order"])
    table = case.model.rotary_table(torch.device("cpu"))[case.order.full_step().holds + 1]
    assert near(table, case.expected["rope_table"][:16])
    assert not near(table.roll(1, 0), case.expected["rope_table"][:16])


def logits(case, labels, **changes):
    """Of the rows that predict tokens; the others of the record lie beyond the image."""
    in_order = case.expected["tf_ids"][: len(labels)]
    lesson = case.order.lesson(in_order[:, case.order.path.argsort()], torch.Generator())
    assert torch.equal(lesson.targets, in_order)
    step = dataclasses.replace(lesson.step, **changes)
    return case.model.head(case.model(lesson.inputs, case.model.prepare(labels), step))


def test_teacher_forced_logits(case):
    labels, expected = case.expected["tf_labels"], case.expected
    assert near(logits(case, labels), expected["logits"][:, :16])
    assert near(logits(case, torch.tensor([10])), expected["logits_uncond"][:, :16])
    assert not near(logits(case, (labels + 1) % 10), expected["logits"][:, :16])
    causal = torch.ones(16, 16, dtype=torch.bool).tril()
    assert not near(logits(case, labels, mask=causal), expected["logits"][:, :16])


def settings(call):
    """A recorded call in our words."""
    return Settings(
        guidance_scale=call["cfg_scale"],
        temperature=call["temperature"] if call["sample_logits"] else 0.0,
        top_k=call["top_k"] or None,
        top_p=None if call["top_p"] == 1 else call["top_p"],
    )


def sample(case, name, sampler=None, **changes):
    """Ids of a recorded call in the order of decoding."""
    check_random_numbers(case.expected["rng_probe"])
    call = case.calls[name]
    asked = settings(call).updated(changes)
    branch = Branch.of(case.model, case.order, case.expected["gen_labels"], asked.guidance())
    noise = ReferenceNoise([call.get("manual_seed", 0)] * 2, "cpu")
    *_, state = generate([branch], case.order, sampler or asked.make_sampler(), noise)
    return state.ids[:, case.order.path]


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


@pytest.mark.parametrize("change", [{"guidance_scale": 9.0}, {"temperature": 2.0}], ids=str)
def test_another_setting_gives_other_ids(case, change):
    assert not torch.equal(sample(case, "seeded", **change), case.expected["seeded_ids"])


def test_the_steps_of_the_published_models():
    for regions, steps in ((4, 147), (16, 51)):
        order = RegionOrder(ToyFuser(((24, 24),), 4, 2), 1, "cpu", regions=regions)
        sizes = [order.step(i).predicts for i in range(order.num_steps)]
        assert (len(sizes), sum(sizes)) == (steps, 576)
        assert sizes == [1] * regions + [regions] * (576 // regions - 1)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("par-")])
def test_full_size_transformers_load_strictly(name):
    """The one recorded manifest, and the others from it: LlamaGen's and the special tokens."""
    preset = PRESETS[name]
    if name == "par-xl-4x-384":
        weights = full_size("par_xl_4x", "par")
    else:
        size = preset.variant.split("-")[1]
        weights = dict(full_size(f"llamagen_c2i_GPT-{size}", "llamagen_c2i"))
        count, width = int(name.split("-")[2][:-1]) - 1, weights["norm.weight"].shape[0]
        weights[PARLayout.anchors[-1]] = torch.empty(count, width, device="meta")
    converted = PARLayout().convert(weights, **preset.hints)
    assert not converted.dropped
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert converted.config.regions == int(name.split("-")[2][:-1])
    assert list(converted.config.grid) == [24, 24]


def test_a_file_is_recognised_as_par_alone(tmp_path):
    path = save_part("par", "par", tmp_path)
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    layout, _ = checkpoint.find_one([path], layouts, "transformer")
    assert isinstance(layout, PARLayout)


@pytest.mark.parametrize("regions", [0, 2, 9, 5])
def test_regions_that_do_not_cut_the_grid_are_told(regions):
    with pytest.raises(ValueError) as caught:
        region_path((4, 4), regions)
    assert f"got {regions} regions for a grid of 4 x 4 tokens" in sentence(caught)
    with pytest.raises(ValueError, match="regions for a grid of 4 x 4"):
        PARConfig(grid=(4, 4), regions=regions)


def test_another_order_or_number_of_steps_is_told():
    with pytest.raises(ValueError) as caught:
        PARConfig(order="raster")
    assert "raster" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        make_generator("par", "regions").order(12)
    assert "the order 'regions' has a fixed number of steps" in sentence(caught)
