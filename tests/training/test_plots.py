"""Plots of runs: a known power law is found again, a real run is drawn, bad folders are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from generator_runs import go, recipe, write_tokens
from typer.testing import CliRunner

from arimage.cli import app
from arimage.images import read_image
from arimage.training.plots import plot_runs, smooth
from arimage.training.run_records import read_run, read_runs
from arimage.training.scaling import fit_law, frontier, group_runs

ALPHA, BETA, STEPS = -0.2, 3e-5, 4
RECIPE = recipe("var", steps=STEPS).to_dict()
SIZES = (1_000, 4_000, 16_000, 64_000)


def write_run(folder: Path, size: int, tokens="t", steps=STEPS, power=ALPHA, **more):
    """A made-up run of that many parameters, whose last losses are on the law in N and in C.

    Its last C is 10^3 N, and losses before the last one are above every other run's.
    """
    folder.mkdir(parents=True)
    cost = {"parameters": 2 * size, "parameters_without_embeddings": size}
    cost["flops_per_step"] = 1000 * size // STEPS
    data = {"name": "digits", "identity": tokens}
    record = {"recipe": RECIPE, "data": data, "validation": {"identity": "v"}, "cost": cost}
    (folder / "run.json").write_text(json.dumps(record))
    rows = []
    for step in range(1, steps + 1):
        loss = (BETA * size) ** power + (1e3 if step < STEPS else 0)
        rows.append({"step": step, "loss": 5.0 / step})
        if step > 1:  # the first validation comes with compute that no finished run has undercut
            rows[-1] |= {"validation loss": loss, "validation scale 1": loss**2, **more}
    (folder / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def last_step_only(folder):
    """Removes validations before the last one."""
    path = folder / "losses.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[:-1]:
        for key in [key for key in row if key.startswith("validation")]:
            del row[key]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def law_runs(tmp_path):
    return [last_step_only(write_run(tmp_path / f"n{n}", n)) for n in SIZES]


def test_a_known_power_law_is_found_again(law_runs, tmp_path):
    made = plot_runs(law_runs, tmp_path / "plots")
    (fit,) = made["fits"]
    assert fit["runs"] == [f"n{n}" for n in SIZES]
    laws = {(law["x"], law["loss"]): law for law in fit["laws"]}
    assert len(laws) == 4
    for x, beta in (("N", BETA), ("C", BETA / 1000)):
        law = laws[x, "validation loss"]
        assert law["alpha"] == pytest.approx(ALPHA, abs=1e-9)
        assert law["beta"] == pytest.approx(beta, rel=1e-6)
        assert law["r"] == pytest.approx(-1)
        assert law["points"] == len(SIZES)
        assert laws[x, "validation scale 1"]["alpha"] == pytest.approx(2 * ALPHA, abs=1e-9)
    assert made["left_out"] == []
    for name in made["files"]:
        assert min(read_image(name).shape[:2]) > 300
    assert {Path(f).name for f in made["files"]} >= {"generators.png", "scaling_law.png"}


def test_noise_lowers_r_and_the_frontier_keeps_what_nothing_undercuts():
    x = np.geomspace(1, 100, 20)
    noisy = 3 * x**-0.3 * np.exp(0.2 * np.random.default_rng(0).standard_normal(20))
    law = fit_law(x, noisy, "N", "loss")
    assert -0.99 < law.r < -0.8
    assert abs(law.alpha + 0.3) < 0.1
    assert np.allclose(law.at(x), (law.beta * x) ** law.alpha)
    compute, losses = frontier(np.array([3.0, 1, 2, 4]), np.array([2.0, 4, 5, 3]))
    assert compute.tolist() == [1, 3]
    assert losses.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("x", "losses", "words"),
    [
        ([1, 2], [2, 1], "needs 3"),
        ([1, 1, 1], [3, 2, 1], "needs 3"),
        ([1, 2, 3], [2, 2, 2], "same loss"),
        ([1, 2, 3], [2, 0, 1], "not above 0"),
    ],
)
def test_what_has_no_law_is_refused(x, losses, words):
    with pytest.raises(ValueError, match=words):
        fit_law(np.array(x, float), np.array(losses, float), "N", "loss")


def test_runs_of_other_tokens_are_not_put_into_one_fit(law_runs, tmp_path):
    others = [write_run(tmp_path / f"o{n}", n, tokens="u", power=-0.5) for n in SIZES[:2]]
    groups, left = group_runs(read_runs([*law_runs, *others]))
    assert [[run.name for run in group.runs] for group in groups] == [[f"n{n}" for n in SIZES]]
    assert any("2 groups" in line for line in left)
    assert any("o1000, o4000: 2 comparable runs" in line for line in left)


def test_two_runs_or_unfinished_ones_give_curves_only(law_runs, tmp_path):
    unfinished = write_run(tmp_path / "half", 9, steps=STEPS - 1)
    groups, left = group_runs(read_runs([*law_runs[:2], unfinished]))
    assert groups == []
    assert left == ["half is not finished", "n1000, n4000: 2 comparable runs, a law needs 3"]


def test_fid_has_a_panel_where_it_was_measured(tmp_path):
    from arimage.training.plots import generator_panels

    run = write_run(tmp_path / "a", 10, **{"fid (500 images)": 12.0})
    panels = generator_panels([read_run(run, "a")])
    assert panels == ["loss", "validation loss", "learning rate", "fid (500 images)"]


def test_the_learning_rate_is_the_recipes(tmp_path):
    steps, rates = read_run(write_run(tmp_path / "a", 10), "a").rates()
    training = recipe("var", steps=STEPS).training()
    assert rates.tolist() == [training.rate_at(int(step) - 1) for step in steps]


def test_a_real_run_is_drawn_by_the_command(tmp_path):
    data = write_tokens(tmp_path / "tokens", "multiscale_vq")
    go(data, tmp_path / "run", recipe("var", steps=2))
    out = tmp_path / "plots"
    result = CliRunner().invoke(app, ["plot", str(tmp_path / "run"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout.splitlines()[-1])
    assert {Path(f).name for f in made["files"]} == {"generators.png", "maps_run.png"}
    assert all(Path(f).is_file() for f in made["files"])
    assert "a law needs 3" in made["left_out"][0]


def refused(folder, words, kind=ValueError):
    with pytest.raises(kind, match=words):
        plot_runs([folder], folder.parent / "plots")
    assert not (folder.parent / "plots").exists()


def test_bad_folders_are_refused(tmp_path):
    refused(tmp_path / "none", "there is no folder", FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no run.json")
    run = write_run(tmp_path / "run", 10)
    with pytest.raises(ValueError, match="twice"):
        plot_runs([run, run], tmp_path / "plots")
    losses = run / "losses.jsonl"
    text = losses.read_text()
    losses.write_text(text.replace('{"step": 2', '{"step" 2'))
    refused(run, "line 2 of .* is no JSON")
    losses.write_text(text + "[1]\n")
    refused(run, "line 5 of .* names no step")
    losses.write_text("")
    refused(run, "holds no step yet")


def test_a_torn_last_line_is_left_out_and_said(tmp_path):
    run = write_run(tmp_path / "run", 10)
    with open(run / "losses.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    made = plot_runs([run], tmp_path / "plots")
    assert made["left_out"][0] == "the last line of run was torn"


def test_long_curves_are_means_and_short_ones_are_left():
    curve = (np.arange(1.0, 201), np.ones(200))
    assert len(smooth(curve)[0]) == 197
    assert np.allclose(smooth(curve)[1], 1)
    short = (np.arange(3.0), np.arange(3.0))
    assert smooth(short) is short
