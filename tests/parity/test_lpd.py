"""LPD against recorded outputs of the reference (tests/golden/lpd); with negative twins."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from published import case as recorded
from published import check_random_numbers, full_size, near, save_part
from tiny import Recorder, ToyFuser, sentence

from arimage import checkpoint
from arimage.ar.convert.lpd import LPDLayout
from arimage.ar.lpd import LPDConfig
from arimage.ar.orders.local_groups import (
    TABLES,
    LocalGroupsOrder,
    group_sizes,
    local_paths,
    read_sizes,
)
from arimage.ar.registry import LAYOUTS
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import ReferenceNoise
from arimage.sampling.settings import Settings
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
SEEDED = ("seeded", "seeded_filters", "seeded_no_cfg")
SIZES = [1, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def case():
    found = recorded("lpd")
    converted = LPDLayout().convert(found.parts["lpd"], num_heads=4)
    found.model = LPDLayout.model(converted.config).eval()
    found.model.load_state_dict(converted.weights)
    with torch.no_grad():
        yield found


def bind(path=None, **options):
    return LocalGroupsOrder(ToyFuser(((4, 4),), 256, 4), 1, "cpu", path, **options)


def test_the_config_is_what_the_reference_was_built_with(case):
    config, theirs = case.model.config, case.config
    assert (config.depth, config.width) == (theirs["decoder_depth"], theirs["decoder_embed_dim"])
    assert config.num_heads == theirs["decoder_num_heads"]
    assert config.mlp_hidden == theirs["mlp_ratio"] * config.width
    assert (config.vocab_size, config.num_classes) == (theirs["vqgan_vocab_size"], 10)
    assert (config.norm_eps, list(config.grid)) == (theirs["norm_eps"], [4, 4])


def logits(case, labels, path=None, sizes=SIZES, **changes):
    """A row per place of the path."""
    path = case.expected["tf_orders"] if path is None else path
    ids = case.expected["tf_ids"][: len(labels)]
    lesson = bind(path[: len(labels)], sizes=sizes).lesson(ids, torch.Generator())
    step = dataclasses.replace(lesson.step, **changes)
    return case.model.head(case.model(lesson.inputs, case.model.prepare(labels), step))


def test_teacher_forced_logits(case):
    labels, expected = case.expected["tf_labels"], case.expected
    assert expected["tf_group_sizes"].tolist() == SIZES
    assert near(logits(case, labels), expected["logits"])
    assert near(logits(case, torch.tensor([10])), expected["logits_uncond"])
    assert not near(logits(case, (labels + 1) % 10), expected["logits"])
    assert not near(logits(case, labels, path=expected["tf_orders"].flip(0)), expected["logits"])
    assert not near(logits(case, labels, mask=None), expected["logits"])
    assert not near(logits(case, labels, sizes=[*SIZES[:-2], 5, 4]), expected["logits"])


def test_the_masks_of_decoding(case):
    """The record's: blocks of positions, causal; a step's queries lie where its tokens will."""
    blocked = case.expected["attn_mask_blocked"].bool()
    order = bind(sizes=SIZES)
    for step in map(order.step, range(order.num_steps)):
        assert torch.equal(step.mask, ~blocked[step.start : step.stop, : step.stop])


def settings(call):
    """A recorded call in our words."""
    linear, greedy = call["cfg_schedule"] == "linear", call["top_k"] == 1
    return Settings(
        guidance_scale=call["cfg"],
        guidance_schedule="linear_per_token" if linear else "constant",
        temperature=0.0 if greedy else call["temperature"],
        top_k=None if greedy else call["top_k"] or None,
        top_p=None if call["top_p"] == 1 else call["top_p"],
    )


def sample(case, name, sampler=None, **changes):
    """Ids of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    call = case.calls[name]
    order = bind(case.expected["gen_orders"], sizes=call["group_sizes"])
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


CHANGES = ({"guidance_scale": 9.0}, {"temperature": 2.0}, {"guidance_schedule": "linear_after"})


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_gives_other_ids(case, change):
    assert not torch.equal(sample(case, "seeded", **change), case.expected["seeded_ids"])


def theirs(path, sizes, seed):
    """Numbers that rank the slots as Python's generator did for the record, which drew the first
    slot and then shuffled all that were left at each step.
    """
    stream, slots = random.Random(seed), len(path)
    chance = np.zeros((1, len(sizes), slots))
    first = stream.choice(range(slots))
    chance[0, 0] = np.arange(slots) != first
    done = sizes[0]
    for index, size in enumerate(sizes[1:], 1):
        left = [slot for slot in range(slots) if slot not in path[:done]]
        stream.shuffle(left)
        chance[0, index, left] = np.arange(len(left))
        done += size
    return chance


def test_the_path_of_the_reference(case):
    call, path = case.calls["schedule_order"], case.expected["schedule_order"].tolist()
    sizes = call["group_sizes"]
    assert call["proximity_threshold"] == 1
    chance = theirs(path, sizes, 1)
    found = local_paths((4, 4), sizes, call["repulsion_threshold"], chance)
    assert found[0].tolist() == path
    assert local_paths((4, 4), sizes, 2, chance)[0].tolist() != path
    assert local_paths((4, 4), sizes, 1, theirs(path, sizes, 2))[0].tolist() != path


