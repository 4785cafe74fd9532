"""Annealed conditions: the formula, which condition each step sees, seeds, mistakes."""

import pytest
import torch
from tiny import MODEL_CASES, NUM_CLASSES, make_condition, make_generator, make_model, make_order
from tiny import sentence as said

from arimage.sampling.cads import CADS, anneal, context_of, moments
from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.argmax import Argmax
from arimage.sampling.settings import Settings

HALF = CADS(tau1=0.5, tau2=1.0, noise_scale=0.5)


def test_the_condition_comes_back_linearly():
    assert [HALF.strength(i, 8) for i in range(8)] == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    late = CADS(tau1=0, tau2=0.5)
    assert [late.strength(i, 4) for i in range(4)] == [0, 0, 0, 0.5]
    assert [CADS(noise_scale=0).strength(i, 4) for i in range(4)] == [1] * 4


def test_the_mixture_of_the_paper():
    """sqrt(gamma) y + s sqrt(1 - gamma) n; with psi = 1 of y's mean and standard deviation."""
    y, n = torch.randn(3, 50) * 2 + 1, torch.randn(3, 50)
    plain = CADS(noise_scale=0.5, rescale=0).mix(y, n, 0.64)
    torch.testing.assert_close(plain, 0.8 * y + 0.3 * n)
    whole = CADS(noise_scale=0.5, rescale=1).mix(y, n, 0.64)
    torch.testing.assert_close(moments(whole), moments(y))
    half = CADS(noise_scale=0.5, rescale=0.5).mix(y, n, 0.64)
    torch.testing.assert_close(half, (plain + whole) / 2)
    torch.testing.assert_close(CADS(rescale=1).mix(y, n, 1.0), y)


@torch.no_grad()
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_the_context_of_the_embeddings_of_labels_is_that_of_the_labels(name, order):
    model = make_model(name, order)
    bound, labels = make_order(model), torch.tensor([0, 2, 2, NUM_CLASSES])
    state = bound.start(PerImageNoise(range(4), "cpu"))
    step = bound.placed(bound.step(0), state)
    inputs = bound.inputs(state, step)
    given = context_of(model, model.class_embedding(labels))
    found, expected = (model(inputs, c, step) for c in (given, model.prepare(labels)))
    assert (found - expected).abs().max() < 1e-5
    assert model.class_embedding.num_embeddings == NUM_CLASSES + 1  # the model is as it was


def run(name, order, annealing, guidance=1.0, seeds=(0, 1)):
    model = make_model(name, order)
    bound, labels = make_order(model), torch.arange(len(seeds))
    noise = PerImageNoise(seeds, "cpu")
    branch = Branch.of(model, bound, labels, Guidance(guidance))
    if annealing is not None:
        branch = anneal(branch, labels, annealing, noise)
    *_, state = generate([branch], bound, Argmax(), noise)
    return state.ids, branch


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_without_noise_nothing_changes(name, order):
    if make_model(name, order).new_cache(1, torch.device("meta")) is not None:
        with pytest.raises(ValueError) as caught:
            run(name, order, CADS())
        assert "keeps a state without rows; leave annealing out" in said(caught)
        return
    plain, _ = run(name, order, None, 2.0)
    assert torch.equal(run(name, order, CADS(noise_scale=0), 2.0)[0], plain)
    brief = CADS(tau1=0.999, tau2=1.0, rescale=0.0)  # the first step alone sees no class
    assert brief.strength(0, 16) == 0
    assert brief.strength(1, 16) == 1


def first_rows(cache):
    return torch.stack([memory[:, :, 0] for memory in cache.values])


