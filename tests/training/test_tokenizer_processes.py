"""Two processes with half a batch each train as one process with all of it."""

import json
import sys
from pathlib import Path

import pytest
from tokenizer_runs import go, named, write_photographs, write_weights
from two_processes import two_processes

from arimage.training.run_folder import LOSSES, read_lines
from arimage.training.tokenizer_recipe import recipe_names

STEPS = 3


TWO_MAPS = "multiscale-vq of two maps, which leave two of its four phi unused"
NAMES = [*recipe_names(), TWO_MAPS]


def train_all(folder: Path, given: dict) -> None:
    """Every named recipe, and one with micro-batches, into a folder of its own."""
    for name in NAMES:
        recipe = named(name.split()[0], given, steps=STEPS, batch_size=8)
        if name == TWO_MAPS:
            recipe.tokenizer["channel_multipliers"] = [1, 1, 1, 1, 1]
        go(folder.parent / "data", folder / name, recipe, resume=(folder / name).exists())


def main() -> None:
    """Run by each process of torchrun."""
    folder, weights = Path(sys.argv[1]), json.loads(sys.argv[2])
    train_all(folder, weights)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Losses by process count and recipe."""
    folder = tmp_path_factory.mktemp("processes")
    write_photographs(folder / "data", 20)
    (folder / "weights").mkdir()
    weights = write_weights(folder / "weights")
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    with two_processes(__file__, folder / "two", json.dumps(weights)):
        train_all(folder / "one", weights)
    return {
        world: {name: read_lines(folder / world / name / LOSSES) for name in NAMES}
        for world in ("one", "two")
    }


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one_with_twice_the_batch(both, name):
    one, two = both["one"][name], both["two"][name]
    assert len(one) == len(two) == STEPS
    parts = ("perceptual", "codebook", "adversarial", "critic", "perplexity")
    for a, b in zip(one, two, strict=True):
        # The adaptive weight of a critic with batch norms divides by a gradient that is nearly all
        # cancelled: after two updates rounding is 2e-4 of it, so the total is looked at before.
        for key in (*parts, *(("loss",) if a["step"] <= 2 else ())):
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-5), (key, a["step"])
    assert one[0]["loss"] != one[1]["loss"]


if __name__ == "__main__":
    main()
