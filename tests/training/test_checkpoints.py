"""Saved states: whole or not at all, the newest that can be read, the last few kept."""

import errno

import pytest
import torch
from tiny import sentence

from arimage.training import checkpoints as module
from arimage.training.checkpoints import STATE, Checkpoints


def state(step):
    return {"done": step, "weights": {"a": torch.full((3,), float(step))}, "none": None}


def test_the_newest_are_kept_and_the_newest_is_loaded(tmp_path):
    saved = Checkpoints(tmp_path / "run", keep=2)
    assert saved.load() is None
    for step in (5, 10, 100):
        saved.save(step, state(step))
    assert saved.steps() == [10, 100]
    loaded = saved.load()
    assert loaded["done"] == 100
    assert torch.equal(loaded["weights"]["a"], torch.full((3,), 100.0))


def test_a_damaged_state_is_passed_over_and_replaced(tmp_path):
    saved = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        saved.save(step, state(step))
    path = saved.path(2) / STATE
    path.write_bytes(path.read_bytes()[:100])
    assert saved.load()["done"] == 1
    saved.save(2, state(2))
    assert saved.load()["done"] == 2
    for step in (1, 2):
        (saved.path(step) / STATE).write_bytes(b"nothing")
    with pytest.raises(ValueError) as caught:
        saved.load()
    assert "none of the states of steps [1, 2]" in sentence(caught)


def test_what_a_killed_save_left_is_removed(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(1, state(1))
    torn = tmp_path / ".step-00000002.abc"
    torn.mkdir()
    (torn / STATE).write_bytes(b"half")
    (tmp_path / "step-00000003").mkdir()  # no state inside
    assert saved.load()["done"] == 1
    assert not torn.exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed"),
    ],
)
def test_a_full_disk_leaves_the_last_state_whole(tmp_path, monkeypatch, error):
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(4, state(4))

    def save(value, file):
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(module.torch, "save", save)
    with pytest.raises(OSError) as caught:
        saved.save(8, state(8))
    assert "cannot save step 8" in sentence(caught)
    assert "MB are free without it" in sentence(caught)
    assert "the state of step 4 is whole: make room and go on with --resume" in sentence(caught)
    monkeypatch.undo()
    assert saved.load()["done"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_pickle_is_not_run(tmp_path):
    saved = Checkpoints(tmp_path)

    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('run')",))

    saved.save(1, {"bomb": Bomb()})
    with pytest.raises(ValueError, match="can be read"):
        saved.load()


def test_at_least_one_state_is_kept(tmp_path):
    with pytest.raises(ValueError) as caught:
        Checkpoints(tmp_path, keep=0)
    assert "expected at least 1 saved state" in sentence(caught)
