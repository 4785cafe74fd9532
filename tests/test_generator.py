"""The generator: images from labels and seeds, and what it refuses."""

import numpy as np
import pytest
import torch
from tiny import (
    MODEL_CASES,
    NUM_CLASSES,
    make_generator,
    make_model,
    make_tokenizer,
    sentence,
)

from arimage.ar.base import UNKNOWN, Known
from arimage.ar.registry import MODELS, ORDERS
from arimage.generator import ImageGenerator
from arimage.images import to_pixels
from arimage.sampling import noise as noise_module
from arimage.sampling.noise import PerImageNoise

pytestmark = pytest.mark.untyped

LABELS, SEEDS = [2, 0, 1, 3, 0], [11, 5, 900, 7, 5]  # 3 is "no class"
PIXEL_TOLERANCE = 1e-4


@torch.no_grad()
def sample(generator, rows, **settings):
    """Ids and float images of some rows of LABELS and SEEDS, as one batch."""
    labels, seeds = [LABELS[i] for i in rows], [SEEDS[i] for i in rows]
    *_, state = generator.sample(labels, seeds, **settings)
    return state.ids, generator.tokenizer.decode_canvas(state.canvas)


def an_image_is_named_by_its_seed(generator, **settings):
    """Whether image i is the same alone, in any place of any batch, to rounding."""
    ids, images = sample(generator, range(5), **settings)
    for rows in ([1], [4], [2, 0, 1], [4, 3, 2, 1, 0], [3, 3, 3]):
        other_ids, other_images = sample(generator, rows, **settings)
        if not torch.equal(other_ids, ids[rows]):
            return False
        if (other_images - images[rows]).abs().max() > PIXEL_TOLERANCE:
            return False
    return True


VARIANTS = {"defaults": {}, "truncated": {"top_k": 9, "top_p": 0.9, "guidance_scale": 1.0}}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_an_image_is_named_by_its_seed(generators, name, order, variant):
    assert an_image_is_named_by_its_seed(generators(name, order), **VARIANTS[variant])


