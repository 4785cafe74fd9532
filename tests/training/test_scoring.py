"""FID while a generator trains: what it is of, what it leaves alone, what it refuses."""

import json
import os
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from generator_runs import go, recipe, write_tokens
from tiny import make_generator, sentence

from arimage.eval.protocols import EvaluationProtocol
from arimage.eval.runner import evaluate
from arimage.generator import ImageGenerator
from arimage.images import write_png
from arimage.training import scoring
from arimage.training.generator_recipe import read_generator_recipe
from arimage.training.loop import Loop
from arimage.training.processes import make_accelerator
from arimage.training.run_folder import LOSSES, read_lines
from arimage.training.scoring import Scorer

SCORE = {"reference": "digits", "features": "digits", "every": 2, "count": 10, "batch_size": 4}


def scored(**fields):
    """The tiny recipe with a score, changed."""
    more = {"steps": fields.pop("steps")} if "steps" in fields else {}
    return recipe(score={**SCORE, **fields}, **more)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "photos", "multiscale_vq")


@pytest.fixture(scope="module")
def whole(tokens, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert go(tokens, out, scored()).finished
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of real images, wider than the generator's."""
    folder, rng = tmp_path_factory.mktemp("real") / "pictures", np.random.default_rng(0)
    for i in range(9):
        pixels = rng.integers(0, 256, (18, 20, 3), dtype=np.uint8)
        write_png(folder / f"{i}.png", pixels)
    return folder


def run_of(out):
    return json.loads((out / "run.json").read_text())


def rows_of(out):
    return read_lines(out / LOSSES)


def weights_of(out):
    return ImageGenerator.from_pretrained(out, dtype=torch.float32).transformer.state_dict()


def test_the_steps_that_are_scored(whole):
    found = [(row["step"], row["fid count"]) for row in rows_of(whole) if "fid" in row]
    assert found == [(2, 10), (4, 10), (6, 10)]
    values = [row["fid"] for row in rows_of(whole) if "fid" in row]
    assert len(set(values)) == 3
    assert min(values) > 0


def test_it_is_what_evaluate_says_of_the_saved_generator(whole):
    """Of the averaged weights, by the generator's defaults, of the seeds from 0 on."""
    protocol = EvaluationProtocol(
        name="same", count=10, num_classes=3, image_size=16, metric_settings={}
    )
    generator = ImageGenerator.from_pretrained(whole, dtype=torch.float32)
    images = generator.stream_dataset(protocol, batch_size=4)
    report = evaluate(images, metrics=["fid"], reference="digits", features="digits", batch_size=4)
    assert report.scores[0].value == pytest.approx(rows_of(whole)[-1]["fid"], rel=1e-9)


def test_the_record_says_by_what_protocol(whole):
    about = run_of(whole)["score"]
    assert about["features"].startswith("digits@")
    assert len(about["reference"]["sha256"]) == 64
    assert (about["count"], about["seeds"], about["labels"]) == (10, "0-9", "balanced")
    assert about["sampling"]["guidance_scale"] == 1.0
    assert about["image_size"] == 16
    few, singular = about["warnings"]
    assert few.startswith("10 images are few: fid")
    assert "10 images for 64 features" in singular


def test_a_training_is_the_same_without_a_score(tokens, whole, tmp_path):
    go(tokens, tmp_path / "run", recipe())
    plain, other = weights_of(tmp_path / "run"), weights_of(whole)
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    bare = [{k: v for k, v in r.items() if not k.startswith("fid")} for r in rows_of(whole)]
    assert bare == rows_of(tmp_path / "run")
    assert "score" not in run_of(tmp_path / "run")


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def sabotaged(data, out, resume, home, name, count):
    """A run that is killed at the given call of a function."""
    torch.set_num_threads(1)
    left, plain = iter(range(count)), getattr(home, name)
    setattr(home, name, lambda *a, **k: die() if next(left, None) is None else plain(*a, **k))
    go(data, out, scored(), resume=resume)


def test_a_run_killed_amid_a_score_goes_on_bit_identically(tokens, whole, tmp_path):
    out = tmp_path / "run"
    kills = [(scoring, "extract", 1), (Loop, "step", 2), (Scorer, "_merged", 0)]
    for i, (home, name, count) in enumerate(kills):
        arguments = (tokens, out, i > 0, home, name, count)
        process = get_context("fork").Process(target=sabotaged, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert go(tokens, out, scored(), resume=True).finished
    assert (out / LOSSES).read_text() == (whole / LOSSES).read_text()
    assert run_of(out) == run_of(whole)


def test_images_as_a_reference_are_extracted_once(tokens, pictures, tmp_path, monkeypatch):
    out, given = tmp_path / "run", scored(reference=str(pictures), steps=1)
    go(tokens, out, given)
    (kept,) = out.glob("reference-*.npz")
    assert kept.stat().st_size < 100_000
    assert str(pictures.parent) not in (out / "run.json").read_text()
    about = run_of(out)
    assert about["recipe"]["score"]["reference"] == about["score"]["reference"]["name"]
    assert about["score"]["reference"]["name"] == "pictures"
    assert about["score"]["reference"]["count"] == 9
    monkeypatch.setattr(scoring, "from_source", None)  # not called again
    assert go(tokens, out, given, resume=True).finished
    assert run_of(out) == about


def test_other_images_are_another_protocol(tokens, pictures, tmp_path):
    """The negative twin; the same images elsewhere are the same."""
    go(tokens, tmp_path / "run", scored(reference=str(pictures), steps=1))
    moved = shutil.copytree(pictures, tmp_path / "moved")
    again = scored(reference=str(moved), steps=1)
    assert go(tokens, tmp_path / "run", again, resume=True).finished
    next(iter(moved.iterdir())).unlink()
    with pytest.raises(ValueError) as caught:
        go(tokens, tmp_path / "run", again, resume=True)
    assert "had another value of score.reference.count: 9, now 8" in sentence(caught)


def test_a_run_may_begin_to_have_scores_and_keeps_their_protocol(tokens, tmp_path):
    out = tmp_path / "run"
    go(tokens, out, recipe(steps=1))
    assert go(tokens, out, scored(steps=1), resume=True).finished
    with pytest.raises(ValueError) as caught:
        go(tokens, out, scored(count=11, steps=1), resume=True)
    assert "had another value of score.count: 10, now 11" in sentence(caught)
    assert go(tokens, out, recipe(steps=1), resume=True).finished
    assert run_of(out)["score"]["count"] == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reference": "nowhere"}, "nowhere is not a folder"),
        ({"reference": "imagenet256"}, "the reference 'imagenet256' is not here"),
        ({"features": "inceptoin"}, "Did you mean 'inception'"),
        ({"features": "digits=gone.safetensors"}, "no digit classifier at gone.safetensors"),
        ({"features": "pixels"}, "'fid' needs the reference set 'digits' seen by"),
    ],
)
def test_what_is_not_there_is_told_before_the_first_step(
    tokens, tmp_path, monkeypatch, fields, message
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with pytest.raises((ValueError, KeyError, OSError)) as caught:
        go(tokens, tmp_path / "run", scored(**fields))
    assert message in sentence(caught)
    assert not (tmp_path / "run").exists()


def test_sampling_defaults_that_make_no_image_alone_are_told(tmp_path):
    generator = make_generator("var", "next_scale", rng="reference")
    with pytest.raises(ValueError, match="no image can be made alone"):
        Scorer(scored().score, generator, tmp_path, make_accelerator("no"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["score.every=10"], "the recipe lacks score.reference"),
        (["score.reference=digits", "score.every=0"], "got score.every 0; expected at least 1"),
        (["score.reference=digits", "score.count=1"], "got score.count 1; expected at least 2"),
        (["score.reference=digits", "score.extractor=x"], "unknown recipe field of score"),
    ],
)
def test_what_is_wrong_with_the_fields_is_told(changes, message):
    with pytest.raises((ValueError, KeyError)) as caught:
        read_generator_recipe("var-d16", changes)
    assert message in sentence(caught)


def test_fields_are_set_from_the_command_line():
    changes = ["score.reference=digits", "score.every=100", "score.features=digits"]
    score = read_generator_recipe("rar-B", changes).score
    assert (score.every, score.count, score.features) == (100, 5000, "digits")
    assert read_generator_recipe("rar-B").score is None


def test_a_path_stays_out_of_the_record(tokens, tmp_path):
    from importlib.resources import files

    classifier = Path(str(files("arimage"))) / "presets" / "digits-classifier.safetensors"
    statistics = shutil.copy(classifier.parent / "digits-reference.npz", tmp_path / "mine.npz")
    given = scored(features=f"digits={classifier}", reference=str(statistics), steps=1)
    go(tokens, tmp_path / "run", given)
    fields = run_of(tmp_path / "run")["recipe"]["score"]
    assert fields["features"] == "digits=digits-classifier.safetensors"
    assert fields["reference"] == "mine.npz"
