"""Two processes share the images of a score; it is that of one process."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from generator_runs import go, recipe, write_tokens
from tiny import make_generator
from two_processes import two_processes

from arimage.pretrained import identity
from arimage.training.processes import make_accelerator
from arimage.training.run_folder import LOSSES, read_lines
from arimage.training.scoring import Scorer

COUNTS = (10, 3)  # three batches for two processes, one for both


def fields(count: int = 10, **more):
    """A tiny recipe with a score, without dropout, whose draws differ between processes."""
    score = {"reference": "digits", "features": "digits", "count": count, "batch_size": 4}
    model = {**recipe().model, "dropout": 0.0}
    return recipe(steps=1, model=model, drop_path=0.0, score=score, **more)


def scores(folder: Path) -> list[Any]:
    """The weights' identity, scores of the same untrained generator, and of a run of one step."""
    torch.manual_seed(0)
    generator, accelerator = make_generator("var", "next_scale"), make_accelerator("no")
    found: list[Any] = [identity(generator.transformer) + identity(generator.tokenizer)]
    found += [
        Scorer(fields(count).score, generator, folder, accelerator).score(generator)
        for count in COUNTS
    ]
    go(folder.parent / "tokens", folder / "run", fields(sample_every=9))
    if accelerator.num_processes > 1:
        go(folder.parent / "tokens", folder / "sharded", fields(sample_every=9, fsdp=True))
    return found


def main() -> None:
    """Run by each process."""
    print(json.dumps(scores(Path(sys.argv[1]))))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(scores of one process, those of each of two, rows of the runs)."""
    folder = tmp_path_factory.mktemp("processes")
    write_tokens(folder / "tokens", "multiscale_vq")
    for name in ("one", "two"):
        (folder / name).mkdir()
    with two_processes(__file__, folder / "two") as said:
        one = scores(folder / "one")
    two = [json.loads(text.splitlines()[-1]) for text in said]
    runs = {"one": "one/run", "two": "two/run", "sharded": "two/sharded"}
    return one, two, {name: read_lines(folder / place / LOSSES) for name, place in runs.items()}


def test_the_score_of_two_processes_is_that_of_one(both):
    (weights, *one), ((same, *two), (_, *other)), _ = both
    assert same == weights
    assert two == other
    assert [found["fid count"] for found in two] == list(COUNTS)
    for a, b in zip(one, two, strict=True):
        assert b["fid"] == pytest.approx(a["fid"], rel=1e-9)
    assert one[0]["fid"] != pytest.approx(one[1]["fid"], rel=1e-2)


@pytest.mark.parametrize("name", ["two", "sharded"])
def test_a_run_of_two_processes_notes_it_once(both, name):
    """Also where the weights are shared out."""
    *_, rows = both
    (one,), (two,) = rows["one"], rows[name]
    assert two == pytest.approx(one, rel=1e-4, abs=1e-4)
    assert two["fid count"] == 10


if __name__ == "__main__":
    main()
