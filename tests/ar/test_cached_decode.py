"""Incremental cached decode = full forward under the order's decoding rule.

To 1e-5 in float32, and for all sizes to 2e-6 in float64, where only the last cast to float32
rounds: some tiny models magnify float32's rounding above 1e-5, with a cache and without.
"""

import dataclasses

import pytest
import torch
from tiny import NUM_CLASSES, SIZED_MODEL_CASES, Recorder, make_condition, make_model, make_order

from arimage.ar.base import UNKNOWN, Draw, Known
from arimage.ar.orders.random import RandomOrder
from arimage.ar.parts import split_ids
from arimage.ar.registry import ORDERS
from arimage.sampling.cache import StaticCache
from arimage.sampling.guidance import Constant, Guidance, Linear
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise

TOLERANCE, DOUBLE_TOLERANCE = 1e-5, 2e-6
GUIDANCES = {
    "off": Guidance(),
    "constant": Guidance(2.5, Constant()),
    "linear": Guidance(3.0, Linear()),
}


def random_ids(model, batch, seed=3):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, model.slots.num_slots)
    return torch.randint(0, model.config.vocab_size, shape, generator=generator)


def in_slot_order(logits, slots):
    """(b, n, v) logits of ``slots``, sorted by slot."""
    return torch.empty_like(logits).scatter(1, slots.unsqueeze(-1).expand_as(logits), logits)


@dataclasses.dataclass(frozen=True)
class Forced(Recorder):
    """Keeps the logits and takes the parts of given ids."""

    ids: torch.Tensor | None = None
    sizes: tuple[int, ...] = ()

    def __call__(self, logits, step, noise):
        super().__call__(logits, step, noise)
        part = (len(self.logits) - 1) % len(self.sizes)
        ids = self.ids.gather(1, step.slots.expand(logits.shape[:2]))
        return Draw(split_ids(ids, self.sizes)[part], logits.new_zeros(logits.shape[:2]))

    def steps(self):
        """Logits of all parts side by side, and slots, of each step."""
        parts = len(self.sizes)
        sides = [self.logits[i : i + parts] for i in range(0, len(self.logits), parts)]
        return [torch.cat(side, dim=-1) for side in sides], self.slots[::parts]


def cached_logits(model, order, ids, condition, guidance, cache=None):
    """What the loop sees when every token is forced, by slot; the slots of each step."""
    recorder = Forced(ids=ids, sizes=model.parts)
    branch = Branch.of(model, order, condition, guidance)
    if cache is not None:
        branch = dataclasses.replace(branch, cache=cache(branch.cache))
    known = Known(ids, torch.ones_like(ids, dtype=torch.bool))
    noise = PerImageNoise(range(len(ids)), "cpu")
    *_, last = generate([branch], order, recorder, noise, known)
    assert torch.equal(last.ids, ids)
    logits, slots = recorder.steps()
    return in_slot_order(torch.cat(logits, dim=1), torch.cat(slots, dim=1)), slots


@torch.no_grad()
def full_logits(model, order, ids, condition, guidance, step=None):
    """One uncached pass with and without the condition, mixed slot by slot, by slot."""
    lesson = order.replay(ids, torch.Generator())
    c, u = both(model, lesson.inputs, condition, step or lesson.step, lesson.targets)
    scales = [guidance.at(s.index, s.num_steps) for s in map(order.step, range(order.num_steps))]
    lengths = [order.step(i).predicts for i in range(order.num_steps)]
    s = torch.tensor(scales).repeat_interleave(torch.tensor(lengths))[:, None]
    return in_slot_order(u + s * (c - u), lesson.step.slots.expand_as(ids))


def both(model, inputs, condition, step, targets=None):
    """Logits with a condition and without, of all parts of the tokens side by side."""
    rows = condition, model.with_null(condition)[len(condition) :]
    chosen = [] if targets is None else split_ids(targets, model.parts)
    for row in rows:
        hidden = model(inputs, model.prepare(row), step)
        parts = (head(model.within(hidden, chosen[:i])) for i, head in enumerate(model.heads))
        yield torch.cat(list(parts), dim=-1)


def gap(model, order, batch, guidance, *, cache=None, blind=False):
    """The largest difference between the two, for random tokens and labels."""
    ids = random_ids(model, batch)
    condition = make_condition(model, torch.arange(batch) % NUM_CLASSES)
    cached, slots = cached_logits(model, order, ids, condition, guidance, cache)
    if isinstance(order, RandomOrder):
        order = make_order(model, path=torch.cat(slots, dim=1))
        assert batch == 1 or not torch.equal(order.path[0], order.path[1])
    step = order.replay(ids, torch.Generator()).step
    step = dataclasses.replace(step, mask=None) if blind else step
    full = full_logits(model, order, ids, condition, guidance, step)
    assert cached.std() > 0.1, "the comparison means nothing: the logits hardly vary"
    return (cached - full).abs().max()


UNCACHED = ("masked", "halton", "bits")  # orders that embed everything at every step
CAUSAL = [case for case in SIZED_MODEL_CASES if case[1] not in UNCACHED]
CACHED = [case for case in CAUSAL if ORDERS[case[1]].cached]
MASKED = [case for case in SIZED_MODEL_CASES if case[1] in UNCACHED]


