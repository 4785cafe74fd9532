"""Guidance: one formula, schedules, and which rows the model sees."""

import dataclasses
import math

import pytest
import torch
from branches import guided_logits
from tiny import MODEL_CASES, NUM_CLASSES, TINY_SCHEDULES, entry, make_model, make_order, sentence

from arimage.ar.registry import ORDERS
from arimage.sampling.guidance import (
    Constant,
    Guidance,
    Interval,
    Linear,
    LinearAfter,
    LinearBefore,
    LinearPerToken,
    Pass,
    PowerCosine,
    Schedule,
    make_schedule,
    scale_table,
    schedule_record,
)
from arimage.sampling.loop import Branch, generate, times
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.per_step import PerStep
from arimage.sampling.registry import SCHEDULES
from arimage.sampling.samplers.categorical import Categorical

CASES = [
    (name, index) for name in SCHEDULES for index in range(len(TINY_SCHEDULES.get(name, [None])))
]


def schedule_case(name, index):
    options, expected = entry("guidance schedule", TINY_SCHEDULES, name)[index]
    return SCHEDULES[name](**options), expected


@pytest.mark.parametrize(("name", "index"), CASES)
def test_s_at_each_step(name, index):
    schedule, expected = schedule_case(name, index)
    assert [schedule(3.0, i, 5) for i in range(5)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("name", "index"), CASES)
def test_a_scale_of_one_is_off_at_every_step(name, index):
    schedule, _ = schedule_case(name, index)
    assert [schedule(1.0, i, 5) for i in range(5)] == [1.0] * 5
    assert Guidance(1.0, schedule).last_active(5) == -1


@pytest.mark.parametrize(("name", "index"), CASES)
def test_the_last_active_step_is_the_last_where_s_is_not_one(name, index):
    schedule, expected = schedule_case(name, index)
    active = [i for i, s in enumerate(expected) if s != 1]
    assert Guidance(3.0, schedule).last_active(5) == active[-1]


@pytest.mark.parametrize(("name", "index"), CASES)
def test_a_schedule_comes_back_from_its_record(name, index):
    schedule, _ = schedule_case(name, index)
    record = schedule_record(schedule)
    assert record["name"] == name
    assert make_schedule(record) == schedule
    assert make_schedule(schedule) is schedule


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_name_gives_the_defaults(name):
    assert make_schedule(name) == SCHEDULES[name]()


# RAR (arXiv 2411.00776): scale, power, and s at steps 0, 64, 128, 192, 255 of 256.
RAR = {
    "B": (16.0, 2.75, [1, 1.018, 1.803, 7.404, 15.996]),
    "L": (15.5, 2.5, [1, 1.035, 2.090, 7.957, 15.497]),
    "XL": (6.9, 1.5, [1, 1.225, 2.640, 5.285, 6.900]),
    "XXL": (8.0, 1.2, [1, 1.602, 3.793, 6.628, 8.000]),
}


@pytest.mark.parametrize("size", RAR)
def test_the_power_cosine_of_rar(size):
    scale, power, golden = RAR[size]
    guidance = Guidance(scale, PowerCosine(power))
    assert [guidance.at(i, 256) for i in (0, 64, 128, 192, 255)] == pytest.approx(golden, abs=6e-4)
    other = Guidance(scale, PowerCosine(power + 0.1))
    assert other.at(128, 256) != pytest.approx(golden[2], abs=6e-4)


def test_the_linear_schedule_of_var():
    """VAR's cfg t mixes (1 + r) c - r u with r = t k/(K-1): s = 1 + t k/(K-1)."""
    cfg, steps = 1.5, 10
    guidance = Guidance(1 + cfg, Linear())
    for k in range(steps):
        ratio, c, u = cfg * k / (steps - 1), 0.7, -0.4
        s = guidance.at(k, steps)
        assert u + s * (c - u) == pytest.approx((1 + ratio) * c - ratio * u)
    assert Guidance(3.0, Linear()).at(0, 1) == 1


def test_an_interval_includes_both_ends():
    guidance = Guidance(2.0, Interval(2, 4))
    assert [guidance.at(i, 6) for i in range(6)] == [1, 1, 2, 2, 2, 1]
    assert guidance.last_active(6) == 4
    assert Guidance(2.0, Interval(3)).last_active(6) == 5


