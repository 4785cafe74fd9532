"""The demo's own code on a recipe of a few steps, and the presets it made."""

import json
from pathlib import Path

import numpy as np
import pytest

from arimage import PRESETS, ImageGenerator, evaluate
from arimage.demo.digits import load_digits
from arimage.demo.recipes import RECIPES, DemoRecipe
from arimage.demo.run import Demo, make_record, run_demo
from arimage.eval.base import Score
from arimage.eval.report import Protocol, Report
from arimage.images import from_pixels, to_pixels
from arimage.sampling.settings import Settings
from arimage.zoo import packaged

pytestmark = pytest.mark.untyped


def test_the_split_is_fixed_stratified_and_disjoint():
    train, held_out = load_digits()
    again, _ = load_digits()
    assert (len(train.labels), len(held_out.labels)) == (1437, 360)
    assert np.array_equal(train.pixels, again.pixels)
    shares = np.bincount(held_out.labels) / np.bincount(
        np.concatenate([train.labels, held_out.labels])
    )
    assert np.abs(shares - 0.2).max() < 0.01
    seen = {image.tobytes() for image in train.pixels}
    assert not any(image.tobytes() in seen for image in held_out.pixels)


@pytest.mark.parametrize("order", sorted(RECIPES))
def test_a_tiny_run_goes_all_the_way(tmp_path, order):
    recipe = DemoRecipe(
        tokenizer_steps=3,
        transformer_steps=3,
        classifier_steps=3,
        jittered_copies=0,
        per_class=10,
        settings=Settings(),
    )
    said = []
    record = run_demo(order, tmp_path, progress=False, say=said.append, recipe=recipe)
    names = {p.name for p in tmp_path.iterdir()}
    pictures = {"samples.png", "stages.png", "reconstructions.png", "losses.png"}
    assert names == pictures | {"generator", "classifier.safetensors", "report.md", "report.json"}
    assert json.loads((tmp_path / "report.json").read_text())["demo"] == record
    assert record["reached"]["accuracy"] is False  # three steps teach nothing
    assert record["fid_floor"] < record["fid_ceiling"]
    assert len(said) == 4


def test_targets_are_judged_as_they_are_stated():
    def report(**values):
        scores = tuple(
            Score(name=name, value=value, higher_is_better=True, count=1)
            for name, value in values.items()
        )
        return Report(scores=scores, protocol=Protocol(count=1, features="digits"))

    demo = Demo("raster", Path(), 0, False, print, RECIPES["raster"], *load_digits())

    def reached(accuracy, fid, copies):
        rest = {"inception_score": 9.0, "precision": 0.9, "recall": 0.9}
        reports = {
            "generated": report(accuracy=accuracy, fid=fid, copies=copies, **rest),
            "real": report(fid=1.0),
            "untrained": report(fid=101.0),
            "held_out": report(accuracy=0.97, copies=0.01),
        }
        return make_record(demo, {"psnr": 20.0}, reports)["reached"]

    assert all(reached(accuracy=0.9, fid=11.0, copies=0.02).values())
    assert not reached(accuracy=0.899, fid=11.0, copies=0.02)["accuracy"]
    assert not reached(accuracy=0.9, fid=11.1, copies=0.02)["fid"]
    assert not reached(accuracy=0.9, fid=11.0, copies=0.021)["copies"]


def test_an_unknown_order_is_told_with_suggestions(tmp_path):
    with pytest.raises(KeyError, match="next_scale"):
        run_demo("next-scale", tmp_path)


@pytest.mark.parametrize("name", packaged())
def test_presets_do_what_their_records_say(name):
    """300 images: accuracy and FID on the packaged classifier, within sampling noise."""
    preset = PRESETS[name]
    generator = ImageGenerator.from_pretrained(name)
    sizes = (generator.transformer.num_parameters(), generator.tokenizer.num_parameters())
    assert sizes == preset.parameters
    assert generator.transformer.config.order == preset.order
    labels = list(range(10)) * 30
    pixels = generator(labels, seeds=10_000, output_type="pixels", batch_size=100).images
    _, held_out = load_digits()
    call = {"metrics": ["accuracy", "fid"], "features": "digits", "reference": held_out.pixels}
    report = evaluate(pixels, labels=labels, **call)
    assert report["accuracy"].value >= preset.scores["accuracy"] - 0.04
    untrained = type(generator.transformer)(generator.transformer.config)
    noise = ImageGenerator(generator.tokenizer, untrained, generator.settings)
    pixels = noise(labels, seeds=0, output_type="pixels", batch_size=100).images
    bad = evaluate(pixels, labels=labels, **call)
    assert bad["accuracy"].value < 0.5
    assert report["fid"].value < bad["fid"].value / 5


@pytest.mark.parametrize("name", packaged())
def test_preset_tokenizers_reconstruct_held_out_digits(name):
    tokenizer = ImageGenerator.from_pretrained(name).tokenizer
    _, held_out = load_digits()
    decoded = to_pixels(tokenizer.reconstruct(from_pixels(held_out.pixels[:50])))
    error = np.square(decoded.astype(float) - held_out.pixels[:50]).mean()
    assert 10 * np.log10(255**2 / error) > 20
