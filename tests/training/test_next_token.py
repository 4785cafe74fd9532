"""Both next-token families learn digits, as benchmarks/next_token_training.py shows at length."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.untyped

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "next_token_training.py"
CHANCE = 4.852  # nats per token: log 128


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("next_token_training", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUDGET = {"steps": 60, "every": 20, "copies": 0, "seed": 0, "progress": False}


@pytest.mark.parametrize("name", ["llamagen", "rar"])
def test_the_validation_loss_falls(script, name):
    record = script.curve(name, **BUDGET)
    assert record["steps"] == [1, 20, 40, 60]
    assert record["losses"][0] == pytest.approx(CHANCE, abs=0.05)
    assert record["losses"] == sorted(record["losses"], reverse=True)
    assert record["losses"][-1] < CHANCE - 0.2


def test_random_orders_to_the_end_cost_in_raster_order(script, monkeypatch):
    """What annealing is for: the same steps, the last quarter in raster order or not."""
    annealed = script.curve("rar", **BUDGET)["losses"][-1]
    find = script.find_recipe

    def never_raster(name, changes, **fields):
        return find(name, [*changes, "anneal_start=1", "anneal_end=1"], **fields)

    monkeypatch.setattr(script, "find_recipe", never_raster)
    never = script.curve("rar", **BUDGET)["losses"][-1]
    print(f"nats per token: {annealed} with annealing, {never} without")
    assert never > annealed


def test_the_script_writes_one_plot_and_its_numbers(script, tmp_path, monkeypatch, capsys):
    out, plot = tmp_path / "r.json", tmp_path / "p.png"
    arguments = ["--steps", "3", "--every", "1", "--copies", "0"]
    files = ["--out", str(out), "--plot", str(plot)]
    for recipe in ("rar", "llamagen"):
        monkeypatch.setattr(sys, "argv", ["x", *arguments, *files, "--recipe", recipe])
        script.main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == json.loads(out.read_text())
    assert list(printed["curves"]) == ["llamagen", "rar"]
    assert plot.read_bytes().startswith(b"\x89PNG")
