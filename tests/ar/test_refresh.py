"""Halton passes that reuse keys and values: exact in one block, an approximation in more."""

import pytest
import torch
from tiny import Recorder, make_generator, make_model, make_order, sentence

from arimage.ar.base import Known
from arimage.sampling.guidance import Guidance
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.categorical import Categorical
from arimage.sampling.settings import Settings


@torch.no_grad()
def states(size, refresh, known=None, seeds=(0, 1, 2), sampler=None, **options):
    """The states of a tiny model."""
    model = make_model("halton", "halton", size)
    order = make_order(model, num_steps=9, refresh=refresh, **options)
    branch = Branch.of(model, order, torch.arange(len(seeds)) % 3, Guidance(2.0))
    noise = PerImageNoise(seeds, "cpu")
    return order, list(generate([branch], order, sampler or Categorical(), noise, known))


@pytest.mark.parametrize("rolled", [True, False])
@pytest.mark.parametrize("refresh", [2, 4, 100])
def test_in_one_block_nothing_is_stale(refresh, rolled):
    _, plain = states(1, None, rolled=rolled)
    order, reused = states(1, refresh, rolled=rolled)
    assert order.cached
    assert torch.equal(reused[-1].ids, plain[-1].ids)


def test_in_more_blocks_it_is_an_approximation():
    runs = {}
    for refresh in (None, 3):
        recorder = Recorder()
        states(0, refresh, sampler=recorder)
        runs[refresh] = recorder.logits
    gaps = [(a - b).abs().max().item() for a, b in zip(*runs.values(), strict=True)]
    assert gaps[0] < 1e-5
    assert gaps[1] > 1e-3


def test_passes_between_embed_what_changed_alone():
    order = make_order(make_model("halton", "halton"), sizes=[1, 2, 3, 4, 6], refresh=3)
    steps = [order.step(i) for i in range(5)]
    assert [len(s.positions) for s in steps] == [17, 3, 6, 17, 10]
    assert [s.scattered for s in steps] == [False, True, True, False, True]
    assert steps[2].holds.tolist() == order.path[:6].tolist()
    assert steps[2].reads.tolist() == [3, 4, 5]


def test_known_tokens_are_kept_and_a_batch_does_not_matter():
    ids = torch.arange(16).expand(3, -1)
    known = Known(ids, torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) < 0.4)
    _, whole = states(0, 3, known)
    assert torch.equal(whole[-1].ids[known.mask], ids[known.mask])
    _, plain = states(0, 3)
    _, alone = states(0, 3, seeds=(0,))
    assert torch.equal(alone[-1].ids[0], plain[-1].ids[0])


def test_a_generator_takes_it_as_a_setting():
    generator = make_generator("halton", "halton", guidance_scale=2.0)
    plain = generator([0, 1], seeds=0, refresh=4)
    assert torch.equal(generator([0, 1], seeds=0, refresh=1).ids, generator([0, 1], seeds=0).ids)
    generator([0, 1], seeds=0, refresh=4, cache_dtype="fp8")
    compiled = generator.compile("trace")([0, 1], seeds=0, refresh=4)
    assert torch.equal(compiled.ids, plain.ids)
    assert Settings.from_json(Settings(refresh=4).to_json()).refresh == 4


def test_what_cannot_be_reused_is_told():
    with pytest.raises(ValueError) as caught:
        make_generator("halton", "halton")(0, refresh=0)
    assert "got refresh 0; expected 1 or more" in sentence(caught)
    for name, order in (("halton", "masked"), ("maskbit", "bits"), ("llama", "raster")):
        with pytest.raises(ValueError) as caught:
            make_generator(name, order)(0, refresh=2)
        assert f"got refresh 2; the order '{order}' has no such setting" in sentence(caught)
