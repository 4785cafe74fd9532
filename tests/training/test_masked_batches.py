"""Orders that mask tokens: micro-batches have the loss and the gradients of the whole batch."""

import pytest
import torch
from generator_runs import FAMILIES, go, recipe, tokenizer_of, write_tokens

from arimage.ar.orders.masked import MaskedOrder
from arimage.training.generator_build import build_generator_task, new_transformer
from arimage.training.generator_task import TRANSFORMER, Teaching
from arimage.training.loop import Moment
from arimage.training.run_folder import LOSSES, read_lines
from arimage.training.token_data import TokenBatch

MODEL = {**recipe("llama").model, "dropout": 0.0, "order": "masked"}
MODELS = {"masked": MODEL} | {
    family: {**recipe(family).model, "dropout": 0.0} for family in FAMILIES
}


def computed(name, micro_batches):
    """Loss and gradients of one step, as the loop adds them up."""
    model = MODELS[name]
    tokenizer = tokenizer_of(FAMILIES[model["family"]][0])
    given = recipe(model["family"], model=model, drop_path=0.0, label_dropout=0.4)
    transformer = new_transformer(model, tokenizer, 3, seed=0)
    for parameter in transformer.parameters():  # gates and the head begin near zero
        torch.nn.init.normal_(parameter, std=0.1)
    task = build_generator_task(given, transformer.train(), tokenizer)
    generator = torch.Generator().manual_seed(0)
    slots = tokenizer.slots.num_slots
    ids = torch.randint(0, 32, (8, slots), generator=generator)
    batch = TokenBatch(ids, torch.arange(8) % 3, torch.arange(8), 0)
    modules, total = {player.name: player.module for player in task.players}, 0.0
    parts = task.split(batch, micro_batches)
    for i, part in enumerate(parts):
        moment = Moment(0, 4, 7, first=i == 0, last=i == len(parts) - 1)
        for _, loss in task.turns(modules, part, moment):
            (loss.total / len(parts)).backward()
            total += loss.total.item() / len(parts)
    assert list(modules) == [TRANSFORMER]
    return [torch.tensor(total), *(p.grad for p in transformer.parameters())]


def difference(a, b):
    """The largest, of values of about one."""
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_have_the_gradients_of_the_whole(name, micro_batches):
    assert difference(computed(name, 1), computed(name, micro_batches)) < 1e-5


def test_what_they_divide_by_is_whole_numbers(monkeypatch):
    """FSDP would round others to bfloat16 on their way into the module."""
    given, forward = [], Teaching.forward

    def noted(self, *arguments):
        given.append(arguments[2:])
        return forward(self, *arguments)

    monkeypatch.setattr(Teaching, "forward", noted)
    computed("masked", 2)
    (counted, shares), _ = given
    assert len(given) == shares == 2
    assert counted.dtype == torch.int64
    assert 8 <= int(counted) <= 8 * 16


def test_the_mean_of_each_micro_batch_has_other_gradients(monkeypatch):
    """The negative twin: images are masked by different shares."""
    whole = computed("masked", 1)
    monkeypatch.setattr(MaskedOrder, "masks", False)
    assert difference(computed("masked", 1), whole) < 1e-6
    assert difference(computed("masked", 4), whole) > 1e-2


def test_a_run_of_a_masked_order_has_the_losses_of_one_without_micro_batches(tmp_path):
    data = write_tokens(tmp_path / "tokens", "vq")
    for count in (1, 2):
        given = recipe("llama", model=MODEL, drop_path=0.0, steps=3, micro_batches=count)
        go(data, tmp_path / str(count), given)
    for a, b in zip(*(read_lines(tmp_path / n / LOSSES) for n in "12"), strict=True):
        assert a == pytest.approx(b, abs=1e-5)