class PlaceNoise(PerImageNoise):
    """One stream for the whole batch, as in most repositories: the seed of the first image."""

    def uniform(self, count):
        return torch.from_numpy(self._streams[0].random((self.batch, count)))


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_with_one_stream_for_the_batch_it_is_not(generators, name, order, monkeypatch):
    monkeypatch.setattr(noise_module, "PerImageNoise", PlaceNoise)
    assert not an_image_is_named_by_its_seed(generators(name, order))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_how_images_are_split_over_batches_does_not_matter(generators, name, order, batch_size):
    generator = generators(name, order)
    output = generator(LABELS, seeds=SEEDS, batch_size=batch_size, output_type="pixels")
    ids, images = sample(generator, range(5))
    assert torch.equal(output.ids, ids)
    near = np.abs(output.images.astype(int) - to_pixels(images).astype(int))
    assert near.max() <= 1
    assert output.class_labels == LABELS
    assert output.seeds == SEEDS


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_a_rerun_is_bit_identical(generators, name, order):
    generator = generators(name, order)
    first, again = (sample(generator, range(5)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_seed_label_and_settings_all_matter(generators, name, order):
    generator = generators(name, order)
    base = generator([0], seeds=[1]).ids
    assert not torch.equal(base, generator([0], seeds=[2]).ids)
    assert not torch.equal(base, generator([1], seeds=[1]).ids)
    assert not torch.equal(base, generator([0], seeds=[1], guidance_scale=9.0).ids)
    assert not torch.equal(base, generator([0], seeds=[1], temperature=3.0).ids)
    assert torch.equal(base, generator([0], seeds=[1]).ids)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_a_stream_shows_every_step_and_ends_with_the_image(generators, name, order):
    generator = generators(name, order)
    previews = list(generator.stream([1, 2], seeds=[8, 9]))
    output = generator([1, 2], seeds=[8, 9])
    assert [p.step for p in previews] == list(range(1, previews[0].num_steps + 1))
    assert torch.equal(previews[-1].ids, output.ids)
    for shown, made in zip(previews[-1].images, output.images, strict=True):
        assert np.array_equal(np.asarray(shown), np.asarray(made))
    assert (previews[0].ids == UNKNOWN).any()


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_known_tokens_survive(generators, name, order):
    generator = generators(name, order)
    slots = generator.tokenizer.slots.num_slots
    ids = torch.randint(0, 32, (2, slots))
    known = Known(ids, torch.rand(2, slots) < 0.5)
    *_, state = generator.sample([0, 1], [3, 4], known=known)
    assert torch.equal(state.ids[known.mask], ids[known.mask])
    assert (state.ids != UNKNOWN).all()


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_it_works_in_half_precision(name, order, both):
    generator = make_generator(name, order, guidance_scale=2.0)
    generator.transformer.to(torch.bfloat16)
    if both:
        generator.tokenizer.to(torch.bfloat16)
    output = generator([0, 1], seeds=[3, 4])
    assert torch.equal(output.ids, generator([0, 1], seeds=[3, 4]).ids)
    assert len(output.ids.unique()) > 3


def test_seeds_count_up_from_one_integer_and_are_fresh_without(generators):
    generator = generators("llama", "raster")
    counted = generator([0, 1, 2], seeds=40)
    assert counted.seeds == [40, 41, 42]
    assert torch.equal(counted.ids, generator([0, 1, 2], seeds=[40, 41, 42]).ids)
    fresh = generator([0, 0]).seeds + generator([0, 0]).seeds
    assert len(set(fresh)) == 4


def test_labels_may_be_names_or_one(generators):
    named = generators("llama", "raster")
    named = ImageGenerator(named.tokenizer, named.transformer, named.settings, ["a", "b", "c"])
    by_name = named(["b", "a"], seeds=3)
    assert by_name.class_labels == [1, 0]
    assert torch.equal(by_name.ids, named([1, 0], seeds=3).ids)
    assert len(named("c", seeds=1).images) == 1
    assert named(NUM_CLASSES, seeds=1).class_labels == [NUM_CLASSES]
    with pytest.raises(KeyError) as caught:
        named("bb")
    assert "unknown class name 'bb'" in sentence(caught)


def test_images_are_pil_or_pixels(generators):
    generator = generators("llama", "raster")
    pixels = generator([0, 1], seeds=1, output_type="pixels").images
    assert (pixels.shape, pixels.dtype) == ((2, 16, 16, 3), np.uint8)
    images = generator([0, 1], seeds=1).images
    assert [im.size for im in images] == [(16, 16)] * 2
    assert np.array_equal(np.asarray(images[1]), pixels[1])


def test_a_masked_generator_takes_any_number_of_steps(generators):
    generator = generators("llama", "masked")
    for steps in (1, 3, 16):
        assert len(list(generator.stream([0], seeds=[1], num_steps=steps))) == steps


# Errors.

CALLS = [
    ((-1,), {}, ValueError, "got class label -1; expected 0 to 2, or 3 for no class"),
    ((4,), {}, ValueError, "got class label 4; expected 0 to 2, or 3 for no class"),
    (([],), {}, ValueError, "got no class label; give at least one"),
    (("cat",), {}, KeyError, "unknown class name 'cat'"),
    (([0, 1],), {"seeds": [1, 2, 3]}, ValueError, "got 2 class labels for 3 seeds"),
    ((0,), {"seeds": -5}, ValueError, "got seed -5; expected an integer from 0"),
    ((0,), {"batch_size": 0}, ValueError, "got batch_size 0; expected an integer >= 1"),
    ((0,), {"output_type": "np"}, ValueError, "got output_type 'np'; expected 'pil' or 'pixels'"),
    ((0,), {"top_p": 1.5}, ValueError, "got top_p 1.5; expected 0 < top_p <= 1"),
    ((0,), {"top_k": 0}, ValueError, "got top_k 0; expected an integer >= 1"),
    ((0,), {"temperature": -1.0}, ValueError, "got temperature -1.0; expected a number >= 0"),
    ((0,), {"guidance_scale": -1.0}, ValueError, "got guidance_scale -1.0; expected a number"),
    ((0,), {"guidance_scal": 2.0}, TypeError, "'guidance_scal'. Did you mean 'guidance_scale'"),
    ((0,), {"guidance_schedule": "cosine"}, KeyError, "unknown guidance schedule 'cosine'. Did"),
    ((0,), {"sampler": "categorica"}, KeyError, "'categorica'. Did you mean 'categorical'"),
]


@pytest.mark.parametrize(("arguments", "settings", "kind", "message"), CALLS)
def test_a_wrong_call_is_told(generators, arguments, settings, kind, message):
    with pytest.raises(kind) as caught:
        generators("llama", "raster")(*arguments, **settings)
    assert message in sentence(caught)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_the_number_of_steps_belongs_to_the_order(generators, name, order):
    generator = generators(name, order)
    steps = 1000 if ORDERS[order].free_steps else 4
    with pytest.raises(ValueError) as caught:
        generator(0, num_steps=steps)
    assert f"got num_steps {steps}" in sentence(caught)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_nan_names_the_step(name, order):
    generator = make_generator(name, order)
    with torch.no_grad():
        next(generator.transformer.parameters())[0] = torch.nan
    with pytest.raises(FloatingPointError) as caught:
        generator([0], seeds=[1])
    assert "NaN or infinity in the logits at step 1 of" in sentence(caught)


def test_known_tokens_outside_the_vocabulary_are_told(generators):
    generator = generators("llama", "raster")
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 3] = True
    for wrong in (32, -1):
        with pytest.raises(ValueError) as caught:
            generator.sample([0], [1], known=Known(torch.full((1, 16), wrong), mask))
        assert f"got known ids from {wrong} to {wrong}; expected 0 to 31" in sentence(caught)
    *_, state = generator.sample([0], [1], known=Known(torch.full((1, 16), 99), mask & False))
    assert state.ids.max() < 32


def variant(cls, model, **changes):
    fields = {name: getattr(model.config, name) for name in model.config.own_fields()}
    return cls(cls.config_class(**{**fields, **changes}))


def test_a_tokenizer_and_a_transformer_that_do_not_fit_are_told():
    flat, pyramid = make_tokenizer("vq"), make_tokenizer("multiscale_vq")
    llama, var = make_model("llama", "raster"), make_model("var", "next_scale")
    pairs = [
        (flat, var, "grids ((1, 1), (2, 2), (4, 4)) and the tokenizer has ((4, 4),)"),
        (pyramid, llama, "grids ((4, 4),) and the tokenizer has ((1, 1), (2, 2), (4, 4))"),
        (flat, variant(MODELS["llama"], llama, vocab_size=33), "vocab_size 33 and the tokenizer"),
        (pyramid, variant(MODELS["var"], var, code_dim=7), "code_dim 7 and the tokenizer has 6"),
        # as many tokens, elsewhere
        (flat, variant(MODELS["llama"], llama, grid=(2, 8)), "grids ((2, 8),) and the tokenizer"),
    ]
    for tokenizer, transformer, message in pairs:
        with pytest.raises(ValueError) as caught:
            ImageGenerator(tokenizer, transformer)
        assert message in sentence(caught)


def test_class_names_for_another_number_of_classes_are_told():
    with pytest.raises(ValueError) as caught:
        ImageGenerator(make_tokenizer("vq"), make_model("llama", "raster"), class_names=["a"])
    assert "got 1 class names for 3 classes" in sentence(caught)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_labels_are_drawn_for_seeds(generators, name, order):
    generator = generators(name, order)
    seeds = list(range(12))
    drawn = generator(None, seeds=seeds, batch_size=5)
    assert len(set(drawn.class_labels)) > 1
    given = generator(drawn.class_labels, seeds=seeds, batch_size=5)
    assert torch.equal(drawn.ids, given.ids)
    alone = generator(None, seeds=[7])
    assert alone.class_labels == drawn.class_labels[7:8]


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_one_stream_for_all_images_is_for_one_batch(generators, name, order):
    generator = generators(name, order)
    settings = {"rng": "reference", "output_type": "pixels"}
    first, again = (generator([0, 1, 2], seeds=4, **settings) for _ in range(2))
    assert first.seeds == [4, 4, 4]
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.ids, generator([0, 1, 2], seeds=5, **settings).ids)
    for arguments, words in (
        ({"seeds": 4, "batch_size": 2}, "got 3 images and batch_size 2"),
        ({"seeds": [1, 2, 3]}, "has one stream for all images"),
    ):
        with pytest.raises(ValueError) as caught:
            generator([0, 1, 2], **arguments, **settings)
        assert words in sentence(caught)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_mixed_codes_are_for_models_that_read_the_canvas(generators, name, order):
    generator = generators(name, order)
    if not generator.order().mixes:
        with pytest.raises(ValueError) as caught:
            generator([0], seeds=0, more_smooth=True)
        assert "this transformer reads ids" in sentence(caught)
        return
    assert an_image_is_named_by_its_seed(generator, more_smooth=True)
    *_, mixed = generator.sample([0, 1], 0, more_smooth=True)
    *_, plain = generator.sample([0, 1], 0)
    assert not torch.allclose(mixed.canvas, plain.canvas)
