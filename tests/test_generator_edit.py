"""Editing images with every model and order: what is kept, what is drawn, what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import MODEL_CASES, TINY_MODELS, make_generator, make_images, sentence

from arimage.ar.base import Known
from arimage.images import from_pixels, square, to_pixels
from arimage.sampling.editing import kept_slots

pytestmark = pytest.mark.untyped

# Tokens on a line have no place: test_line_of_tokens.py.
PLACED = [case for case in MODEL_CASES if TINY_MODELS[case[0]].tokenizer != "titok"]
LABELS, SEEDS = [2, 0, 3], [11, 5, 900]  # 3 is "no class"
NONE, ALL = np.zeros((16, 16), dtype=bool), np.ones((16, 16), dtype=bool)
LOWER = np.arange(16)[:, None].repeat(16, axis=1) >= 8
MASKS = [LOWER, LOWER.T, ~LOWER]


def pictures(generator, count=3):
    return to_pixels(make_images(generator.tokenizer, count, seed=4))


def edit(generator, masks, labels=LABELS, seeds=SEEDS, **options):
    count = len(seeds)
    return generator.edit(
        pictures(generator)[:count], masks, labels, seeds=seeds, output_type="pixels", **options
    )


@pytest.mark.parametrize(("name", "order"), PLACED)
def test_kept_tokens_survive_and_the_others_are_drawn(generators, name, order):
    generator = generators(name, order)
    output = edit(generator, MASKS)
    ids = generator.tokenizer.encode(from_pixels(pictures(generator)))
    kept = torch.stack([kept_slots(mask, generator.tokenizer.slots) for mask in MASKS])
    assert torch.equal(output.ids[kept], ids[kept])
    assert not torch.equal(output.ids[~kept], ids[~kept])
    assert (output.ids >= 0).all()
    assert np.array_equal(output.images, to_pixels(generator.tokenizer.decode(output.ids)))
    assert (output.class_labels, output.seeds) == (LABELS, SEEDS)


@pytest.mark.parametrize(("name", "order"), PLACED)
def test_keeping_everything_gives_the_reconstruction(generators, name, order):
    generator = generators(name, order)
    output = edit(generator, NONE)
    originals = from_pixels(pictures(generator))
    assert np.array_equal(output.images, to_pixels(generator.tokenizer.reconstruct(originals)))
    assert np.array_equal(edit(generator, NONE, paste=True).images, pictures(generator))


@pytest.mark.parametrize(("name", "order"), PLACED)
def test_drawing_everything_is_plain_generation(generators, name, order):
    """But for maps of at most three cells, which VAR's rule keeps whole."""
    generator = generators(name, order)
    plain = generator(LABELS, seeds=SEEDS, output_type="pixels")
    edited = edit(generator, ALL)
    if generator.tokenizer.slots.num_scales > 1:
        assert not torch.equal(edited.ids[:, 0], plain.ids[:, 0])
        known = generator.known(pictures(generator), ALL)
        assert known.mask.sum() == len(SEEDS)  # the 1 x 1 map; with plain's token there:
        *_, state = generator.sample(LABELS, SEEDS, known=Known(plain.ids, known.mask))
        assert torch.equal(state.ids, plain.ids)
        return
    assert torch.equal(edited.ids, plain.ids)
    assert np.array_equal(edited.images, plain.images)


@pytest.mark.parametrize(("name", "order"), PLACED)
def test_the_random_stream_does_not_depend_on_the_mask(generators, name, order):
    """Keeping what plain generation had drawn anyway changes nothing."""
    generator = generators(name, order)
    plain = generator(LABELS, seeds=SEEDS)
    known = generator.known(pictures(generator), LOWER)
    *_, state = generator.sample(LABELS, SEEDS, known=Known(plain.ids, known.mask))
    bound = generator.order()
    if bound.given_first or not bound.cached:  # the others come later, or fewer at a time
        assert torch.equal(state.ids[known.mask], plain.ids[known.mask])
    else:
        assert torch.equal(state.ids, plain.ids)


@pytest.mark.parametrize(("name", "order"), PLACED)
def test_an_edited_image_does_not_depend_on_its_batch(generators, name, order):
    generator = generators(name, order)
    whole = edit(generator, MASKS)
    for batch_size in (1, 2, 3):
        parts = edit(generator, MASKS, batch_size=batch_size)
        assert torch.equal(parts.ids, whole.ids)
        assert np.abs(parts.images.astype(int) - whole.images.astype(int)).max() <= 1
    for i in range(3):
        alone = generator.edit(pictures(generator)[i], MASKS[i], LABELS[i], seeds=[SEEDS[i]])
        assert torch.equal(alone.ids[0], whole.ids[i])


@pytest.mark.parametrize(("name", "order"), PLACED)
def test_it_works_in_half_precision(name, order):
    generator = make_generator(name, order, guidance_scale=2.0)
    generator.transformer.to(torch.bfloat16)
    generator.tokenizer.to(torch.bfloat16)
    known = generator.known(pictures(generator), LOWER)
    output = edit(generator, LOWER)
    assert torch.equal(output.ids[known.mask], known.ids[known.mask])


