"""Runs of tokenizer training: what they write, what they survive, what they refuse."""

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image
from tiny import sentence
from tokenizer_runs import (
    FIELDS,
    TOKENIZER,
    go,
    named,
    recipe,
    write_photographs,
    write_weights,
)

from arimage.tokenizers.base import ImageTokenizer
from arimage.training import checkpoints, session, tokenizer_run
from arimage.training.loop import Loop
from arimage.training.run_folder import LOSSES, read_lines
from arimage.training.tokenizer_build import new_tokenizer
from arimage.training.tokenizer_recipe import recipe_names

PARTS = {
    "encoder": ("encoder.", "pre_quant."),
    "codebook": ("quantizer.",),
    "decoder": ("decoder.", "post_quant."),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("data") / "photographs")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    outcome = go(data, out)
    assert outcome.finished
    return out


def weights_of(folder):
    return ImageTokenizer.from_pretrained(folder).state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_leaves_a_tokenizer_and_its_record(whole):
    tokenizer = ImageTokenizer.from_pretrained(whole)
    assert tokenizer.config.vocab_size == 32
    rows = read_lines(whole / LOSSES)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "l1", "l2", "codebook", "perplexity", "codebook use"} <= set(rows[0])
    assert "critic" not in rows[1]
    assert {"critic", "adversarial", "adversarial weight"} <= set(rows[2])
    names = {path.name for path in (whole / "samples").iterdir()}
    assert names == {"step-00000004.png", "step-00000006.png"}
    states = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert states == ["step-00000004", "step-00000006"]
    record = json.loads((whole / "run.json").read_text())
    assert record["recipe"]["losses"] == FIELDS["losses"]
    assert record["data"]["images"] == 12


