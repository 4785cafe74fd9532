"""Labels drawn from seeds, and batches that follow a memory budget."""

import numpy as np
import pytest
import torch
from tiny import MODEL_CASES, make_generator, sentence

from arimage.sampling.noise import PerImageNoise

pytestmark = pytest.mark.untyped


@pytest.fixture(scope="module")
def generators():
    """Each made once; no test here changes one."""
    made = {}

    def get(name, order):
        if (name, order) not in made:
            made[name, order] = make_generator(name, order, guidance_scale=2.0)
        return made[name, order]

    return get


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_a_drawn_label_gives_the_image_of_that_label(generators, name, order):
    generator = generators(name, order)
    drawn = generator(count=6, seeds=40)
    assert drawn.seeds == list(range(40, 46))
    assert drawn.class_labels == generator.random_labels(drawn.seeds)
    assert set(drawn.class_labels) <= {0, 1, 2}
    given = generator(drawn.class_labels, seeds=drawn.seeds)
    assert torch.equal(drawn.ids, given.ids)
    assert torch.equal(generator(count=2, seeds=[43, 41]).ids, drawn.ids[[3, 1]])


def test_labels_are_uniform_and_have_a_stream_of_their_own():
    labels = np.array(PerImageNoise(range(3000), "cpu").labels(10))
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10
    assert ((counts - 300) ** 2 / 300).sum() < 27.9  # chi-square, 9 degrees, 0.999
    first = PerImageNoise(range(3000), "cpu").uniform(1)[:, 0].numpy()
    assert abs(np.corrcoef(labels, first)[0, 1]) < 0.06
    assert not np.array_equal(labels, (first * 10).astype(int))


WRONG = [
    ({}, "got neither class_labels nor count"),
    ({"class_labels": 1, "count": 2}, "got class labels and count 2; pass one of them"),
    ({"count": 0}, "got count 0; expected an integer >= 1"),
    ({"count": 2, "seeds": -1}, "got seed -1; expected an integer from 0"),
    ({"count": 2, "seeds": [1]}, "got 2 class labels for 1 seeds"),
    ({"count": 2, "memory_budget": -1}, "got memory_budget -1; expected GiB"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_call_is_told(generators, options, message):
    with pytest.raises(ValueError) as caught:
        generators("llama", "raster")(**options)
    assert message in sentence(caught)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_images_do_not_depend_on_the_memory_budget(generators, name, order, monkeypatch):
    generator, sizes = generators(name, order), []
    states = generator._states

    def spy(labels, *arguments, **settings):
        sizes.append(len(labels))
        return states(labels, *arguments, **settings)

    monkeypatch.setattr(generator, "_states", spy)
    labels = [0, 1, 2, 3, 0]
    outputs = [generator(labels, seeds=7, output_type="pixels")]
    two = next(2.0**-k for k in range(40) if generator.plan(2.0**-k) < 5)
    for budget in (1e-9, two):
        outputs.append(generator(labels, seeds=7, memory_budget=budget, output_type="pixels"))
    assert sizes[:6] == [5, 1, 1, 1, 1, 1]
    assert sizes[6] == generator.plan(two) > 1
    for output in outputs[1:]:
        assert torch.equal(output.ids, outputs[0].ids)
        near = np.abs(output.images.astype(int) - outputs[0].images.astype(int))
        assert near.max() <= 1


def test_the_plan_follows_the_settings(generators):
    generator = generators("llama", "raster")
    budget = 2.0**-5
    assert generator.plan(budget, guidance_scale=1.0) > generator.plan(budget) >= 1
    assert generator.plan(budget) >= 2 * generator.plan(budget / 2) > 2
    assert generator.plan() == 256
