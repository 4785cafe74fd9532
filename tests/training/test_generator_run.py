"""Runs of generator training: what they write, what they survive, what they refuse."""

import json
import os
import signal
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from generator_runs import FAMILIES, FIELDS, NAMES, go, recipe, write_tokens
from PIL import Image
from tiny import sentence

from arimage.generator import ImageGenerator
from arimage.pretrained import identity
from arimage.training import checkpoints, session
from arimage.training.generator_recipe import read_generator_recipe
from arimage.training.loop import Loop
from arimage.training.run_folder import LOSSES, read_lines


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Folders by kind of tokenizer."""
    folder = tmp_path_factory.mktemp("tokens")
    return {name: write_tokens(folder / name, name) for name in ("vq", "multiscale_vq")}


@pytest.fixture(scope="module")
def whole(tokens, tmp_path_factory):
    """An uninterrupted run of each family."""
    folder = tmp_path_factory.mktemp("whole")
    for family, (tokenizer, _) in FAMILIES.items():
        assert go(tokens[tokenizer], folder / family, recipe(family)).finished
    return {family: folder / family for family in FAMILIES}


def tokens_of(tokens, family):
    return tokens[FAMILIES[family][0]]


def weights_of(folder):
    return ImageGenerator.from_pretrained(folder, dtype=torch.float32).transformer.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_leaves_a_generator_and_its_record(tokens, whole):
    out = whole["var"]
    generator = ImageGenerator.from_pretrained(out)
    assert generator.class_names == NAMES
    assert generator("bread", seeds=3, output_type="pixels").images.shape == (1, 16, 16, 3)
    rows = read_lines(out / LOSSES)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    parts = [f"scale {k}" for k in range(3)]
    assert list(rows[0]) == ["step", "loss", *parts]
    held_out = ["validation loss", *(f"validation {part}" for part in parts)]
    assert [i for i, row in enumerate(rows, 1) if set(held_out) <= set(row)] == [3, 6]
    names = {path.name for path in (out / "samples").iterdir()}
    assert names == {"step-00000004.png", "step-00000006.png"}
    record = json.loads((out / "run.json").read_text())
    assert record["recipe"]["optimizer"]["learning_rate"] == 3e-3
    assert (record["data"]["images"], record["validation"]["images"]) == (12, 4)
    assert record["data"]["tokenizer"] == identity(generator.tokenizer)
    assert {"torch", "arimage", "accelerate", "transformers"} <= set(record["versions"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_falls(whole, family):
    rows = read_lines(whole[family] / LOSSES)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.05
    assert rows[-1]["validation loss"] < rows[2]["validation loss"]


def test_the_mean_over_maps_is_the_held_out_loss(whole):
    row = read_lines(whole["var"] / LOSSES)[-1]
    maps = [row[f"validation scale {k}"] for k in range(3)]
    assert row["validation loss"] == pytest.approx(np.average(maps, weights=[1, 4, 16]))


def child(data, out, given, resume, sabotage):
    """A run in a process of its own that a patch kills."""
    process = get_context("fork").Process(
        target=sabotaged, args=(data, out, given, resume, sabotage)
    )
    process.start()
    process.join()
    return process.exitcode


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def sabotaged(data, out, given, resume, sabotage):
    torch.set_num_threads(1)
    what, count = sabotage

    def dying(original):
        left = iter(range(count))
        return lambda *a, **k: die() if next(left, None) is None else original(*a, **k)

    if what == "step":
        Loop.step = dying(Loop.step)
    elif what == "state":
        checkpoints.torch.save = dying(checkpoints.torch.save)
    elif what == "sample":
        session.write_png = dying(session.write_png)
    elif what == "result":
        ImageGenerator.save_pretrained = dying(ImageGenerator.save_pretrained)
    go(data, out, given, resume=resume)


@pytest.mark.parametrize(
    ("family", "kills"),
    [
        ("var", [("step", 0), ("step", 1), ("step", 3)]),
        ("rar", [("state", 1), ("sample", 0), ("result", 0)]),
        ("llama", [("sample", 1), ("step", 0)]),
    ],
)
def test_a_killed_run_goes_on_bit_identically(tokens, whole, tmp_path, family, kills):
    data, out = tokens_of(tokens, family), tmp_path / "run"
    for i, sabotage in enumerate(kills):
        assert child(data, out, recipe(family), i > 0, sabotage) == -signal.SIGKILL
    assert go(data, out, recipe(family), resume=True).finished
    assert same(weights_of(whole[family]), weights_of(out))
    assert (whole[family] / LOSSES).read_text() == (out / LOSSES).read_text()


def test_another_seed_ends_elsewhere(tokens, whole, tmp_path):
    """The negative twin."""
    go(tokens["vq"], tmp_path / "run", recipe("llama", seed=1))
    assert not same(weights_of(whole["llama"]), weights_of(tmp_path / "run"))


def test_a_signal_stops_after_the_step_and_saves(tokens, whole, tmp_path, monkeypatch):
    out, step = tmp_path / "run", Loop.step

    def interrupted(self, batch):
        if self.done == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(Loop, "step", interrupted)
    outcome = go(tokens["vq"], out, recipe("rar"))
    assert (outcome.done, outcome.finished) == (3, False)
    assert not (out / "model_index.json").exists()
    monkeypatch.undo()
    assert go(tokens["vq"], out, recipe("rar"), resume=True).finished
    assert same(weights_of(whole["rar"]), weights_of(out))


def test_a_loss_that_is_not_finite_stops_with_the_step(tokens, tmp_path):
    given = recipe("llama", optimizer={"learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(FloatingPointError) as caught:
        go(tokens["vq"], tmp_path / "run", given)
    assert "of transformer is" in sentence(caught)
    assert "the largest gradients are of transformer." in sentence(caught)


def test_a_run_that_is_there_is_gone_on_with_or_left_alone(tokens, whole):
    data, out, before = tokens["multiscale_vq"], whole["var"], weights_of(whole["var"])
    with pytest.raises(FileExistsError) as caught:
        go(data, out)
    assert "go on with it by --resume" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        go(data, out, recipe(label_dropout=0.2), resume=True)
    assert "another value of recipe.label_dropout: 0.1, now 0.2" in sentence(caught)
    assert go(data, out, resume=True).finished
    assert same(before, weights_of(out))


def test_a_run_is_not_gone_on_with_other_tokens(tokens, whole, tmp_path):
    other = write_tokens(tmp_path / "multiscale_vq", "multiscale_vq", seed=1)
    with pytest.raises(ValueError) as caught:
        go(other, whole["var"], resume=True)
    assert "had another value of data.identity" in sentence(caught)


def test_held_out_tokens_may_be_a_folder(tokens, tmp_path):
    held_out = write_tokens(tmp_path / "held-out", "vq", 5, seed=7)
    given = recipe("rar", validation=0.0)
    outcome = go(tokens["vq"], tmp_path / "run", given, validation=held_out)
    assert 0 < outcome.measured["validation loss"] < 6
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["data"]["images"], record["validation"]["images"]) == (16, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_and_checkpointing_change_nothing_beyond_rounding(tokens, tmp_path, family):
    model = {**recipe(family).model, "dropout": 0.0}
    plain = {"steps": 2, "model": model, "drop_path": 0.0}
    data = tokens_of(tokens, family)
    go(data, tmp_path / "a", recipe(family, **plain))
    given = recipe(family, **plain, micro_batches=2, gradient_checkpointing=True)
    go(data, tmp_path / "b", given)
    for a, b in zip(*(read_lines(tmp_path / n / LOSSES) for n in "ab"), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_checkpointing_repeats_what_was_dropped(tokens, whole, tmp_path):
    go(tokens["vq"], tmp_path / "run", recipe("llama", gradient_checkpointing=True))
    rows = [read_lines(out / LOSSES) for out in (whole["llama"], tmp_path / "run")]
    for a, b in zip(*rows, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.parametrize("name", ["var-d16", "llamagen-B", "rar-B"])
def test_a_published_recipe_runs_on_a_cpu(tokens, tmp_path, name):
    sizes = ["depth=1", "width=16", "num_heads=1"] + ["mlp_hidden=16"] * (name != "var-d16")
    few = ["steps=1", "batch_size=4", *(f"model.{size}" for size in sizes)]
    data = tokens["multiscale_vq" if name == "var-d16" else "vq"]
    if name == "var-d16":
        with pytest.raises(ValueError, match="use bf16, or no for float32"):
            go(data, tmp_path / "half", read_generator_recipe(name, few))
        few.append("precision=no")
    assert go(data, tmp_path / "run", read_generator_recipe(name, few)).finished


def test_half_precision_learns_too(tokens, tmp_path):
    outcome = go(tokens["multiscale_vq"], tmp_path / "run", recipe(precision="bf16"))
    assert np.isfinite(outcome.measured["loss"])
    tensors = weights_of(tmp_path / "run").values()
    assert not any(tensor.dtype == torch.bfloat16 for tensor in tensors)


def test_tensorboard_has_the_curves_and_the_samples(tokens, tmp_path):
    go(tokens["vq"], tmp_path / "run", recipe("llama", steps=4), tracker="tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "logs" / "generator"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("validation loss")] == [3, 4]
    assert events.Images("samples")


def test_a_sample_sheet_shows_the_classes(whole):
    sheets = sorted((whole["var"] / "samples").iterdir())
    assert np.asarray(Image.open(sheets[0])).shape[1] > 8 * 16
    assert sheets[0].read_bytes() != sheets[1].read_bytes()


@pytest.mark.parametrize(
    ("fields", "asked", "message"),
    [
        ({"micro_batches": 3}, {}, "got batch_size 4 for 1 processes with 3 micro-batches"),
        ({"batch_size": 16}, {}, "got 12 images for a batch of 16"),
        ({"model": {}}, {}, "the recipe says nothing of a new transformer"),
        ({"model": {"family": "rar"}}, {}, "got order 'raster' for a tokenizer with 3 token maps"),
        ({"anneal_end": 0.5}, {}, "the recipe teaches random orders and VARModel knows next_scale"),
        ({"lora": {}}, {}, "got lora for a new transformer; give a trained one by --from"),
        ({"drop_path": 0.6}, {}, "got a drop_path that reaches 1.2 in the last block"),
        ({"precision": "fp16"}, {}, "got precision fp16, which needs a GPU"),
        ({}, {"tracker": "paper"}, "got tracker 'paper'"),
        ({}, {"validation": "multiscale_vq"}, "leave one of them out"),
        ({"validation": 0.0}, {"validation": "vq"}, "the tokens were made by the tokenizer"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(
    tokens, tmp_path, fields, asked, message
):
    if "validation" in asked:
        asked = {"validation": tokens[asked["validation"]]}
    with pytest.raises((ValueError, KeyError)) as caught:
        go(tokens["multiscale_vq"], tmp_path / "run", recipe(**{**FIELDS, **fields}), **asked)
    assert message in sentence(caught)
    assert not (tmp_path / "run").exists()
