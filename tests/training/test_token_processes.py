"""New processes that share the work of ``arimage tokens``."""

import multiprocessing
import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from tiny import sentence
from token_runs import files_of, go, write_classes, write_tokenizer

from arimage.training import token_run
from arimage.training.token_run import TokenRun, run_in_processes


def asked(folder, out, **fields):
    common = {"batch_size": 2, "shard_size": 3, "progress": False}
    paths = {"tokenizer": str(folder / "tiny"), "data": str(folder / "data"), "out": folder / out}
    return TokenRun(**{**common, **paths, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_tokenizer(folder / "tiny")
    write_classes(folder / "data")
    return folder


def test_two_processes_make_what_one_makes(folder):
    go(folder / "tiny", folder / "data", folder / "one")
    assert len(run_in_processes(asked(folder, "two"), 2)) == 10
    assert files_of(folder / "one") == files_of(folder / "two")


def test_what_does_not_fit_is_told_once_before_they_start(folder):
    with pytest.raises(ValueError, match="got 0 processes"):
        run_in_processes(asked(folder, "none"), 0)
    with pytest.raises(NotADirectoryError) as caught:
        run_in_processes(asked(folder, "none", data="./nothing"), 2)
    assert "nothing" in sentence(caught)
    assert not (folder / "none").exists()


def test_a_process_that_fails_is_told_and_the_work_of_others_stays(folder, monkeypatch, capfd):
    """The folder of the shards becomes a file after the checks of this process."""
    fork = get_context("fork")  # quicker, and the same otherwise
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setattr("arimage.training.token_run.Encoding.check", _spoil)
    with pytest.raises(ChildProcessError) as caught:
        run_in_processes(asked(folder, "spoiled"), 2)
    assert "process 1 of 2 ended with exit code 2" in sentence(caught)
    assert "arimage: " in capfd.readouterr().err


def _spoil(encoding):
    encoding.run.out.write_text("in the way")


def test_processes_end_with_the_one_that_is_killed(folder, tmp_path):
    """A child that never ends by itself is gone soon after its parent."""
    child = tmp_path / "child"
    parent = get_context("fork").Process(target=_parent, args=(folder, tmp_path / "out", child))
    parent.start()
    wait_until(lambda: child.exists() and child.read_text())
    number = int(child.read_text())
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    wait_until(lambda: not alive(number))


def _parent(folder, out, child):
    token_run.run_tokens = lambda run, share: (child.write_text(str(os.getpid())), time.sleep(60))
    fork = get_context("fork")
    multiprocessing.get_context = lambda method: fork
    run_in_processes(asked(folder, out), 2)


def alive(number):
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # who adopted it may not have looked yet


def wait_until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
