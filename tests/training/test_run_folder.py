"""A run's folder: what was measured stays whole lines, whatever happened to the last one."""

import json

import pytest

from arimage.training.run_folder import LOSSES, RunFolder, read_lines


@pytest.mark.parametrize("done", [2, 3])
def test_a_torn_line_is_gone_when_the_run_goes_on(tmp_path, done):
    folder = RunFolder(tmp_path, keep=1)
    folder.begin({}, 0)
    for step in (1, 2, 3):
        folder.note(step, {"loss": 0.5})
    with open(tmp_path / LOSSES, "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')  # killed here, or a full disk
    folder.begin({}, done)
    folder.note(done + 1, {"loss": 0.25})
    rows = [json.loads(line) for line in (tmp_path / LOSSES).read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, done + 2))
    assert rows[-1]["loss"] == 0.25
    assert read_lines(tmp_path / LOSSES) == rows
