"""Orders side by side: who takes part, one budget, a comparison that goes on, its figure."""

import json

import pytest
from tiny import EVERY_MODEL, sentence
from typer.testing import CliRunner

from arimage.cli import app
from arimage.cli_compare import parse_counts
from arimage.demo import compare, family
from arimage.demo.compare import Comparison, all_names, wanted
from arimage.demo.compare_figure import looks, table
from arimage.demo.digits import Split, load_digits
from arimage.images import read_image

pytestmark = pytest.mark.untyped

FLOPS = 2e9  # two or three steps
ONLY = ("var", "llama/masked", "llama_text")


def comparison(out, **options):
    options = {"flops": FLOPS, "only": ONLY, "steps_per_image": (2, 4, 99), **options}
    return Comparison(out, **options, say=lambda text: None)


@pytest.fixture(scope="module")
def small():
    """Few images, few rounds."""
    train, held_out = load_digits()
    few = Split(train.pixels[:100], train.labels[:100]), held_out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "PER_CLASS", 2)
        patch.setattr(compare, "TIMED", 2)
        patch.setattr(compare, "ROUNDS", 1)
        patch.setattr(family, "COPIES", 0)
        patch.setattr(family, "load_digits", lambda: few)
        yield


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    """A comparison that is complete, and its record."""
    out = tmp_path_factory.mktemp("compare")
    return out, comparison(out).run()


def test_the_record_has_settings_and_a_point_for_every_number_of_passes(made):
    out, record = made
    assert json.loads((out / "compare.json").read_text()) == record
    assert list(record["entries"]) == ["var/next_scale", "llama/masked"]
    assert record["left_out"] == {
        "llama_text/raster": "it reads prompts, and the digits have classes"
    }
    assert record["settings"]["flops"] == FLOPS
    var, masked = record["entries"].values()
    assert (var["tokenizer"], masked["tokenizer"]) == ("digits-var", "digits-llamagen")
    assert (list(var["points"]), list(masked["points"])) == (["4"], ["2", "4"])
    for entry in (var, masked):
        assert abs(entry["steps"] * entry["cost"]["flops_per_step"] / FLOPS - 1) < 0.5
        for point in entry["points"].values():
            assert point["fid"] > record["real"]["fid"] >= 0
            assert 0 <= point["accuracy"] <= 1
            assert point["images_per_second"] > 0


def test_the_figure_is_there_and_the_table_has_its_points(made):
    out, record = made
    assert read_image(out / "compare.png", 64).shape == (64, 64, 3)
    assert table(record).row_count == 3


def test_it_goes_on_without_training_again(made, monkeypatch):
    out, record = made

    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(compare, "train_run", refuse)
    again = comparison(out, steps_per_image=(2, 8)).run()
    masked = again["entries"]["llama/masked"]["points"]
    assert list(masked) == ["2", "4", "8"]
    assert masked["2"]["fid"] == record["entries"]["llama/masked"]["points"]["2"]["fid"]


def test_half_a_training_is_made_anew(made):
    one = comparison(made[0], only=("llama/raster",))
    half = one.folder("llama/raster")
    half.mkdir(parents=True)
    (half / "run.json").write_text("{}")
    assert "llama/raster" in one.run()["entries"]


def test_another_comparison_is_refused(made):
    out, _ = made
    with pytest.raises(ValueError, match=r"another seed: 0, now 1; give what it had") as caught:
        comparison(out, seed=1).run()
    sentence(caught)


def test_a_budget_below_one_step_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match=r"a step of var/next_scale takes .*: give more"):
        comparison(tmp_path, flops=1e6, only=("var",)).run()
    assert not (tmp_path / "models").exists()


def test_whatever_is_registered_takes_part():
    assert all_names() == [f"{name}/{order}" for name, order in EVERY_MODEL]
    assert wanted(()) == all_names()
    assert wanted(("llama/masked", "rar")) == ["llama/masked", "rar/raster", "rar/random"]
    with pytest.raises(KeyError, match="Did you mean 'llama/masked'"):
        wanted(("llama/maskd",))


def test_a_model_that_takes_no_tokens_of_the_digits_is_named(tmp_path, monkeypatch):
    def refuse(*args):
        raise ValueError("tokens on a line")

    monkeypatch.setattr(compare, "build_transformer", refuse)
    tokenizers = family.digit_tokenizers()
    chosen, left = comparison(tmp_path, only=("var",)).contestants(tokenizers)
    assert not chosen
    assert left == {
        "var/next_scale": "digits-var: tokens on a line; digits-llamagen: tokens on a line"
    }


def test_a_colour_for_each_family_and_a_marker_for_each_order():
    found = looks(["a/x", "a/y", "b/x"])
    assert found["a/x"]["color"] == found["a/y"]["color"] != found["b/x"]["color"]
    assert found["a/x"]["marker"] == found["b/x"]["marker"] != found["a/y"]["marker"]
    many = looks([f"family{i}/order" for i in range(20)])
    assert len({look["color"] for look in many.values()}) == 20


def test_steps_per_image_on_the_command_line():
    assert parse_counts("8, 2,8") == [2, 8]
    for text in ("", "2,x", "0", "-1"):
        with pytest.raises(ValueError, match="give integers from 1"):
            parse_counts(text)


def test_the_command(made):
    out, _ = made
    line = ["compare", "orders", "--flops", str(FLOPS), "--only", "var", "--out", str(out)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["settings"]["flops"] == FLOPS