def obeys(path, sizes, repulsion, side):
    """Whether each token is the nearest of those that may come, wherever there are any: near
    tokens of earlier groups, and apart from those of its own.
    """
    cells = np.stack(np.divmod(np.arange(side * side), side), axis=1)
    gaps = np.abs(cells[:, None] - cells[None])
    weight = np.where(gaps.max(-1) == 1, 1 / np.sqrt((gaps**2).sum(-1)).clip(1), 0)
    done = sizes[0]
    for size in sizes[1:]:
        nearness, group = weight[:, path[:done]].sum(1), path[done : done + size]
        for count, slot in enumerate(group):
            apart = (gaps[:, group[:count]].max(-1) > repulsion).all(1)
            fit = apart & (nearness >= 1) & ~np.isin(np.arange(len(cells)), path[: done + count])
            if fit.any() and not (fit[slot] and nearness[slot] >= nearness[fit].max() - 1e-9):
                return False
        done += size
    return True


@pytest.mark.parametrize("repulsion", [2, 3])
def test_paths_of_the_published_size(repulsion):
    sizes = group_sizes(256, 20)
    chance = np.random.default_rng(0).random((3, 20, 256))
    paths = local_paths((16, 16), sizes, repulsion, chance)
    assert np.array_equal(np.sort(paths, axis=1), np.tile(np.arange(256), (3, 1)))
    alone = local_paths((16, 16), sizes, repulsion, chance[1:2])
    assert np.array_equal(alone[0], paths[1])
    assert not np.array_equal(paths[0], paths[1])
    assert all(obeys(path, sizes, repulsion, 16) for path in paths)
    assert not obeys(paths[0], sizes, repulsion + 1, 16)
    assert not obeys(np.arange(256), sizes, repulsion, 16)


GOLDEN_20 = [1, 2, 4, 5, 7, 8, 10, 11, 12, 14, 15, 16, 17, 18, 18, 19, 19, 20, 20, 20]
GOLDEN_32 = [1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, *[10] * 3, *[11] * 4, *[12] * 8]


def test_the_group_sizes_of_the_reference():
    assert group_sizes(256, 20) == GOLDEN_20
    assert group_sizes(256, 32) == GOLDEN_32
    assert group_sizes(1024, 48)[-11:] == [*[32] * 3, *[33] * 7, 34]
    assert group_sizes(256, 256) == [1] * 256
    counts = {slots: [len(read_sizes(line)) for line in TABLES[slots]] for slots in TABLES}
    assert counts[256] == [8, 12, 16, 20, 24, 32, 64, 128]
    assert counts[1024] == [32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 224, 256, 512]
    assert all(sum(read_sizes(line)) == slots for slots in TABLES for line in TABLES[slots])


@pytest.mark.parametrize("slots", [1, 2, 16, 256, 300])
def test_any_number_of_steps_has_sizes_that_sum_to_the_grid(slots):
    for steps in {1, 2, slots // 3, slots // 2 + 1, slots} & set(range(1, slots + 1)):
        sizes = group_sizes(slots, steps)
        assert (len(sizes), sum(sizes)) == (steps, slots)
        assert min(sizes) >= 1
        assert sizes[0] == 1 or steps == 1
    assert LocalGroupsOrder(ToyFuser(((16, 16),), 4, 2), 1, "cpu").sizes == GOLDEN_20
    assert bind().sizes == [1, 2, 4, 4, 5]


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("lpd-")])
def test_full_size_transformers_load_strictly(name):
    """The recorded manifests, and the one of XL at 512 px made of XL's."""
    preset = PRESETS[name]
    _, size, side = name.split("-")
    known = f"{size}_512" if (size, side) == ("l", "512") else size
    weights = dict(full_size(known, "lpd"))
    if name == "lpd-xl-512":
        weights["pos_embed"] = torch.empty(1, 1025, 1280, device="meta")
    converted = LPDLayout().convert(weights, **preset.hints)
    assert not converted.dropped
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    config = converted.config
    assert list(config.grid) == [int(side) // 16] * 2
    assert (config.head_dim, config.num_classes) == (64, 1000)
    assert config.repulsion == {"256": 3 if size == "xxl" else 2, "512": 4}[side]


def test_a_file_is_recognised_as_lpd_alone(tmp_path):
    path = save_part("lpd", "lpd", tmp_path)
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    layout, _ = checkpoint.find_one([path], layouts, "transformer")
    assert isinstance(layout, LPDLayout)


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        ({"depth": 6}, "of depth 3, not 6"),
        ({"num_heads": None}, "an LPD of width 128, which is no published size"),
        ({"scales": [5]}, "an LPD of 16 tokens and the scales asked for are [5]"),
    ],
)
def test_hints_that_do_not_fit_are_told(case, hints, words):
    with pytest.raises(ValueError) as caught:
        LPDLayout().convert(case.parts["lpd"], **{"num_heads": 4, **hints})
    assert words in sentence(caught)


def test_a_grid_that_is_no_square_is_told(case):
    weights = dict(case.parts["lpd"], pos_embed=torch.zeros(1, 16, 128))
    with pytest.raises(ValueError) as caught:
        LPDLayout().convert(weights, num_heads=4)
    assert "an LPD of 15 tokens" in sentence(caught)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": [1, 3, 11]}, "got steps of 15 tokens in all"),
        ({"num_steps": 17}, "got num_steps 17; this order takes 1 to 16 steps"),
        ({"num_steps": 0}, "takes 1 to 16 steps"),
    ],
)
def test_groups_that_do_not_sum_to_the_grid_are_told(options, words):
    with pytest.raises(ValueError) as caught:
        bind(**options)
    assert words in sentence(caught)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"order": "raster"}, "unknown order of LPDConfig 'raster'"),
        ({"repulsion": -1}, "got repulsion -1"),
    ],
)
def test_configs_that_cannot_be_are_told(fields, words):
    with pytest.raises(ValueError) as caught:
        LPDConfig(**fields)
    assert words in sentence(caught)
