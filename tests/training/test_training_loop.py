"""The optimisation loop: players, micro-batches, what a saved state holds, what stops it."""

from dataclasses import replace

import pytest
import torch
from tiny import sentence
from torch import nn

from arimage.training.common import Loss, Recipe
from arimage.training.loop import (
    Loop,
    Moment,
    Player,
    largest_gradients,
    moving_average,
    step_seed,
)

RECIPE = Recipe(steps=8, learning_rate=0.05, ema_decay=0.5, gradient_clip=0.5, progress=False)


class Rivals:
    """A generator and a critic of points on a line; draws noise by the step's seed."""

    def __init__(self, critic=True):
        torch.manual_seed(3)
        self.model, self.critic = nn.Linear(2, 2), nn.Linear(2, 1)
        self.players = [Player("maker", self.model, RECIPE)]
        if critic:
            self.players.append(Player("critic", self.critic, replace(RECIPE, learning_rate=0.1)))
        self.turned, self.moments, self.extra = [], [], 0.0

    def split(self, batch, count):
        return batch.chunk(count)

    def turns(self, modules, batch, moment):
        torch.manual_seed(moment.seed)
        self.moments.append(moment)
        self.turned.append("maker")
        made = modules["maker"](batch)
        loss = (made - 1).square().mean() + 0.1 * torch.rand(()) - self.critic(made).mean()
        yield "maker", Loss(loss, {"size": made.abs().mean()})
        if len(self.players) > 1 and moment.step >= 2:
            self.turned.append("critic")
            logits = modules["critic"](made.detach()) - modules["critic"](batch)
            yield "critic", Loss(logits.mean() + 0.01 * logits.square().mean())

    def after(self, moment):
        self.extra += 1
        return {"extra": torch.tensor(self.extra)}

    def state_dict(self):
        return {"extra": self.extra}

    def load_state_dict(self, state):
        self.extra = state["extra"]


def batches(count=8):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(6, 2, generator=generator) for _ in range(count)]


def run(task, start=0, stop=8, state=None, micro_batches=1):
    loop = Loop(task, RECIPE, micro_batches=micro_batches)
    if state is not None:
        loop.load_state_dict(state)
    return loop, [loop.step(batch) for batch in batches()[start:stop]]


def test_every_player_learns_from_its_start_on():
    task = Rivals()
    critic = task.critic.weight.clone()
    loop, first = run(task, stop=2)
    assert torch.equal(task.critic.weight, critic)
    assert set(first[0]) == {"loss", "size", "extra"}
    rest = [loop.step(batch) for batch in batches()[2:]]
    assert not torch.equal(task.critic.weight, critic)
    assert set(rest[0]) == {"loss", "size", "critic", "extra"}
    assert rest[-1]["extra"] == 8
    assert task.turned.count("critic") == 6
    assert rest[-1]["loss"] < first[0]["loss"]


def test_a_saved_state_goes_on_as_if_nothing_had_happened(tmp_path):
    whole, records = run(Rivals())
    half, _ = run(Rivals(), stop=3)
    torch.save(half.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again, later = run(Rivals(), start=3, state=state)
    assert later == records[3:]
    for a, b in zip(whole.task.players, again.task.players, strict=True):
        for x, y in zip(a.module.parameters(), b.module.parameters(), strict=True):
            assert torch.equal(x, y)
    assert torch.equal(whole.result.weight, again.result.weight)
    state["optimizers"]["maker"]["state"][0]["exp_avg"] += 1e-3
    _, other = run(Rivals(), start=3, state=state)
    assert other != records[3:]


def test_the_result_is_the_average_of_the_weights():
    loop, _ = run(Rivals(), stop=1)
    first = loop.task.model.weight.detach().clone()
    assert torch.equal(loop.result.weight, first)
    loop.step(batches()[1])
    second = loop.task.model.weight.detach()
    assert torch.allclose(loop.result.weight, (2 * first + 9 * second) / 11)
    assert not torch.equal(first, second)


def test_a_slow_average_of_a_short_training_has_left_the_start():
    task = Rivals(critic=False)
    task.players = [replace(task.players[0], recipe=replace(RECIPE, ema_decay=0.9999))]
    loop = Loop(task, replace(RECIPE, ema_decay=0.9999, steps=60))
    start = task.model.weight.detach().clone()
    for batch in batches(60):
        loop.step(batch)
    whole = (task.model.weight - start).norm()
    assert (loop.result.weight - start).norm() > 0.7 * whole
    assert not torch.equal(loop.result.weight, task.model.weight)
    decay = moving_average(0.5)
    averaged, current = [torch.zeros(1)], [torch.ones(1)]
    decay(averaged, current, torch.tensor(100))
    assert averaged[0] == 0.5  # the decay that was asked for, once it is reached


def test_micro_batches_give_the_gradients_of_the_whole_batch():
    _, whole = run(Rivals(critic=False), stop=4)
    task = Rivals(critic=False)
    _, parts = run(task, stop=4, micro_batches=3)
    for a, b in zip(whole, parts, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    assert [m.first for m in task.moments[:3]] == [True, False, False]
    assert [m.last for m in task.moments[:3]] == [False, False, True]


def test_a_step_names_its_draws():
    seeds = {step_seed(seed, step) for seed in range(3) for step in range(100)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert Moment(3, 12, 0).progress == 0.25


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_what_is_not_finite_stops_with_a_name_and_changes_nothing(poison):
    task = Rivals(critic=False)
    loop, _ = run(task, stop=2)
    before = [p.clone() for p in task.model.parameters()]

    def turns(modules, batch, moment):
        made = modules["maker"](batch)
        if poison == "loss":
            yield "maker", Loss(made.mean() * torch.nan, {"size": made.abs().mean()})
        else:  # sqrt at 0: a finite value with an infinite slope
            yield "maker", Loss((made - made.detach()).abs().sum().sqrt())

    task.turns = turns
    with pytest.raises(FloatingPointError) as caught:
        loop.step(batches()[2])
    what = {"loss": "the loss of maker is nan", "gradient": "the gradient norm of maker is nan"}
    assert f"{what[poison]} at step 3" in sentence(caught)
    assert "weight (nan)" in sentence(caught)
    assert loop.done == 2
    assert all(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))


def test_the_largest_gradients_are_named():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    for parameter, value in zip(model.parameters(), (1.0, torch.inf, 3.0, 2.0), strict=True):
        parameter.grad = torch.full_like(parameter, value)
    assert largest_gradients(model) == "0.bias (inf), 1.weight (3), 1.bias (2)"


def test_a_frozen_player_is_left_alone():
    task = Rivals(critic=False)
    task.model.requires_grad_(False)
    before = task.model.weight.clone()
    _, records = run(task, stop=2)
    assert torch.equal(task.model.weight, before)
    assert len(records) == 2
