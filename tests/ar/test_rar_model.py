"""RAR: adaLN once per call, the next slot as an input, paths, and its start."""

import dataclasses

import pytest
import torch
from tiny import NUM_CLASSES, make_generator, make_model, make_order, sentence
from torch import nn

from arimage.ar import rar
from arimage.ar.orders.random import RandomOrder, random_paths
from arimage.ar.rar import RARConfig, RARModel
from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.planner import fitting_batch, image_bytes
from arimage.sampling.samplers.argmax import Argmax
from arimage.sampling.samplers.categorical import Categorical
from arimage.training.fine_tune import with_classes

LABELS = torch.tensor([2, 0, 2, 2, 1])


def make_states(model, order, labels=LABELS, sampler=None):
    branch = Branch.of(model, order, labels, Guidance(3.0))
    noise = PerImageNoise(range(len(labels)), "cpu")
    return list(generate([branch], order, sampler or Categorical(), noise))


@pytest.fixture(params=["raster", "random"])
def model(request):
    return make_model("rar", request.param)


@pytest.fixture
def no_tables(monkeypatch):
    monkeypatch.setattr(rar, "TABLE_BYTES", 0)


def full(model, labels):
    order = make_order(model)
    ids = torch.randint(0, model.config.vocab_size, (len(labels), order.num_slots))
    lesson = order.lesson(ids, torch.Generator().manual_seed(0))
    return model.head(model(lesson.inputs, model.prepare(labels), lesson.step))


def test_tables_and_single_steps_are_equal(model, monkeypatch):
    with torch.no_grad():
        torch.manual_seed(1)
        assert model.prepare(LABELS).tables is not None
        with_tables, ids = full(model, LABELS), make_states(model, make_order(model))[-1].ids
        monkeypatch.setattr(rar, "TABLE_BYTES", 0)
        torch.manual_seed(1)
        assert model.prepare(LABELS).tables is None
        without = full(model, LABELS)
        assert torch.allclose(with_tables, without, atol=1e-5)
        assert not torch.allclose(with_tables, without.roll(1, 1), atol=1e-2)
        assert torch.equal(ids, make_states(model, make_order(model))[-1].ids)


def test_a_table_of_another_class_or_place_is_noticed(model):
    with torch.no_grad():
        order = make_order(model)
        ids = torch.randint(0, 32, (5, 16))
        lesson = order.lesson(ids, torch.Generator().manual_seed(0))
        context = model.prepare(LABELS)
        right = model(lesson.inputs, context, lesson.step)
        shifted = tuple(table.roll(1, 0) for table in context.tables)
        swapped = tuple(table.roll(1, 1) for table in context.tables)
        for tables in (shifted, swapped):
            wrong = dataclasses.replace(context, tables=tables)
            assert not torch.allclose(model(lesson.inputs, wrong, lesson.step), right, atol=1e-2)


class Counter:
    """Shapes of what goes into each adaLN projection."""

    def __init__(self, model):
        self.calls = {}
        for name, module in model.named_modules():
            if "modulation" in name and isinstance(module, nn.Linear):
                self.calls[name] = []
                module.register_forward_pre_hook(self.hook(name))

    def hook(self, name):
        def note(module, arguments):
            self.calls[name].append(tuple(arguments[0].shape[:-1]))

        return note


def test_modulation_is_one_product_per_layer_and_call(model):
    """17 positions, 3 classes and the null class once, for 5 images and their null rows."""
    counter = Counter(model)
    make_states(model, make_order(model))
    assert len(counter.calls) == model.config.depth + 1
    assert all(calls == [(17, 4)] for calls in counter.calls.values())


def test_without_room_it_is_one_product_per_layer_and_step_of_distinct_classes(model, no_tables):
    counter = Counter(model)
    make_states(model, make_order(model))
    assert all(calls == [(2, 4)] + [(1, 4)] * 15 for calls in counter.calls.values())


