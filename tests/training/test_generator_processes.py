"""Two processes with half a batch each train as one process with all of it."""

import sys
from pathlib import Path

import pytest
from generator_runs import FAMILIES, go, recipe, write_tokens
from two_processes import two_processes

from arimage.training.run_folder import LOSSES, read_lines

STEPS = 4
RUNS = {family: (family, {}) for family in FAMILIES} | {
    "lora": ("var", {"lora": {"rank": 2}}),
    "masked": ("llama", {"model": {"order": "masked"}}),
}


def train_all(folder: Path) -> None:
    """Every family, adapters, and an order that masks, each into a folder of its own; no dropout,
    whose draws differ.
    """
    for name, (family, fields) in RUNS.items():
        model = {**recipe(family).model, "dropout": 0.0, **fields.get("model", {})}
        given = recipe(
            family,
            lora=fields.get("lora"),
            steps=STEPS,
            batch_size=8,
            micro_batches=2,
            model=model,
            drop_path=0.0,
            label_dropout=0.4,
        )
        start = str(folder.parent / "start") if "lora" in fields else None
        tokens = folder.parent / FAMILIES[family][0]
        go(tokens, folder / name, given, resume=(folder / name).exists(), start=start)


def main() -> None:
    """Run by each process."""
    train_all(Path(sys.argv[1]))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Losses by process count and run."""
    folder = tmp_path_factory.mktemp("processes")
    for name in ("vq", "multiscale_vq"):
        write_tokens(folder / name, name, 20)
    without = {**recipe().model, "dropout": 0.0}
    go(folder / "multiscale_vq", folder / "start", recipe(steps=1, model=without))
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    with two_processes(__file__, folder / "two"):
        train_all(folder / "one")
    return {
        world: {name: read_lines(folder / world / name / LOSSES) for name in RUNS}
        for world in ("one", "two")
    }


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_are_one_with_twice_the_batch(both, name):
    one, two = both["one"][name], both["two"][name]
    assert len(one) == len(two) == STEPS
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-5)
    assert "validation loss" in one[-1]
    assert one[0]["loss"] != one[-1]["loss"]


if __name__ == "__main__":
    main()
