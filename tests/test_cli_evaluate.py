"""The commands that score, as a person types them."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from arimage.cli import app
from arimage.demo.digits import load_digits
from arimage.eval.protocols import PROTOCOLS
from arimage.evaluation import Job, fill_in_processes, run_in_processes
from arimage.generated import GeneratedImages
from arimage.images import write_png


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), "u1")):
        write_png(root / f"{i:03d}_class{i % 10}_seed{i}.png", pixels)
    return root


@pytest.fixture
def tiny(monkeypatch):
    """The name of a protocol of 60 digits."""
    plan = dataclasses.replace(PROTOCOLS["digits-1k-balanced-v1"], name="tiny-v1", count=60)
    monkeypatch.setitem(PROTOCOLS, "tiny-v1", plan)
    return "tiny"


def test_a_model_is_scored_as_it_generates_and_goes_on_from_its_cache(tmp_path, tiny):
    words = (
        "evaluate",
        "digits-var",
        "--protocol",
        tiny,
        "--batch-size",
        16,
        "--metrics",
        "fid,accuracy",
    )
    output = run(*words, "--out", tmp_path / "r", "--uncertainty")
    record = json.loads(output.strip().splitlines()[-1])
    assert record["protocol"]["name"] == "tiny-v1"
    assert record["protocol"]["deviations"] == ["count 60 instead of 1000"]
    scores = {score["name"]: score["value"] for score in record["scores"]}
    assert scores["accuracy"] > 0.9
    for name in ("report.html", "report.md", "report.json", "features"):
        assert (tmp_path / "r" / name).exists()
    made = len(list((tmp_path / "r" / "features").glob("*/*/*.safetensors")))
    again = json.loads(run(*words, "--out", tmp_path / "r").strip().splitlines()[-1])
    assert made == len(list((tmp_path / "r" / "features").glob("*/*/*.safetensors"))) == 4
    assert {score["name"]: score["value"] for score in again["scores"]} == scores


def test_several_processes_score_as_one(folder, tmp_path):
    job = Job(
        images=str(folder),
        metrics=("fid", "precision_recall"),
        features="pixels",
        reference=str(folder),
        batch_size=5,
    )
    one = job.run()
    shared = Job(**{**vars(job), "cache": str(tmp_path)})
    two = run_in_processes(shared, 2)
    assert {n: two[n].value for n in two} == {n: one[n].value for n in one}
    plain = dataclasses.replace(shared, metrics=None, cache=str(tmp_path / "plain"))
    assert list(run_in_processes(plain, 2)) == ["fid", "precision", "recall"]  # by default
    with pytest.raises(ValueError, match="got 2 processes and the cache None"):
        run_in_processes(job, 2)


def test_a_process_that_fails_says_so(folder, tmp_path, capfd):
    job = Job(
        images=str(folder), metrics=("inception_score",), features="nope", cache=str(tmp_path)
    )
    with pytest.raises(KeyError, match="unknown feature extractor 'nope'"):
        run_in_processes(job, 2)  # before any process begins
    with pytest.raises(ChildProcessError, match="process 1 of 2 ended with exit code 2"):
        fill_in_processes(job, 2)
    assert "arimage: unknown feature extractor 'nope'" in capfd.readouterr().err


def test_reference_statistics_are_made_once_and_compared(folder, tmp_path):
    stats = tmp_path / "stats.npz"
    text = run("reference", folder, "--out", stats, "--features", "pixels", "--size", 8)
    assert "24 images seen by pixels" in text
    words = ("evaluate", folder, "--reference", stats, "--features", "pixels", "--size", 8)
    words += ("--metrics", "fid,precision_recall")
    for name in ("a", "b"):
        output = run(*words, "--out", tmp_path / name)
    record = json.loads(output.strip().splitlines()[-1])
    assert [s["name"] for s in record["scores"]] == ["fid", "precision", "recall"]
    assert record["scores"][0]["value"] == pytest.approx(0, abs=1e-6)
    assert "fid: " in run("compare", tmp_path / "a", tmp_path / "b")
    run(*words[:-4], "--metrics", "fid", "--out", tmp_path / "c")
    with pytest.raises(ValueError, match="image size"):
        run("compare", tmp_path / "a", tmp_path / "c")
    assert "->" in run("compare", tmp_path / "a", tmp_path / "c", "--force")


def test_a_sweep_of_a_model(tmp_path, tiny):
    output = run(
        "evaluate",
        "digits-var",
        "--sweep",
        "guidance_scale=1,2",
        "--metrics",
        "fid,inception_score",
        "--out",
        tmp_path,
        "--protocol",
        tiny,
    )
    assert output.count("fid ") == 2
    assert (tmp_path / "sweep.png").is_file()
    values = [
        p["scores"]["fid"] for p in json.loads((tmp_path / "sweep.json").read_text())["points"]
    ]
    assert values[0] != values[1]
    assert "(front)" in output


def test_a_sweep_goes_on_where_it_was_killed(tmp_path, tiny, monkeypatch):
    made, most, real = [], 80, GeneratedImages._pixels

    def counted(self, labels, seeds):
        made.append(len(seeds))
        if sum(made) > most:
            raise RuntimeError("killed")
        return real(self, labels, seeds)

    monkeypatch.setattr(GeneratedImages, "_pixels", counted)
    words = ("evaluate", "digits-var", "--sweep", "top_k=4,none", "--metrics", "accuracy")
    words += ("--protocol", tiny, "--batch-size", 20, "--out", tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        run(*words)
    made.clear()
    run(*words)
    assert sum(made) == 40  # of 120: a point and a third were there
    assert len(json.loads((tmp_path / "sweep.json").read_text())["points"]) == 2


def test_chosen_images_are_scored_by_settings(tmp_path, tiny):
    words = ("evaluate", "digits-var", "--protocol", tiny, "--metrics", "accuracy")
    words += ("--set", "keep=0.5", "--set", "classifier=digits", "--set", "temperature=2")
    record = json.loads(run(*words).strip().splitlines()[-1])
    assert record["protocol"]["settings"]["rejection"]["candidates"] == 2
    assert any("the best of 2" in text for text in record["protocol"]["deviations"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "top_k=9"), "which holds images; they are for models"),
        (("--sweep", "top_k=1,2", "--out", "x"), "it is for models"),
        (("--sweep", "top_k=1,2"), "a sweep needs a folder for its reports"),
        (
            ("--metrics", "fid", "--features", "pixels"),
            "compares with a reference set and got none",
        ),
        (("--processes", "2", "--metrics", "fid"), "got 2 processes and the cache None"),
        (("--protocol", "imagnet"), "unknown protocol 'imagnet'"),
    ],
)
def test_mistakes(folder, words, message):
    with pytest.raises((ValueError, KeyError), match=message):
        run("evaluate", folder, *words)


def test_a_tokenizer_is_scored_with_pfid(tmp_path):
    for i, pixels in enumerate(load_digits()[1].pixels[:40]):
        write_png(tmp_path / "d" / f"{i:02d}.png", np.pad(pixels, ((3, 3), (0, 9), (0, 0))))
    words = ("evaluate", "tokenizer", "--data", tmp_path / "d", "--model", "digits-var")
    words += ("--features", "digits", "--metrics", "rfid,psnr,ssim")
    words += ("--perturb", "0.5:8", "--perturb", "0.9:64", "--uncertainty")
    output = run(*words, "--out", tmp_path / "r", "--batch-size", 16)
    record = json.loads(output.strip().splitlines()[-1])
    scores = {score["name"]: score for score in record["scores"]}
    names = ["rfid", "psnr", "ssim", "codebook_share", "codebook_perplexity", "pfid"]
    assert list(scores) == names
    assert scores["psnr"]["value"] > 15
    assert scores["psnr"]["standard_error"] > 0
    assert scores["pfid"]["value"] > scores["rfid"]["value"]
    assert set(scores["pfid"]["details"]) == {"alpha_0.5_delta_8", "alpha_0.9_delta_64"}
    assert (tmp_path / "r" / "report.html").is_file()
    for name in ("reconstructions", "scales"):
        with Image.open(tmp_path / "r" / f"{name}.png") as picture:
            assert json.loads(picture.info["arimage"]) == record
    output = run(*words[:10], "--scale-metrics", "none")
    quick = json.loads(output.strip().splitlines()[-1])["scores"][1]
    assert quick["value"] == pytest.approx(scores["psnr"]["value"])
    assert not quick["details"]
    assert scores["psnr"]["details"]["scale_4"] == scores["psnr"]["value"]
    with pytest.raises(ValueError, match="write alpha:delta"):
        run(*words[:6], "--perturb", "0.5")
