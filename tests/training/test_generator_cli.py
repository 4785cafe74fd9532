"""``arimage train generator`` from the command line."""

import pytest
from generator_runs import write_tokens
from typer.testing import CliRunner

from arimage.cli import app
from arimage.generator import ImageGenerator
from arimage.training.run_folder import LOSSES, read_lines

RECIPE = """
base: llamagen-B
model: {depth: 1, width: 16, num_heads: 1, mlp_hidden: 16}
"""


@pytest.fixture
def words(tmp_path):
    """A command without its start."""
    tokens = write_tokens(tmp_path / "tokens", "vq")
    return ["--data", str(tokens), "--out", str(tmp_path / "run"), "--tracker", "none"]


def call(*words):
    return CliRunner().invoke(app, ["train", "generator", *words])


def test_a_recipe_of_ones_own_then_other_classes(words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    few = ["--steps", "2", "--batch-size", "4", "--set", "validation=0.25"]
    done = call("--config", str(path), *words, *few)
    assert done.exit_code == 0, done.output
    assert "validation loss" in done.output
    assert "saved: " in done.output
    ImageGenerator.from_pretrained(tmp_path / "run")
    again = call("--config", str(path), *words, *few, "--resume")
    assert again.exit_code == 0, again.output
    words[3] = str(tmp_path / "tuned")
    done = call("--from", str(tmp_path / "run"), *words, *few, "--set", "lora.rank=1")
    assert done.exit_code == 0, done.output
    assert len(read_lines(tmp_path / "tuned" / LOSSES)) == 2


def test_neither_a_recipe_nor_a_start_is_told(words):
    done = call(*words)
    assert "give --config" in str(done.exception)
