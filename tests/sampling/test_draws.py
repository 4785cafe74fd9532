"""Draws follow the exact softmax in float64, and nothing of probability zero is ever drawn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny import TINY_SAMPLERS, entry, sentence, softmax64

from arimage.ar.base import Step
from arimage.sampling.noise import PerImageNoise, ReferenceNoise
from arimage.sampling.registry import SAMPLERS
from arimage.sampling.samplers.categorical import Categorical, truncate

DRAWS = 100_000
P_VALUE = 1e-3
LOGITS = torch.tensor([1.3, -0.7, 2.1, 0.0, 0.4, -2.0, 1.1, 0.9, -0.2, 1.9, -30.0])
BELOW_ONE = math.nextafter(1.0, 0.0)


def any_step(count):
    positions = torch.arange(count)
    return Step(0, 1, 0, positions, positions, 0, count, cached=False, mask=None, holds=positions)


def draw(sampler, logits, noise, count=DRAWS):
    """``count`` draws from one row of logits."""
    return sampler(logits.expand(1, count, -1), any_step(count), noise)


def follows(ids, probabilities):
    """Whether ids (n,) look drawn from the probabilities: chi-square, and nothing else occurs."""
    counts = np.bincount(ids, minlength=len(probabilities))
    possible = probabilities > 0
    if counts[~possible].any():
        return False
    expected = probabilities[possible] * len(ids)
    often = expected >= 5
    observed, expected = counts[possible], expected
    if not often.all():  # pool what is too rare for the chi-square
        observed = np.append(observed[often], observed[~often].sum())
        expected = np.append(expected[often], expected[~often].sum())
    if len(observed) == 1:
        return observed[0] == len(ids)
    return chisquare(observed, expected).pvalue > P_VALUE


CASES = [
    (name, index) for name in SAMPLERS for index in range(len(TINY_SAMPLERS.get(name, [None])))
]


def case(name, index):
    options, expected = entry("sampler", TINY_SAMPLERS, name)[index]
    return SAMPLERS[name](**options), expected


@pytest.mark.parametrize(("name", "index"), CASES)
def test_draws_follow_the_exact_softmax(name, index):
    sampler, expected = case(name, index)
    drawn = draw(sampler, LOGITS, PerImageNoise([index], "cpu"))
    probabilities = expected(LOGITS.numpy())
    assert follows(drawn.ids[0].numpy(), probabilities)


@pytest.mark.parametrize(("name", "index"), CASES)
def test_draws_off_by_one_do_not(name, index):
    sampler, expected = case(name, index)
    drawn = draw(sampler, LOGITS, PerImageNoise([index], "cpu"))
    shifted = (drawn.ids[0].numpy() + 1) % len(LOGITS)
    assert not follows(shifted, expected(LOGITS.numpy()))


class BiasedNoise(PerImageNoise):
    """Uniform numbers that are two per cent too small."""

    def uniform(self, count):
        return super().uniform(count) * 0.98


def test_a_biased_draw_does_not():
    drawn = draw(Categorical(), LOGITS, BiasedNoise([0], "cpu"))
    assert not follows(drawn.ids[0].numpy(), softmax64(LOGITS.numpy()))


@pytest.mark.parametrize(("name", "index"), [case for case in CASES if case[0] != "annealed"])
def test_log_probabilities_are_those_of_the_truncated_softmax(name, index):
    sampler, expected = case(name, index)
    drawn = draw(sampler, LOGITS, PerImageNoise([index], "cpu"), 500)
    if name == "argmax":  # documented: those of the plain softmax
        expected = softmax64
    reference = np.log(expected(LOGITS.numpy())[drawn.ids[0].numpy()])
    assert np.allclose(drawn.log_probs[0].numpy(), reference, atol=1e-5)


class FixedNoise(PerImageNoise):
    """Every uniform number is the same."""

    def __init__(self, value):
        super().__init__([0], "cpu")
        self.value = value

    def uniform(self, count):
        return torch.full((self.batch, count), self.value, dtype=torch.float64)


@pytest.mark.parametrize("value", [0.0, 5e-324, 0.5, BELOW_ONE])
@pytest.mark.parametrize("masked", [[0], [10], [0, 1, 2], [8, 9, 10], [0, 4, 5, 10]])
@pytest.mark.parametrize(("name", "index"), CASES)
def test_a_masked_token_is_never_drawn(name, index, masked, value):
    sampler, expected = case(name, index)
    logits = LOGITS.index_fill(0, torch.tensor(masked), -torch.inf)
    drawn = draw(sampler, logits, FixedNoise(value), 1)
    assert expected(logits.numpy())[drawn.ids.item()] > 0
    assert drawn.log_probs.isfinite().all()


@pytest.mark.parametrize("value", [0.0, BELOW_ONE])
def test_extreme_uniforms_hit_the_first_and_the_last_possible_token(value):
    probabilities = torch.tensor([[[0.0, 0.1, 0.0, 0.7, 0.2, 0.0]]])
    chosen = FixedNoise(value).choose(probabilities).item()
    assert chosen == (1 if value == 0 else 4)


def test_a_draw_that_may_land_on_the_right_edge_would_choose_a_masked_token():
    """The negative twin: inverting with <= instead of < takes the masked first token at 0."""
    probabilities = torch.tensor([0.0, 0.1, 0.9], dtype=torch.float64)
    wrong = torch.searchsorted(probabilities.cumsum(0), torch.zeros(1).double(), right=False)
    assert probabilities[wrong] == 0


def test_probabilities_of_any_size_may_be_drawn_from():
    weights = torch.tensor([[[1e-30, 3e-30, 0.0]]])
    noise = PerImageNoise([3], "cpu")
    ids = noise.choose(weights.expand(1, 20_000, -1))[0].numpy()
    assert follows(ids, np.array([0.25, 0.75, 0.0]))


def test_temperature_zero_is_argmax():
    logits = torch.randn(3, 7, 11)
    for sampler in (Categorical(temperature=0.0), SAMPLERS["argmax"]()):
        drawn = sampler(logits, any_step(7), PerImageNoise([1, 2, 3], "cpu"))
        assert torch.equal(drawn.ids, logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-45, 5e-324])
def test_a_tiny_temperature_is_argmax_too(temperature):
    drawn = draw(Categorical(temperature=temperature), LOGITS, PerImageNoise([0], "cpu"), 50)
    assert (drawn.ids == LOGITS.argmax()).all()
    assert (drawn.log_probs == 0).all()


def test_ties_with_the_kth_logit_stay():
    logits = torch.tensor([[[1.0, 3.0, 2.0, 2.0, 0.0]]])
    assert truncate(logits, 2, None)[0, 0].isfinite().tolist() == [False, True, True, True, False]
    assert truncate(logits, 1, None)[0, 0].isfinite().tolist() == [False, True, False, False, False]


def test_top_k_above_the_vocabulary_is_off():
    logits = LOGITS[None, None]
    wide = Categorical(top_k=1000).probabilities(logits)
    assert torch.equal(wide, Categorical().probabilities(logits))


@pytest.mark.parametrize(
    ("p", "kept"),
    [(1e-9, 1), (0.49, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.999, 4)],
)
def test_the_nucleus_is_the_smallest_set_that_reaches_p(p, kept):
    probabilities = torch.tensor([[[0.125, 0.5, 0.125 - 2**-10, 0.25, 2**-10]]])
    nucleus = truncate(probabilities.log(), None, p).softmax(-1)[0, 0]
    order = probabilities[0, 0].argsort(descending=True)
    assert (nucleus > 0).nonzero().flatten().sort().values.equal(order[:kept].sort().values)
    assert nucleus.sum().item() == pytest.approx(1)
    inside = probabilities[0, 0][order[:kept]]
    assert inside.sum() >= p
    assert inside[:-1].sum() < p


def test_ties_with_the_last_of_the_nucleus_stay():
    nucleus = truncate(torch.tensor([[[0.25, 0.4, 0.25, 0.1]]]).log(), None, 0.5).softmax(-1)[0, 0]
    assert (nucleus > 0).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("temperature", -1.0, "a number >= 0"),
        ("temperature", math.inf, "a number >= 0"),
        ("temperature", math.nan, "a number >= 0"),
        ("top_k", 0, "an integer >= 1, or None for off"),
        ("top_k", -3, "an integer >= 1, or None for off"),
        ("top_p", 0.0, "0 < top_p <= 1"),
        ("top_p", 1.5, "0 < top_p <= 1"),
        ("top_p", math.nan, "0 < top_p <= 1"),
    ],
)
def test_a_setting_out_of_range_is_told(setting, value, expected):
    with pytest.raises(ValueError) as caught:
        Categorical(**{setting: value})
    assert f"got {setting} {value}; expected {expected}" in sentence(caught)


def test_soft_choices_sum_to_one_sharpen_and_never_hold_what_is_truncated():
    sampler = Categorical(top_k=3, more_smooth=True)
    first, last = (replace(any_step(400), index=index, num_steps=7) for index in (0, 6))
    noise = [PerImageNoise([i], "cpu") for i in (1, 2)]
    soft, sharp = (
        sampler(LOGITS.expand(1, 400, -1), step, stream)
        for step, stream in zip((first, last), noise, strict=True)
    )
    for draw in (soft, sharp):
        assert torch.allclose(draw.weights.sum(-1), torch.ones(1, 400))
        assert ((draw.weights > 0).sum(-1) <= 3).all()
    assert soft.weights.max(-1).values.mean() < sharp.weights.max(-1).values.mean() - 0.02


@pytest.mark.parametrize(
    ("k", "p"), [(1, 0.5), (5, 0.3), (20, 0.9), (63, 0.99), (64, 0.9), (200, 0.7)]
)
def test_sorting_k_logits_is_as_good_as_sorting_all(k, p):
    logits = torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(k)).round(decimals=1)
    masked = truncate(logits, k, None)
    ordered = masked.softmax(-1).double().sort(-1, descending=True)
    inside = ordered.values.cumsum(-1) - ordered.values < p
    least = (
        masked.gather(-1, ordered.indices).masked_fill(~inside, torch.inf).amin(-1, keepdim=True)
    )
    assert torch.equal(truncate(logits, k, p).isfinite(), masked >= least)
    if p < 0.95:
        assert not torch.equal(truncate(logits, k, p).isfinite(), masked.isfinite()) or k == 1


@pytest.mark.parametrize("index", [0, 1])
def test_logits_with_falling_noise_are_a_softmax(index):
    """The largest of logits + h * Gumbel, with one number per token, for h = 3 and 1.5."""
    sampler, count = SAMPLERS["annealed"](temperature=0.5, choice_temperature=4.5), DRAWS
    step = replace(any_step(count), index=index, num_steps=3)
    logits, heat = LOGITS.expand(1, count, -1), 4.5 * (1 - (index + 1) / 3)
    noise = PerImageNoise([7], "cpu")
    drawn = sampler(logits, step, noise)
    assert sampler.draws(step, len(LOGITS)) == count
    expected = softmax64(LOGITS, temperature=0.5 * heat)
    assert follows(drawn.ids[0].numpy(), expected)
    assert torch.equal(drawn.log_probs[0], LOGITS[drawn.ids[0]] / 0.5)
    published = ReferenceNoise([7], "cpu").argmax(logits / 0.5, heat)
    assert follows(published[0].numpy(), expected)
    assert not follows(drawn.ids[0].numpy(), softmax64(LOGITS, temperature=heat))
