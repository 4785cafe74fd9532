"""Images from prompts: what is taken, that a seed names an image, editing, streaming, errors."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import (
    TEXT,
    make_condition,
    make_encoder,
    make_images,
    make_model,
    make_tokenizer,
    sentence,
)
from typer.testing import CliRunner

from arimage.ar.base import UNKNOWN
from arimage.cli import app
from arimage.generator import ImageGenerator
from arimage.images import to_pixels
from arimage.sampling.settings import Settings
from arimage.text import TextFeatures

PROMPTS = ["a corgi", "a red cat on the moon", "a beach", "the moon", "a corgi"]
SEEDS = [11, 5, 900, 7, 5]
LOWER = np.arange(16)[:, None].repeat(16, axis=1) >= 8


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("t5"), TEXT["text_width"])


@pytest.fixture(scope="module")
def generator(encoder):
    torch.manual_seed(0)
    settings = Settings(guidance_scale=2.0, temperature=0.8)
    parts = make_tokenizer("vq"), make_model("llama_text", "raster")
    return ImageGenerator(*parts, settings, text_encoder=encoder)


def test_prompts_give_images(generator):
    output = generator(prompts=PROMPTS, seeds=SEEDS)
    assert [image.size for image in output.images] == [(16, 16)] * 5
    assert (output.prompts, output.class_labels, output.seeds) == (PROMPTS, [], SEEDS)
    assert len(generator(prompts="a corgi", seeds=11).images) == 1


def test_an_image_is_named_by_its_seed_and_prompt(generator):
    ids = generator(prompts=PROMPTS, seeds=SEEDS).ids
    for rows in ([0], [1], [4], [2, 0, 1], [4, 3, 2, 1, 0], [3, 3]):
        prompts, seeds = [PROMPTS[i] for i in rows], [SEEDS[i] for i in rows]
        assert torch.equal(generator(prompts=prompts, seeds=seeds).ids, ids[rows])
    assert torch.equal(generator(prompts=PROMPTS, seeds=SEEDS, batch_size=2).ids, ids)
    assert not torch.equal(generator(prompts="a corgi", seeds=12).ids, ids[:1])
    assert not torch.equal(generator(prompts="the moon", seeds=11).ids, ids[:1])
    unguided = generator(prompts=PROMPTS, seeds=SEEDS, guidance_scale=1.0).ids
    assert not torch.equal(unguided, ids)


def test_features_are_as_good_as_their_prompts(generator, encoder):
    text = generator.conditions.encoder.encode(PROMPTS, generator.device, torch.float32)
    output = generator(prompts=text, seeds=SEEDS, batch_size=2)
    assert torch.equal(output.ids, generator(prompts=PROMPTS, seeds=SEEDS).ids)
    assert (output.prompts, output.class_labels) == ([], [])


def test_features_need_no_encoder():
    parts = make_tokenizer("vq"), make_model("llama_text", "raster")
    generator = ImageGenerator(*parts, text_encoder="no/where")
    text = make_condition(generator.transformer, [0, 1])
    assert len(generator(prompts=text, seeds=0).images) == 2
    with pytest.raises(FileNotFoundError) as caught:
        generator(prompts="a corgi", seeds=0)
    assert "cannot load the text encoder no/where" in sentence(caught)


def test_prompts_are_encoded_batch_by_batch(generator, monkeypatch):
    sizes, encode = [], generator.conditions.encoder.encode

    def spy(prompts, *arguments):
        sizes.append(len(prompts))
        return encode(prompts, *arguments)

    monkeypatch.setattr(generator.conditions.encoder, "encode", spy)
    made = list(generator.batches(prompts=PROMPTS, seeds=SEEDS, batch_size=2))
    assert sizes == [len(pixels) for pixels, _ in made] == [2, 2, 1]


def test_a_stream_ends_with_the_image(generator):
    previews = list(generator.stream(prompts=PROMPTS[:2], seeds=SEEDS[:2]))
    assert [p.step for p in previews] == list(range(1, 17))
    assert (previews[0].ids == UNKNOWN).any()
    assert torch.equal(previews[-1].ids, generator(prompts=PROMPTS[:2], seeds=SEEDS[:2]).ids)


@pytest.mark.parametrize("asked", [{"prompts": "the moon"}, {"prompts": PROMPTS[:2]}, {}])
def test_editing_keeps_what_the_mask_keeps(generator, asked):
    pictures = to_pixels(make_images(generator.tokenizer, 2))
    edited = generator.edit(pictures, LOWER, **asked, seeds=[3, 4])
    known = generator.known(pictures, LOWER)
    assert torch.equal(edited.ids[known.mask], known.ids[known.mask])
    assert not torch.equal(edited.ids[~known.mask], known.ids[~known.mask])
    assert edited.prompts == {str: ["the moon"] * 2}.get(type(asked.get("prompts")), edited.prompts)


def test_no_prompt_is_the_learned_null(generator):
    pictures = to_pixels(make_images(generator.tokenizer, 2))
    free = generator.edit(pictures, LOWER | True, seeds=[3, 4])
    null = generator.transformer.nothing()
    both = TextFeatures(null.features.expand(2, -1, -1), null.mask.expand(2, -1))
    assert torch.equal(free.ids, generator(prompts=both, seeds=[3, 4]).ids)
    assert (free.prompts, free.class_labels) == ([], [])
    # without a prompt there is nothing to guide towards
    assert torch.equal(free.ids, generator(prompts=both, seeds=[3, 4], guidance_scale=1.0).ids)


def test_a_saved_generator_of_text_is_the_same(generator, encoder, tmp_path):
    generator.save_pretrained(tmp_path / "g")
    loaded = ImageGenerator.from_pretrained(tmp_path / "g", text_encoder=encoder)
    same = {"prompts": PROMPTS, "seeds": SEEDS}
    assert torch.equal(loaded(**same).ids, generator(**same).ids)
    assert ImageGenerator.from_pretrained(tmp_path / "g").conditions.encoder.source == (
        "google/flan-t5-xl"
    )


def test_it_works_in_half_precision(encoder):
    parts = make_tokenizer("vq"), make_model("llama_text", "raster").bfloat16()
    generator = ImageGenerator(*parts, text_encoder=encoder)
    output = generator(prompts=PROMPTS, seeds=SEEDS, guidance_scale=3.0)
    assert torch.equal(output.ids, generator(prompts=PROMPTS, seeds=SEEDS, guidance_scale=3.0).ids)
    assert len(output.ids.unique()) > 3


def test_the_plan_counts_the_prompt(generator):
    wide = make_model("llama_text", "raster")
    wide.config.text_tokens = 4000
    more = ImageGenerator(generator.tokenizer, wide, generator.settings)
    assert more.plan(0.05) < generator.plan(0.05)


LONG = " on a beach" * 3
CALLS = [
    ({"class_labels": 3}, ValueError, "got class_labels; this model draws from text: pass prompts"),
    ({"class_labels": 3, "prompts": "a"}, ValueError, "this model draws from text"),
    ({}, ValueError, "got no prompt; this model draws from text: pass prompts"),
    ({"prompts": []}, ValueError, "got no prompt; this model draws from text"),
    ({"count": 3}, ValueError, "got no prompt; this model draws from text"),
    ({"prompts": "a", "count": 3}, ValueError, "got prompts and count 3; pass one of them"),
    ({"prompts": ["a", LONG]}, ValueError, "got a prompt of 10 tokens, 'on a beach on a beach"),
    ({"prompts": ["a", "the"], "seeds": [1]}, ValueError, "got 2 prompts for 1 seeds"),
    (
        {"prompts": TextFeatures(torch.zeros(1, 7, 9), torch.ones(1, 7))},
        ValueError,
        "got text features of width 9; this model reads 10, those of google/flan-t5-xl: use that",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), CALLS)
def test_a_wrong_call_is_told(generator, arguments, kind, message):
    with pytest.raises(kind) as caught:
        generator(**{"seeds": 0, **arguments})
    assert message in sentence(caught)


def test_prompts_for_another_number_of_images_are_told(generator):
    pictures = to_pixels(make_images(generator.tokenizer, 3))
    with pytest.raises(ValueError) as caught:
        generator.edit(pictures, LOWER, prompts=["a", "the"])
    assert "got 2 prompts for 3 images; pass one per image or one for all" in sentence(caught)


def test_a_model_of_classes_takes_no_text(generators, encoder):
    generator = generators("llama", "raster")
    for call in (generator, lambda **k: next(generator.stream(**k))):
        with pytest.raises(ValueError) as caught:
            call(prompts="a corgi on a beach")
        words = "got prompts; this model draws one of 3 classes: pass class_labels"
        assert words in sentence(caught)
    with pytest.raises(ValueError) as caught:
        ImageGenerator(generator.tokenizer, generator.transformer, text_encoder=encoder)
    assert "this model draws classes and reads no text" in sentence(caught)


def test_the_command_line_takes_prompts(generator, encoder, tmp_path):
    generator.transformer.config.text_encoder = str(encoder)
    generator.save_pretrained(tmp_path / "g")
    model = ["--model", str(tmp_path / "g")]

    def run(*arguments):
        done = CliRunner().invoke(app, [*arguments, *model], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    prompts = ["--prompt", "a corgi", "--prompt", "the moon"]
    run("generate", "--out", str(tmp_path / "x.png"), *prompts, "--seed", "5")
    with Image.open(tmp_path / "x.png") as image:
        record = json.loads(image.info["arimage"])
    assert (record["prompts"], record["seeds"]) == (["a corgi", "the moon"], [5, 6])
    assert "class_labels" not in record
    run("generate", "--out", str(tmp_path / "many"), *prompts, "--per-class", "2")
    names = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert names == [f"00000{i}_seed{i}.png" for i in range(4)]
    with Image.open(tmp_path / "many" / names[2]) as image:
        assert json.loads(image.info["arimage"])["prompt"] == "the moon"
    Image.fromarray(LOWER).save(tmp_path / "mask.png")
    edited = ["--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "e.png")]
    run("edit", str(tmp_path / "many" / names[0]), *edited, "--prompt", "the moon")
    with Image.open(tmp_path / "e.png") as image:
        assert json.loads(image.info["arimage"])["prompts"] == ["the moon"]