def test_only_the_new_position_is_sent(model):
    sent = []
    model.register_forward_pre_hook(lambda module, arguments: sent.append(arguments[0]))
    states = make_states(model, make_order(model))
    assert sent[0] is None
    assert [tuple(ids.shape) for ids in sent[1:]] == [(10, 1)] * 15  # images and null rows
    for before, ids in zip(states, sent[1:], strict=False):
        slots = before.path[:, before.step - 1 : before.step] if before.path is not None else None
        last = before.ids[:, before.step - 1 : before.step]
        last = last if slots is None else before.ids.gather(1, slots)
        assert torch.equal(ids, torch.cat([last, last]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_planner_knows_the_tables(model, dtype):
    model = model.to(dtype)
    one, most = model.table_bytes
    for labels in (torch.tensor([1]), torch.tensor([0, 1, 3, 1])):
        tables = model.prepare(labels).tables
        held = sum(table.numel() * table.element_size() for table in tables)
        assert held == one * len(labels.unique())
    assert most == rar.TABLE_BYTES
    order, guidance = make_order(model), Guidance(2.0)
    image = image_bytes(model, order, guidance, 0)
    count = fitting_batch(image, 10 * image + 11 * one, one, most)
    assert count == 10
    assert fitting_batch(image, 10 * image + 11 * one - 1, one, most) == 9


def test_large_batches_need_no_more_than_the_bound():
    assert fitting_batch(100, 1000, table=50, most=400) == 6  # 6 * 100 + 400; 6 * 150 + 50
    assert fitting_batch(100, 2000, table=50, most=400) == 16  # 16 * 100 + 400 < 16 * 150 + 50
    assert fitting_batch(100, 60, table=50, most=400) == 1


def test_the_generator_plans_with_the_tables(monkeypatch):
    generator = make_generator("rar", "raster")
    gib = 2**30
    plain = generator.plan(0.02)
    monkeypatch.setattr(RARModel, "table_bytes", property(lambda self: (gib // 100, gib)))
    assert 1 == generator.plan(0.02) < plain


def test_logits_depend_on_the_slot_that_they_are_for(model):
    """Tokens and their places stay; only what comes next is another slot."""
    ids = torch.randint(0, 32, (1, 16))
    order = RandomOrder(make_order(model).fuser, 2, "cpu", torch.randperm(16))
    lesson = order.lesson(ids, torch.Generator())
    last_two = lesson.step.slots[:, [*range(14), 15, 14]]
    other = dataclasses.replace(lesson.step, slots=last_two)
    with torch.no_grad():
        context = model.prepare(torch.tensor([0]))
        a, b = (model.head(model(lesson.inputs, context, s)) for s in (lesson.step, other))
    assert torch.allclose(a[:, :14], b[:, :14], atol=1e-5)
    assert (a[:, 14] - b[:, 14]).abs().max() > 1e-3


def test_a_given_path_is_followed():
    model = make_model("rar", "random")
    path = torch.arange(16).flip(0)
    states = make_states(model, make_order(model, path=path), sampler=Argmax())
    for number, state in enumerate(states, 1):
        assert (state.ids[:, -number:] >= 0).all()
        assert (state.ids[:, :-number] == -1).all()


def test_raster_as_a_path_is_raster():
    model = make_model("rar", "random")
    along = make_states(model, make_order(model, path=torch.arange(16)))[-1].ids
    model.config.order = "raster"
    assert torch.equal(along, make_states(model, make_order(model))[-1].ids)


def test_paths_come_from_seeds():
    order = make_order(make_model("rar", "random"))
    path = order.start(PerImageNoise([4, 7, 4], "cpu")).path
    assert torch.equal(path[0], path[2])
    assert not torch.equal(path[0], path[1])
    assert torch.equal(path.sort(1).values, torch.arange(16).expand(3, -1))
    assert torch.equal(order.start(PerImageNoise([7], "cpu")).path[0], path[1])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_lessons_is_in_random_order(share):
    paths = random_paths(2000, 16, share, torch.Generator().manual_seed(0))
    assert torch.equal(paths.sort(1).values, torch.arange(16).expand(2000, -1))
    moved = (paths != torch.arange(16)).any(1)
    assert moved.float().mean().item() == pytest.approx(share, abs=0.03)
    if share:
        counts = torch.bincount(paths[moved][:, 0], minlength=16) / moved.sum()
        assert (counts - 1 / 16).abs().max() < 0.03  # every slot comes first equally often


def test_a_lesson_on_paths_teaches_the_tokens_there():
    order = make_order(make_model("rar", "random"))
    ids = torch.randint(0, 32, (6, 16))
    lesson = order.lesson(ids, torch.Generator().manual_seed(3))
    assert torch.equal(lesson.targets, ids.gather(1, lesson.step.slots))
    assert torch.equal(lesson.inputs, ids.gather(1, lesson.step.holds[:, 2:]))
    assert torch.equal(lesson.step.holds[:, 2:], lesson.step.slots[:, :-1])
    assert (lesson.step.holds[:, :2] == -1).all()


@pytest.mark.parametrize("wrong", [torch.arange(15), torch.zeros(16, dtype=torch.long)])
def test_a_path_that_is_none_is_told(wrong):
    with pytest.raises(ValueError) as caught:
        make_order(make_model("rar", "random"), path=wrong)
    assert "is no permutation of the 16 slots" in sentence(caught)


def test_as_many_paths_as_images_or_one():
    path = torch.arange(16).expand(3, -1)
    order = make_order(make_model("rar", "random"), path=path)
    ids = torch.zeros(2, 16, dtype=torch.long)
    for ask in (
        lambda: order.start(PerImageNoise([0, 1], "cpu")),
        lambda: order.lesson(ids, torch.Generator()),
    ):
        with pytest.raises(ValueError) as caught:
            ask()
        assert "got 3 paths for 2 images; give one per image" in sentence(caught)


def test_other_classes_keep_the_rest():
    old = make_model("rar", "raster")
    new = with_classes(old, 5, seed=0)
    before, after = old.state_dict(), new.state_dict()
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert changed == ["class_embedding.weight"]
    assert torch.equal(after[changed[0]][-1], before[changed[0]][-1])


def test_it_starts_as_published():
    """Blocks that do nothing, std 0.02 elsewhere, zero biases: bytedance/1d-tokenizer rar.py."""
    model = RARModel(RARConfig(width=64, vocab_size=64, depth=3))
    for name, parameter in model.named_parameters():
        if "modulation" in name or name == "start" or name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 30, "num_heads": 4}, "width 30 is not a multiple of num_heads 4"),
        ({"grid": (4,)}, "got grid [4]; expected [height, width]"),
        ({"order": "masked"}, "unknown order of RARConfig 'masked'"),
        ({"mlp_hidden": 0}, "got mlp_hidden 0"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(fields, words):
    with pytest.raises(ValueError) as caught:
        RARConfig(**fields)
    assert words in sentence(caught)


def test_every_class_is_its_own():
    model = make_model("rar", "raster")
    with torch.no_grad():
        torch.manual_seed(5)
        logits = full(model, torch.arange(NUM_CLASSES + 1))
    assert len({tuple(row.flatten().tolist()) for row in logits[:, 0]}) == NUM_CLASSES + 1