@pytest.mark.parametrize(("name", "order"), PLACED)
def test_seed_and_label_matter_where_it_is_drawn(generators, name, order):
    generator = generators(name, order)
    base = edit(generator, LOWER).ids
    assert torch.equal(edit(generator, LOWER).ids, base)
    assert not torch.equal(edit(generator, LOWER, seeds=[1, 2, 3]).ids, base)
    assert not torch.equal(edit(generator, LOWER, labels=[0, 1, 2]).ids, base)
    assert not torch.equal(edit(generator, ~LOWER).ids, base)
    null = edit(generator, LOWER, labels=None)
    assert null.class_labels == [3, 3, 3]
    assert torch.equal(null.ids, edit(generator, LOWER, labels=3).ids)


@pytest.mark.parametrize(("name", "order"), PLACED)
def test_a_stream_of_known_tokens_ends_with_the_edit(generators, name, order):
    generator = generators(name, order)
    known = generator.known(pictures(generator), MASKS)
    previews = list(generator.stream(LABELS, seeds=SEEDS, known=known))
    assert torch.equal(previews[-1].ids, edit(generator, MASKS).ids)
    assert len(previews) == previews[0].num_steps


def test_paste_puts_the_kept_pixels_back(generators):
    generator = generators("var", "next_scale")
    plain, pasted = (edit(generator, MASKS, paste=paste).images for paste in (False, True))
    drawn = np.stack(MASKS)
    assert np.array_equal(pasted[drawn], plain[drawn])
    assert np.array_equal(pasted[~drawn], pictures(generator)[~drawn])
    assert not np.array_equal(plain[~drawn], pasted[~drawn])


def test_images_of_every_kind_and_one_rule_for_their_size(generators, tmp_path):
    generator = generators("llama", "raster")
    pixels = pictures(generator)[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    kinds = [
        pixels,
        pixels[None],
        [pixels],
        Image.fromarray(pixels),
        Image.fromarray(pixels).convert("RGBA"),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        from_pixels(pixels[None]),
    ]
    outputs = [generator.edit(kind, LOWER, 1, seeds=7) for kind in kinds]
    for output in outputs:
        assert torch.equal(output.ids, outputs[0].ids)
        assert isinstance(output.images[0], Image.Image)

    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    mask = np.zeros((20, 30), dtype=bool)
    mask[:, 15:] = True
    cut = generator.edit(square(wide, 16), mask[:, 5:25], 1, seeds=7)
    assert torch.equal(generator.edit(wide, mask, 1, seeds=7).ids, cut.ids)


PIXELS = np.zeros((2, 16, 16, 3), dtype=np.uint8)
WRONG = [
    ((PIXELS[:, :15], ALL), {}, ValueError, "of uint8 and shape (15, 16, 3) as an image; expected"),
    ((PIXELS[0, 0], ALL), {}, ValueError, "shape (3,) as an image"),
    ((PIXELS.astype(np.float32), ALL), {}, ValueError, "got an array of float32"),
    ((torch.zeros(1, 3, 8, 8), ALL), {}, ValueError, "shape (8, 8, 3) as an image"),
    (([], ALL), {}, ValueError, "got no image; give at least one"),
    (([None], ALL), {}, TypeError, "got an image of type NoneType"),
    (("no.png", ALL), {}, FileNotFoundError, "no image file at no.png"),
    ((PIXELS, ALL[:8]), {}, ValueError, "got a mask of 8 x 16 pixels for an image of 16 x 16"),
    ((PIXELS, []), {}, ValueError, "got no mask; pass one per image or one for all"),
    ((PIXELS, [ALL] * 3), {}, ValueError, "got 3 masks for 2 images"),
    ((PIXELS, ALL.astype(np.uint8)), {}, ValueError, "got mask value 1; expected only 0 (kept)"),
    ((PIXELS, ALL, [0, 1, 2]), {}, ValueError, "got 3 class labels for 2 images"),
    ((PIXELS, ALL, 4), {}, ValueError, "got class label 4; expected 0 to 2, or 3 for no class"),
    ((PIXELS, ALL), {"seeds": [1]}, ValueError, "got 2 class labels for 1 seeds"),
    ((PIXELS, ALL), {"batch_size": 0}, ValueError, "got batch_size 0; expected an integer >= 1"),
    ((PIXELS, ALL), {"memory_budget": 0}, ValueError, "got memory_budget 0; expected GiB"),
    ((PIXELS, ALL), {"output_type": "np"}, ValueError, "got output_type 'np'"),
    ((PIXELS, ALL), {"top_q": 1}, TypeError, "'top_q'. Did you mean 'top_p'"),
]


@pytest.mark.parametrize(("arguments", "options", "kind", "message"), WRONG)
def test_a_wrong_call_is_told(generators, arguments, options, kind, message):
    with pytest.raises(kind) as caught:
        generators("llama", "raster").edit(*arguments, **options)
    assert message in sentence(caught)
