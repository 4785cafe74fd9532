"""New processes that share the work of ``arimage tokens``."""

import multiprocessing
from multiprocessing import get_context

import pytest
from tiny import sentence
from token_runs import files_of, go, write_classes, write_tokenizer

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