# The first size in every way, the others in the fullest.
WAYS = [
    (*case, batch, guidance)
    for case in CAUSAL
    for batch in (1, 3)
    for guidance in GUIDANCES
    if case[2] == 0 or (batch, guidance) == (3, "linear")
]


@pytest.mark.parametrize(("name", "order", "size", "batch", "guidance"), WAYS)
def test_cached_decode_equals_the_full_forward(name, order, size, batch, guidance):
    model = make_model(name, order, size)
    if size == 0:
        assert gap(model, make_order(model), batch, GUIDANCES[guidance]) <= TOLERANCE
    model.double()
    assert gap(model, make_order(model), batch, GUIDANCES[guidance]) <= DOUBLE_TOLERANCE


@pytest.mark.parametrize(("name", "order", "size"), CAUSAL)
def test_a_full_forward_that_sees_the_future_differs(name, order, size):
    model = make_model(name, order, size)
    bound = make_order(model)
    assert gap(model, bound, 2, Guidance(), blind=True) > 100 * TOLERANCE


class CorruptedCache(StaticCache):
    """The keys of the first position are lost after they were written."""

    def update(self, layer, step, keys, values):
        keys, values = super().update(layer, step, keys, values)
        if step.start:
            values = values.clone()
            values[:, :, 0] = 0
        return keys, values


@pytest.mark.parametrize(("name", "order", "size"), CACHED)
def test_a_corrupted_cache_row_differs(name, order, size):
    model = make_model(name, order, size)

    def corrupted(cache):
        return CorruptedCache(cache.keys, cache.values)

    assert gap(model, make_order(model), 2, Guidance(), cache=corrupted) > 100 * TOLERANCE


def reach(model, order, slot):
    """Slots whose logits change when the token of ``slot`` does."""
    ids = random_ids(model, 1)
    other = ids.clone()
    other[:, slot] = (ids[:, slot] + 1) % model.config.vocab_size
    condition = make_condition(model, [0])
    runs = (cached_logits(model, order, i, condition, Guidance())[0] for i in (ids, other))
    before, after = runs
    return set((before - after).abs().amax((0, 2)).gt(1e-4).nonzero().flatten().tolist())


@pytest.mark.parametrize(("name", "order", "size"), CAUSAL)
def test_a_token_reaches_every_later_group_and_no_earlier_one(name, order, size):
    model = make_model(name, order, size)
    bound = make_order(model)
    condition = make_condition(model, [0])
    _, slots = cached_logits(model, bound, random_ids(model, 1), condition, Guidance())
    later = {int(slot) for step in slots[2:] for slot in step[0]}
    slot = int(slots[1][0, -1])
    own = {slot} if len(model.parts) > 1 else set()  # its second part is chosen given the first
    assert reach(model, bound, slot) == later | own


@pytest.mark.parametrize(("name", "order", "size"), SIZED_MODEL_CASES)
def test_the_condition_matters(name, order, size):
    model = make_model(name, order, size)
    bound = make_order(model)
    lesson = bound.lesson(random_ids(model, 1), torch.Generator().manual_seed(0))
    lesson = dataclasses.replace(lesson, inputs=lesson.inputs.expand(2, *lesson.inputs.shape[1:]))
    with torch.no_grad():
        context = model.prepare(make_condition(model, [0, 1]))
        logits = model.head(model(lesson.inputs, context, lesson.step))
    assert (logits[0] - logits[1]).abs().amax(-1).min() > 1e-4


def masked_gap(model, order, batch, guidance, *, reveal=False):
    """Per step: the loop's logits against an uncached pass over the tokens known before it."""
    recorder, labels = Recorder(), torch.arange(batch) % NUM_CLASSES
    branch = Branch.of(model, order, labels, guidance)
    ids = random_ids(model, batch)
    known = Known(ids, torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.3)
    noise = PerImageNoise(range(batch), "cpu")
    before = torch.where(known.mask, known.ids, UNKNOWN)
    gaps = []
    for state in generate([branch], order, recorder, noise, known):
        step = order.step(state.step - 1)
        seen = torch.where(before == UNKNOWN, 0, before) if reveal else before
        with torch.no_grad():
            c, u = both(model, seen, labels, order.full_step())
        s = guidance.at(step.index, step.num_steps)
        assert recorder.logits[-1].std() > 0.1
        full, slots = u + s * (c - u), recorder.slots[-1]
        rows = full.gather(1, slots.unsqueeze(-1).expand(-1, -1, full.shape[-1]))
        gaps.append((recorder.logits[-1] - rows).abs().max())
        before = torch.where(known.mask, known.ids, state.ids)
    assert (before != UNKNOWN).all()
    return max(gaps)


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("name", "order", "size"), MASKED)
def test_each_masked_step_equals_an_uncached_forward(name, order, size, batch, guidance):
    model = make_model(name, order, size)
    bound = make_order(model, num_steps=3)
    assert masked_gap(model, bound, batch, GUIDANCES[guidance]) <= TOLERANCE


@pytest.mark.parametrize(("name", "order", "size"), MASKED)
def test_a_masked_step_that_reveals_tokens_differs(name, order, size):
    model = make_model(name, order, size)
    bound = make_order(model, num_steps=3)
    assert masked_gap(model, bound, 2, Guidance(), reveal=True) > 100 * TOLERANCE