def test_each_step_sees_its_own_condition():
    """The rows that a step reads of the class, in the cache too, are those of its strength."""
    model = make_model("llama", "raster")
    bound, labels = make_order(model), torch.arange(2)
    noise, seen = PerImageNoise([3, 4], "cpu"), []
    branch = anneal(Branch.of(model, bound, labels, Guidance(2.0)), labels, HALF, noise)
    for state in generate([branch], bound, Argmax(), noise):
        seen.append(first_rows(branch.cache))
        i = state.step - 1
        strength = HALF.strength(i, 16)
        rows = HALF.mix(branch.rows, noise.normal(32, i).float(), strength)
        rows = branch.rows if strength == 1 else rows
        rows = torch.cat([rows, branch.null.expand(2, -1)])
        fresh = Branch.of(model, bound, labels, Guidance(2.0))
        with torch.no_grad():
            model(None, context_of(model, rows), bound.step(0), fresh.cache)
        assert torch.equal(first_rows(fresh.cache), seen[-1])
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[8], seen[15])  # annealed
    assert torch.equal(seen[0][:, 2:], seen[15][:, 2:])  # no class stays no class


def test_an_image_follows_from_its_seed():
    for name, order in (("var", "next_scale"), ("rar", "raster")):
        generator = make_generator(name, order, annealing=HALF, guidance_scale=2.0)
        whole = generator([0, 1, 2], seeds=[5, 6, 7], output_type="pixels").ids
        again = generator([0, 1, 2], seeds=[5, 6, 7], batch_size=2, output_type="pixels").ids
        assert torch.equal(whole, again)
        plain = generator([0, 1, 2], seeds=[5, 6, 7], annealing=None, output_type="pixels").ids
        assert not torch.equal(whole, plain)


def test_noise_is_normal_and_leaves_the_other_draws_alone():
    noise, other = PerImageNoise([8, 9], "cpu"), PerImageNoise([8, 9], "cpu")
    rows = noise.normal(4000, 3)
    assert rows.mean().abs() < 0.05
    assert (rows.std() - 1).abs() < 0.05
    assert torch.equal(noise.uniform(5), other.uniform(5))
    assert torch.equal(PerImageNoise([9], "cpu").normal(4000, 3), rows[1:])
    assert not torch.equal(noise.normal(4000, 4), rows)


def test_compiled_generation_says_that_it_is_plain():
    generator = make_generator("var", "next_scale", annealing="cads")
    plain = generator([0, 1], seeds=0, output_type="pixels").ids
    with pytest.warns(UserWarning, match="annealing makes another context at every step"):
        made = generator.compile("trace")([0, 1], seeds=0, output_type="pixels").ids
    assert torch.equal(made, plain)


def test_settings_read_and_keep_it():
    settings = Settings(annealing="cads tau1=0.5 noise_scale=0.1")
    assert settings.condition_annealing() == CADS(tau1=0.5, noise_scale=0.1)
    record = settings.to_json()
    assert record["annealing"]["tau1"] == 0.5
    assert Settings.from_json(record).condition_annealing() == settings.condition_annealing()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"annealing": "cads tau1=0.9 tau2=0.5"}, "expected 0 <= tau1 < tau2 <= 1"),
        ({"annealing": "cads noise_scale=-1"}, "got noise_scale -1 and rescale 1.0"),
        ({"annealing": "cads tau3=1"}, "unknown option of the annealing 'cads' 'tau3'"),
        ({"annealing": "cds"}, "unknown annealing 'cds'. Did you mean 'cads'"),
        ({"annealing": "cads", "rng": "reference"}, "leave out guide_scale and rng='reference'"),
        ({"annealing": "cads", "guide": "x", "guide_scale": 2}, "leave out guide_scale"),
    ],
)
def test_settings_that_do_not_go_together_are_told(settings, message):
    with pytest.raises((ValueError, KeyError)) as caught:
        Settings(**settings)
    assert message in said(caught)


def test_a_model_without_classes_is_told():
    model = make_model("llama_text", "raster")
    order, condition = make_order(model), make_condition(model, [0, 1])
    branch = Branch.of(model, order, condition, Guidance())
    with pytest.raises(ValueError) as caught:
        anneal(branch, condition, CADS(), PerImageNoise([0, 1], "cpu"))
    assert "LlamaTextModel has none; leave annealing out" in said(caught)