def test_an_interval_without_a_step_is_told():
    for first, last in ((-1, None), (3, 2)):
        with pytest.raises(ValueError) as caught:
            Interval(first, last)
        assert f"from step {first} to {last}; expected 0 <= first <= last" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        Guidance(2.0, Interval(6)).last_active(6)
    assert "from step 6 and 6 steps, which are counted from 0" in sentence(caught)


def test_a_schedule_is_read_from_a_text():
    assert make_schedule("interval first=1 last=2") == Interval(1, 2)
    assert make_schedule("interval first=1 last=none") == Interval(1)
    assert make_schedule("per_step shares=[0,0.5,1]") == PerStep([0, 0.5, 1])
    for text in ("interval first", "interval first=one", "interval first = 1"):
        with pytest.raises(ValueError) as caught:
            make_schedule(text)
        assert "write options as name=value without spaces" in sentence(caught)


def test_a_share_of_guidance_for_each_step():
    guidance = Guidance(3.0, PerStep([0, 0.5, 1, 0]))
    assert [guidance.at(i, 4) for i in range(4)] == [1, 2, 3, 1]
    assert guidance.last_active(4) == 2
    ramp = PerStep([k / 9 for k in range(10)])
    for k in range(10):  # VAR's ramp, written out
        assert Guidance(2.5, ramp).at(k, 10) == pytest.approx(Guidance(2.5, Linear()).at(k, 10))


def test_a_share_of_guidance_for_each_token_map_that_takes_several_steps():
    passes = [Pass(index, 3, 4) for index in (0, 1, 1, 2, 2, 2)]
    guidance = Guidance(3.0, PerStep([0, 0.5, 1]).bound(passes, 24))
    assert [guidance.at(i, 6) for i in range(6)] == [1, 2, 2, 3, 3, 3]
    one = [Pass(0, 1, 4)] * 2  # steps of one map
    assert Guidance(3.0, PerStep([0, 1]).bound(one, 8)).at(1, 2) == 3


@pytest.mark.parametrize("shares", [[], [1, -0.5], [math.nan]])
def test_shares_out_of_range_are_told(shares):
    with pytest.raises(ValueError) as caught:
        PerStep(shares)
    assert "of guidance; expected numbers >= 0, one for each step" in sentence(caught)


def test_a_list_longer_than_the_steps_is_told():
    model = make_model("var", "next_scale")  # of 3 token maps
    for shares in ([1] * 4, [1] * 2):
        guidance = Guidance(2.0, PerStep(shares))
        with pytest.raises(ValueError) as caught:
            Branch.of(model, make_order(model), torch.arange(2), guidance)
        assert f"got {len(shares)} shares of guidance for 3 steps" in sentence(caught)


@pytest.mark.parametrize("scale", [-0.5, math.nan, math.inf])
def test_a_scale_out_of_range_is_told(scale):
    with pytest.raises(ValueError) as caught:
        Guidance(scale)
    assert f"got guidance_scale {scale}; expected a number >= 0, where 1 is off" in sentence(caught)


def test_what_is_not_a_schedule_is_told():
    with pytest.raises(KeyError) as caught:
        make_schedule("linaer")
    assert "unknown guidance schedule 'linaer'. Did you mean 'linear'" in sentence(caught)
    with pytest.raises(KeyError) as caught:
        make_schedule({"name": "power_cosine", "powr": 2.0})
    assert "unknown option of the guidance schedule 'power_cosine' 'powr'" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        PowerCosine(0.0)
    assert "got power 0.0; expected a number above 0" in sentence(caught)


def test_a_schedule_that_is_not_registered_cannot_be_recorded():
    class Mine(Schedule):
        def __call__(self, scale, index, num_steps):
            return scale

    with pytest.raises(ValueError) as caught:
        schedule_record(Mine())
    assert "Mine is not a registered guidance schedule" in sentence(caught)


def rows_seen(name, order, guidance, batch=2):
    """Rows of every pass of the model, and steps."""
    model = make_model(name, order)
    bound = make_order(model, **({"num_steps": 4} if order == "masked" else {}))
    rows = []

    def spy(module, arguments):
        inputs, context, _, cache = arguments
        assert inputs is None or len(inputs) == len(context.prefix)
        held = (getattr(cache, f.name) for f in dataclasses.fields(cache)) if cache else ()
        for kept in held:  # a tensor for each layer, or one whose first axis are layers
            layers = kept if isinstance(kept, tuple) else kept.unbind()
            assert all(len(memory) == len(context.prefix) for memory in layers)
        rows.append(len(context.prefix))

    handle = model.register_forward_pre_hook(spy)
    branch = Branch.of(model, bound, torch.arange(batch), guidance)
    list(generate([branch], bound, Categorical(), PerImageNoise(range(batch), "cpu")))
    handle.remove()
    return rows, bound.num_steps