def child(data, out, resume, sabotage):
    """A run in a process of its own that a patch kills."""
    context = get_context("fork")
    process = context.Process(target=sabotaged, args=(data, out, resume, sabotage))
    process.start()
    process.join()
    return process.exitcode


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def sabotaged(data, out, resume, sabotage):
    torch.set_num_threads(1)
    count, real = sabotage[1], sabotage[0]

    def dying(original):
        left = iter(range(count))
        return lambda *args, **kwargs: (
            die() if next(left, None) is None else original(*args, **kwargs)
        )

    if real == "step":
        Loop.step = dying(Loop.step)
    elif real == "half a state":
        save = torch.save

        def half(state, file):
            save(state, file)
            file.flush()
            os.truncate(file.name, os.path.getsize(file.name) // 2)
            die()

        left = iter(range(count))
        checkpoints.torch.save = lambda *a: half(*a) if next(left, None) is None else save(*a)
    elif real == "sample":
        session.write_png = dying(session.write_png)
    elif real == "result":
        ImageTokenizer.save_pretrained = dying(ImageTokenizer.save_pretrained)
    go(data, out, resume=resume)


@pytest.mark.parametrize(
    "kills",
    [
        [("step", 0), ("step", 1), ("step", 3)],
        [("half a state", 0), ("half a state", 1), ("result", 0)],
        [("sample", 0), ("step", 0), ("sample", 0)],
    ],
)
def test_a_killed_run_goes_on_bit_identically(data, whole, tmp_path, kills):
    out = tmp_path / "run"
    for i, sabotage in enumerate(kills):
        assert child(data, out, i > 0, sabotage) == -signal.SIGKILL
    outcome = go(data, out, resume=True)
    assert outcome.finished
    assert same(weights_of(whole), weights_of(out))
    assert (whole / LOSSES).read_text() == (out / LOSSES).read_text()


def test_a_run_that_goes_on_with_other_data_ends_elsewhere(data, whole, tmp_path, monkeypatch):
    """The negative twin: one step's images exchanged."""
    out, step = tmp_path / "run", Loop.step

    def exchanged(self, batch):
        if self.done == 4:
            batch = type(batch)(batch.images.flip(3), batch.index)
        return step(self, batch)

    monkeypatch.setattr(Loop, "step", exchanged)
    go(data, out)
    assert not same(weights_of(whole), weights_of(out))


def test_a_signal_stops_after_the_step_and_saves(data, whole, tmp_path, monkeypatch):
    out, step = tmp_path / "run", Loop.step

    def interrupted(self, batch):
        if self.done == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    monkeypatch.setattr(Loop, "step", interrupted)
    outcome = go(data, out)
    assert (outcome.done, outcome.finished) == (3, False)
    assert not (out / "model.safetensors").exists()
    monkeypatch.undo()
    assert go(data, out, resume=True).finished
    assert same(weights_of(whole), weights_of(out))


def test_a_loss_that_is_not_finite_stops_with_the_step(data, tmp_path):
    given = recipe(optimizer={"learning_rate": 1e30})
    with pytest.raises(FloatingPointError) as caught:
        go(data, tmp_path / "run", given)
    text = sentence(caught)
    assert "of tokenizer is" in text
    assert "at step 2" in text
    assert "the largest gradients are of tokenizer." in text


@pytest.mark.parametrize("trained", [["decoder"], ["codebook"], ["encoder", "codebook"]])
def test_frozen_parts_keep_every_bit(data, whole, tmp_path, trained):
    given = recipe(parts=trained, steps=3, adversarial=None)
    go(data, tmp_path / "run", given, start=str(whole))
    before, after = weights_of(whole), weights_of(tmp_path / "run")
    for part, prefixes in PARTS.items():
        names = [name for name in before if name.startswith(prefixes)]
        kept = all(torch.equal(before[name], after[name]) for name in names)
        assert names
        assert kept == (part not in trained)


def test_fine_tuning_starts_from_the_weights(data, whole, tmp_path):
    given = recipe(steps=1, optimizer={"learning_rate": 1e-30}, parts=["decoder"])
    go(data, tmp_path / "run", given, start=str(whole))
    for a, b in zip(weights_of(whole).values(), weights_of(tmp_path / "run").values(), strict=True):
        assert torch.allclose(a, b, atol=1e-20, rtol=0)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["from"] == "run"


@pytest.mark.parametrize("name", ["vq_cosine", "simvq", "residual_vq"])
def test_another_quantizer_begins_with_the_codes_there_are(data, whole, tmp_path, name):
    given = recipe(steps=1, adversarial=None)
    go(data, tmp_path / "run", given, start=str(whole), quantizer=name)
    assert ImageTokenizer.from_pretrained(tmp_path / "run").config.quantizer == name


def test_signs_of_many_numbers_are_too_many_codes(data, tmp_path):
    given = {**TOKENIZER, "code_dim": 32, "latent_channels": 8}
    new_tokenizer(given, 0).save_pretrained(tmp_path / "start")
    with pytest.raises(ValueError, match=r"2 \*\* 32 codes; at most 2 \*\* 24"):
        go(data, tmp_path / "run", start=str(tmp_path / "start"), quantizer="lfq")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_runs_a_step(data, weights, tmp_path, name):
    outcome = go(data, tmp_path / "run", named(name, weights))
    assert outcome.finished
    assert np.isfinite(list(outcome.measured.values())).all()
    assert {"perceptual", "codebook", "adversarial", "critic"} <= set(outcome.measured)
    ImageTokenizer.from_pretrained(tmp_path / "run")


def test_broken_images_are_skipped_and_named(data, tmp_path):
    folder = write_photographs(tmp_path / "data", 8)
    (folder / "003.jpg").write_bytes(b"not an image")
    outcome = go(folder, tmp_path / "run", recipe(steps=4))
    assert len(outcome.skipped) == 1
    assert "003.jpg" in outcome.skipped[0]
    with pytest.raises(ValueError) as caught:
        go(folder, tmp_path / "strict", recipe(steps=4), strict=True)
    assert "003.jpg" in sentence(caught)


def test_too_little_data_is_told_and_nothing_is_written(tmp_path):
    folder = write_photographs(tmp_path / "data", 3)
    with pytest.raises(ValueError) as caught:
        go(folder, tmp_path / "run")
    assert "got 3 images for a batch of 4" in sentence(caught)
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        go(tmp_path / "empty", tmp_path / "run")
    assert "empty" in sentence(caught)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_overwritten(data, whole):
    with pytest.raises(FileExistsError) as caught:
        go(data, whole)
    assert "go on with it by --resume" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        go(
            data,
            whole,
            recipe(optimizer={**FIELDS["optimizer"], "learning_rate": 2e-3}),
            resume=True,
        )
    assert "had another value of recipe.optimizer.learning_rate: 0.001, now 0.002" in sentence(
        caught
    )


def test_a_finished_run_that_is_resumed_stays_as_it_is(data, whole):
    before = weights_of(whole)
    assert go(data, whole, resume=True).finished
    assert same(before, weights_of(whole))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parts": ["decodr"]}, "got parts ['decodr'] to train"),
        ({"parts": ["encoder"]}, "train the decoder too, or set adversarial.adaptive=false"),
        ({"losses": {"codebook": {"weight": 1.0}}}, "give one of l1, l2, perceptual, or set adv"),
        ({"micro_batches": 3}, "got batch_size 4 for 1 processes with 3 micro-batches"),
        ({"tokenizer": {}}, "the recipe says nothing of a new tokenizer"),
        ({"tokenizer": {**TOKENIZER, "chanels": 3}}, "Did you mean 'channels'"),
        ({"losses": {"l1": {"weight": 1.0, "power": 2}}}, "the loss 'l1' takes no such setting"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(data, tmp_path, fields, message):
    with pytest.raises((ValueError, KeyError)) as caught:
        go(data, tmp_path / "run", recipe(**fields))
    assert message in sentence(caught)
    assert not (tmp_path / "run").exists()


def test_micro_batches_and_checkpointing_change_nothing_beyond_rounding(data, tmp_path):
    plain = {"adversarial": None, "perturbation": None, "steps": 2}
    go(data, tmp_path / "a", recipe(**plain))
    go(data, tmp_path / "b", recipe(**plain, micro_batches=2, gradient_checkpointing=True))
    for a, b in zip(*(read_lines(tmp_path / n / LOSSES) for n in "ab"), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_half_precision_learns_too(data, tmp_path):
    outcome = go(data, tmp_path / "run", recipe(precision="bf16", steps=3))
    assert np.isfinite(outcome.measured["loss"])
    tensors = weights_of(tmp_path / "run").values()
    assert not any(tensor.dtype == torch.bfloat16 for tensor in tensors)
    with pytest.raises(ValueError) as caught:
        go(data, tmp_path / "fp16", recipe(precision="fp16"))
    assert "fp16" in str(caught.value)


def test_tensorboard_has_the_curves_and_the_samples(data, tmp_path):
    go(data, tmp_path / "run", recipe(steps=4), tracker="tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run" / "logs" / "tokenizer"
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert events.Images("samples")


def test_other_trackers_get_pictures_as_they_take_them(data, tmp_path, monkeypatch):
    class Wandb(GeneralTracker):
        """Signatures of accelerate's and of ``wandb.Run.log``."""

        name, requires_logging_directory, pictures = "wandb", False, []

        def __init__(self):
            super().__init__()

        @property
        def tracker(self):
            return None

        def store_init_configuration(self, values):
            pass

        def log(self, values, step=None):
            pass

        def log_images(self, values, step=None, **kwargs):
            for name, images in values.items():
                self.log({name: list(images)}, step=step, **kwargs)
                self.pictures.append((step, images.shape[0], images.shape[-1]))

    tracker = Wandb()
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, *_, **__: None)
    real = tokenizer_run.make_accelerator

    def made(*arguments):
        accelerator = real(*arguments)
        accelerator.trackers = [tracker]
        return accelerator

    monkeypatch.setattr(tokenizer_run, "make_accelerator", made)
    go(data, tmp_path / "run", recipe(steps=4))
    assert tracker.pictures == [(4, 1, 3)]


def test_a_sample_sheet_shows_the_first_images(data, whole):
    sheet = np.asarray(Image.open(whole / "samples" / "step-00000006.png"))
    assert sheet.ndim == 3
    assert min(sheet.shape[:2]) > 2 * 32
    assert (
        Path(whole / "samples" / "step-00000004.png").read_bytes()
        != Path(whole / "samples" / "step-00000006.png").read_bytes()
    )


def test_a_run_may_go_on_with_other_saves_and_samples(data, whole):
    before = weights_of(whole)
    assert go(data, whole, recipe(save_every=3, keep=1, sample_every=1), resume=True).finished
    assert same(before, weights_of(whole))


def test_a_critic_that_never_starts_needs_no_weights(data, tmp_path):
    unreachable = {"start": 50, "critic": "frozen_features", "settings": {"model": "no/such"}}
    outcome = go(data, tmp_path / "run", recipe(steps=2, adversarial=unreachable))
    assert outcome.finished
    assert "critic" not in outcome.measured


def test_a_full_disk_while_a_sheet_is_written_is_told(data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session, "write_png", full)
    with pytest.raises(OSError) as caught:
        go(data, tmp_path / "run")
    assert "cannot save what step 4 measured" in sentence(caught)
    assert "the state of step 2 is whole" in sentence(caught)
