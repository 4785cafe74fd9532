"""Images on a CUDA device are those of a CPU: in float32 the same ids, and the same draws."""

import numpy as np
import pytest
import torch
from tiny import MODEL_CASES, TINY_MODELS, make_images, make_model, make_tokenizer

from arimage.eval.features.exact import exact_float32
from arimage.generator import ImageGenerator
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.settings import Settings

pytestmark = pytest.mark.gpu
SEEDS, LABELS = [3, 5, 7, 11], [0, 1, 2, 1]
SETTINGS = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 0.8},
    "truncated": {"temperature": 1.0, "top_k": 9, "top_p": 0.8},
}


def make(name, order, **settings):
    """A tiny generator, the same every time, of parts that torch alone can make."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(TINY_MODELS[name].tokenizer, "vq_learned")
    guided = {"guidance_scale": 2.0, "guidance_schedule": "linear", **settings}
    return ImageGenerator(tokenizer, make_model(name, order), Settings(**guided))


def images_on(device, name, order, settings, **changed):
    generator = make(name, order, **settings).to(device)
    with exact_float32(torch.device(device)):
        return generator(LABELS, seeds=SEEDS, output_type="pixels", **changed)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_ids_and_pixels_are_those_of_a_cpu(name, order, settings):
    there, here = (images_on(d, name, order, settings) for d in ("cuda", "cpu"))
    assert torch.equal(there.ids, here.ids)
    levels = np.abs(there.images.astype(int) - here.images.astype(int))
    assert levels.max() <= 1  # a value on the border between two levels


def test_other_seeds_give_other_ids():
    settings = SETTINGS["drawn"]
    there = images_on("cuda", "llama", "raster", settings)
    generator = make("llama", "raster", **settings)
    assert not torch.equal(there.ids, generator(LABELS, seeds=[4, 6, 8, 12]).ids)


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_an_image_does_not_depend_on_its_batch(name, order):
    together = images_on("cuda", name, order, SETTINGS["drawn"])
    alone = images_on("cuda", name, order, SETTINGS["drawn"], batch_size=1)
    assert torch.equal(together.ids, alone.ids)


def test_draws_are_those_of_a_cpu():
    there, here = (PerImageNoise(SEEDS, device) for device in ("cuda", "cpu"))
    assert torch.equal(there.uniform(5).cpu(), here.uniform(5))
    assert there.labels(1000) == here.labels(1000)
    torch.testing.assert_close(there.gumbel(5).cpu(), here.gumbel(5), rtol=1e-12, atol=1e-12)
    rows = torch.rand(len(SEEDS), 6, 40)
    assert torch.equal(there.choose(rows.cuda()).cpu(), here.choose(rows))


@pytest.mark.parametrize("name", ["vq", "multiscale_vq"])
def test_tokens_of_images_are_those_of_a_cpu(name):
    tokenizer = make_tokenizer(name, "vq_learned")
    images = make_images(tokenizer, 4)
    with exact_float32(torch.device("cuda")):
        here = tokenizer.encode(images)
        there = tokenizer.cuda().encode(images.cuda()).cpu()
    assert torch.equal(there, here)


def test_bfloat16_runs_and_its_images_are_images():
    generator = make("var", "next_scale", temperature=0.8).to("cuda")
    generator.transformer.to(torch.bfloat16)
    generator.tokenizer.to(torch.bfloat16)
    made = generator(LABELS, seeds=SEEDS, output_type="pixels")
    assert made.images.dtype == np.uint8
    assert made.images.std() > 1
