"""Entries of the hub's benchmarks: what is written, and what would be refused."""

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from tiny import sentence

from arimage.benchmark_entries import check_entries, make_entries, write_entries
from arimage.model_card import CardFacts

BOARD = "bench/pictures"
REPORT = {
    "scores": [{"name": "fid", "value": 1.25, "count": 1000, "reference": "x", "features": "y"}],
    "protocol": {
        "name": "digits-1k-v1",
        "references": {"reference": {"name": "x", "sha256": "ab" * 32}},
        "settings": {"guidance_scale": 2.5},
        "versions": {"arimage": "1"},
    },
}


def test_an_entry_has_the_score_and_its_protocol(tmp_path):
    (path,) = write_entries(tmp_path, make_entries([REPORT], [f"fid={BOARD}:default"]))
    assert path == tmp_path / ".eval_results" / "bench--pictures-default.yaml"
    check_entries(path)
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == (BOARD, "default", 1.25)
    for words in ("metric fid", "images 1000", "ab" * 32, "setting guidance_scale 2.5"):
        assert words in entry.notes


@pytest.mark.parametrize("text", ["fid", "fid=pictures:a", "fid=a/b", "=a/b:c"])
def test_a_benchmark_of_another_form_is_told(text):
    with pytest.raises(ValueError, match="expected METRIC=OWNER/DATASET:TASK") as caught:
        CardFacts(benchmarks=(text,))
    assert repr(text) in sentence(caught)


@pytest.mark.parametrize(
    ("reports", "benchmarks", "words"),
    [
        ([REPORT], [f"sfid={BOARD}:a"], "got 0 scores 'sfid' in 1 reports"),
        ([], [f"fid={BOARD}:a"], "got 0 scores 'fid' in 0 reports"),
        ([REPORT, REPORT], [f"fid={BOARD}:a"], "got 2 scores 'fid' in 2 reports"),
        ([REPORT], [f"fid={BOARD}:a"] * 2, f"got the benchmark {BOARD}:a twice"),
    ],
)
def test_benchmarks_that_do_not_fit_are_told(reports, benchmarks, words):
    with pytest.raises(ValueError) as caught:
        make_entries(reports, benchmarks)
    assert words in sentence(caught)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a", "it is not YAML"),
        ("dataset: {id: a/b}", "it is not a list"),
        ("- dataset: {id: b, task_id: c}\n  value: 1", "no dataset id, owner/name"),
        ("- dataset: {id: a/b}\n  value: 1", "the result of a/b has no task_id"),
        ("- dataset: {id: a/b, task_id: c}", "the result of a/b has no value"),
    ],
)
def test_a_file_that_the_hub_would_refuse(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="the hub would refuse") as caught:
        check_entries(path)
    assert words in sentence(caught)
