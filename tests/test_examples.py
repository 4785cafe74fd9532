"""Every example runs as a person would run it, in an empty folder."""

import runpy
from pathlib import Path

import pytest

from arimage.pretrained import default_dtype

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_says_something(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("arimage.generator.default_dtype", default_dtype)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_there_are_examples():
    names = {path.stem for path in EXAMPLES}
    assert {"generate", "stream", "reconstruct", "evaluate", "train"} <= names