def remembers(name, order):
    """Whether later steps read what earlier ones keep: keys and values, or a memory of its own."""
    own = make_model(name, order).new_cache(1, torch.device("meta"))
    return ORDERS[order].cached or own is not None


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_null_rows_do_not_exist_where_guidance_is_off(name, order):
    rows, steps = rows_seen(name, order, Guidance())
    assert rows == [2] * steps


@pytest.mark.parametrize("schedule", [Constant(), Linear()])
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_null_rows_live_from_the_first_step(name, order, schedule):
    """Where something is remembered; elsewhere in the steps with guidance alone."""
    rows, steps = rows_seen(name, order, Guidance(2.0, schedule))
    first = 4 if remembers(name, order) or schedule == Constant() else 2
    assert rows == [first] + [4] * (steps - 1)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_null_rows_are_dropped_after_the_last_active_step(name, order):
    for schedule in (Interval(1, 1), Linear(last=1)):
        rows, steps = rows_seen(name, order, Guidance(2.0, schedule))
        first = 4 if remembers(name, order) else 2
        assert rows == [first, 4] + [2] * (steps - 2)


@torch.no_grad()
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_guidance_mixes_logits_as_its_formula_says(name, order):
    """The first step, mixed before the head, against logits mixed after it."""
    model = make_model(name, order)
    bound = make_order(model)
    labels, step, batch = torch.arange(2), bound.step(0), 2
    inputs = bound.inputs(bound.start(PerImageNoise([0, 1], "cpu")), step)
    context = [model.prepare(x) for x in (labels, torch.full_like(labels, NUM_CLASSES))]
    c, u = (model.heads[0](model.within(model(inputs, each, step), [])) for each in context)
    for scale in (0.0, 0.5, 4.0):
        guidance = Guidance(scale, Constant())
        branch = Branch.of(model, bound, labels, guidance)
        mixed = guided_logits(branch, inputs, step, batch)
        assert (mixed - (u + scale * (c - u))).abs().max() < 1e-5
        assert (mixed - (c + scale * (c - u))).abs().max() > 1e-3  # another convention


SIZES = (1, 2, 5)


def over(schedule, sizes, num_slots):
    """The schedule for steps of so many tokens of one map."""
    return schedule.bound([Pass(0, 1, size) for size in sizes], num_slots)


def over_tokens(schedule):
    guidance = Guidance(5.0, over(schedule, SIZES, 8))
    return [guidance.at(i, len(SIZES)) for i in range(len(SIZES))]


def test_s_over_the_tokens_done():
    assert over_tokens(LinearAfter()) == [1.5, 2.5, 5.0]
    assert over_tokens(LinearBefore()) == [1.0, 1.5, 2.5]
    assert over_tokens(LinearBefore(2.0)) == [2.0, 2.375, 3.125]
    assert over_tokens(Linear()) == [1.0, 3.0, 5.0]  # of steps, as before


def test_s_of_each_token():
    """Steps of 1, 2 and 5 tokens: token i of 8 has 1 + 4 i / 8."""
    found = over_tokens(LinearPerToken())
    assert [s.shape for s in found] == [(1, 1), (2, 1), (5, 1)]
    assert torch.cat(found).flatten().tolist() == [1 + i / 2 for i in range(8)]
    table = scale_table(Guidance(5.0, over(LinearPerToken(), SIZES, 8)), 3)
    assert table.tolist() == [[1, 0, 0, 0, 0], [1.5, 2, 0, 0, 0], [2.5, 3, 3.5, 4, 4.5]]
    assert Guidance(1.0, over(LinearPerToken(), SIZES, 8)).last_active(3) == -1


def test_a_token_is_guided_by_its_own_s():
    hidden, s = torch.ones(2, 3, 4), torch.tensor([[1.0], [2.0], [3.0]]).double()
    expected = torch.tensor([1.0, 2.0, 3.0])[:, None].expand(2, 3, 4)
    assert torch.equal(times(hidden, s), expected)
    assert times(hidden.bfloat16(), s).dtype == torch.bfloat16


def test_where_steps_overlap_each_counts_as_one():
    """As in the masked order, whose steps predict every slot."""
    guidance = Guidance(5.0, over(LinearAfter(), (8, 8), 8))
    assert [guidance.at(i, 2) for i in range(2)] == [3.0, 5.0]
