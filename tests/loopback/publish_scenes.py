"""Publishing to the hub: tests/test_publish.py runs this file in a process of its own."""
# ruff: noqa: E402

import json
import shutil
import sys
import tempfile

assert "huggingface_hub" not in sys.modules

from hub_server import MINE, STRANGER, serve
from hub_store import Fault

SERVER = serve(tempfile.mkdtemp())

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from tiny import make_generator, make_tokenizer, sentence
from typer.testing import CliRunner

from arimage import ImageGenerator, ImageTokenizer
from arimage.card_rules import check_card
from arimage.cli import app
from arimage.eval.base import Score
from arimage.eval.report import Protocol, Report
from arimage.files import write_json
from arimage.images import write_png

# How huggingface_hub calls its client for uploads.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "me/my-var"
MODEL = {
    "model_index.json",
    *(
        f"{part}/{name}"
        for part in ("image_tokenizer", "transformer")
        for name in ("config.json", "model.safetensors")
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a generator, not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    make_generator("var", "next_scale", guidance_scale=2.5).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it."""
    return shutil.copytree(saved, tmp_path / "my-var")


@pytest.fixture(scope="module")
def generator(saved):
    return ImageGenerator.from_pretrained(saved)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    SERVER.clear()
    waited = []
    monkeypatch.setattr("arimage.hub.sleep", waited.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waited.append)
    return waited


@pytest.fixture
def report(tmp_path):
    """A report of two scores."""
    facts = {"count": 1000, "features": "digits", "reference": "digits test"}
    scores = (
        Score(name="fid", value=1.25, higher_is_better=False, standard_error=0.1, **facts),
        Score(name="accuracy", value=0.97, higher_is_better=True, **facts),
    )
    protocol = Protocol(
        count=1000,
        features="digits",
        name="digits-1k-v1",
        references={"reference": {"name": "digits test", "count": 360, "sha256": "ab" * 32}},
        settings={"guidance_scale": 2.5, "top_k": None},
        warnings=["few images"],
    )
    Report(scores=scores, protocol=protocol).save(tmp_path / "scores")
    return tmp_path / "scores"


def run(*words):
    """The exit code's error, or None, and what was printed."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exception, done.output


def files(repo=REPO, revision="main"):
    return SERVER.repositories[repo].files(revision)


def card(repo=REPO, revision="main"):
    text = files(repo, revision)["README.md"].data.decode()
    check_card(text, "it")
    return ModelCard(text)


def uploads():
    return SERVER.asked("^PUT /lfs/")


def test_push_and_load_in_a_fresh_cache(generator, tmp_path):
    done = generator.push_to_hub(REPO, licence="mit")
    assert done.commit_url == f"{SERVER.url}/{REPO}/commit/{done.oid}"
    assert set(files()) == MODEL | {".gitattributes", "README.md", "samples.png"}
    loaded = ImageGenerator.from_pretrained(REPO, cache_dir=tmp_path)
    assert loaded.settings == generator.settings
    labels, seeds = [0, 1, 2], [5, 6, 7]
    assert loaded(labels, seeds=seeds).ids.equal(generator(labels, seeds=seeds).ids)
    assert SERVER.repositories[REPO].message.startswith("Upload generator of arimage")
    assert not SERVER.repositories[REPO].private


def test_push_a_tokenizer(tmp_path):
    tokenizer = make_tokenizer("vq")
    tokenizer.push_to_hub("me/tok", private=True, commit_message="first")
    assert SERVER.repositories["me/tok"].private
    assert SERVER.repositories["me/tok"].message == "first"
    found = {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert set(files("me/tok")) == found
    loaded = ImageTokenizer.from_pretrained("me/tok", cache_dir=tmp_path)
    assert loaded.state_dict().keys() == tokenizer.state_dict().keys()
    assert 'ImageTokenizer.from_pretrained("me/tok")' in card("me/tok").text
    assert card("me/tok").data.pipeline_tag == "image-to-image"


def test_a_revision_and_a_pull_request(generator, tmp_path):
    generator.push_to_hub(REPO, revision="v1")
    assert set(files()) == {".gitattributes"}
    ImageGenerator.from_pretrained(REPO, revision="v1", cache_dir=tmp_path)
    generator.push_to_hub(REPO, revision="v1")  # a branch that is there
    done = generator.push_to_hub(REPO, create_pr=True, commit_message="please")
    assert done.pr_url == f"{SERVER.url}/{REPO}/discussions/1"
    assert set(files()) == {".gitattributes"}
    assert set(files(revision="refs/pr/1")) >= MODEL
    ImageGenerator.from_pretrained(REPO, revision="refs/pr/1", cache_dir=tmp_path)


def test_the_card_says_what_it_is(folder, report):
    write_json(
        folder / "recipe.json",
        {
            "transformer": {"kind": "TransformerRecipe", "steps": 500, "learning_rate": 0.001},
            "from": "FoundationVision/var",
            "data": {"images": 1437, "num_classes": 3, "tokenizer": "c" * 64},
        },
    )
    error, _ = run("push", folder, REPO, "--data", "me/photos", "--report", report)
    assert error is None
    found = card()
    assert found.data.license == "mit"  # of the base model
    assert found.data.base_model == "FoundationVision/var"
    assert found.data.datasets == "me/photos"
    assert found.data.to_dict()["library_name"] == "arimage"
    assert found.data.pipeline_tag == "unconditional-image-generation"
    assert found.data.tags == ["autoregressive", "next-scale"]
    fid, accuracy = found.data.eval_results
    assert (fid.metric_type, fid.metric_value, fid.dataset_name) == ("fid", 1.25, "digits test")
    assert accuracy.metric_value == 0.97
    assert fid.metric_args["protocol"] == "digits-1k-v1"
    assert fid.metric_args["images"] == 1000
    assert fid.metric_args["setting guidance_scale"] == "2.5"
    assert fid.metric_args["reference_sha256"] == "ab" * 32
    for words in ("steps: 500", "![Samples](samples.png)", "few images", "guidance_scale=2.5"):
        assert words in found.text
    assert f'ImageGenerator.from_pretrained("{REPO}")' in found.text
    assert {"recipe.json", "report.json"} <= set(files())


BOARD = "bench/pictures"


def entries(name, repo=REPO):
    return yaml.safe_load(files(repo)[f".eval_results/{name}.yaml"].data)


def test_scores_go_to_a_benchmark_that_is_named(folder, report):
    given = ("--report", report, "--benchmark", f"fid={BOARD}:default")
    assert run("push", folder, REPO, *given)[0] is None
    (entry,) = parse_eval_result_entries(entries("bench--pictures-default"))
    assert (entry.dataset_id, entry.task_id, entry.value) == (BOARD, "default", 1.25)
    for words in ("metric fid", "images 1000", "ab" * 32, "protocol digits-1k-v1"):
        assert words in entry.notes
    assert card().data.eval_results[0].metric_value == 1.25  # the model-index stays
    again = ("accuracy=bench/other:test",)
    assert run("card", folder, REPO, *given, "--benchmark", *again)[0] is None
    assert run("push", folder, REPO)[0] is None
    assert entries("bench--other-test")[0]["value"] == 0.97


def test_no_entry_without_a_benchmark(folder, report):
    """The negative twin."""
    assert run("push", folder, REPO, "--report", report)[0] is None
    assert not [name for name in files() if name.startswith(".eval_results")]


def test_a_data_set_of_the_hub_is_named_by_its_record(folder):
    for name, ids in (("owner/photos", "owner/photos"), ("photos", None)):
        data = {"dataset": name, "name": "tokens", "images": 12, "tokenizer": "c" * 64}
        write_json(folder / "run.json", {"recipe": {"steps": 2}, "data": data})
        assert run("card", folder, REPO, "--force")[0] is None
        found = ModelCard((folder / "README.md").read_text())
        assert found.data.datasets == ids
        assert f"- Data: dataset {name}, name tokens, images 12." in found.text


def test_leftovers_of_a_run_are_not_uploaded(folder):
    for name in ("checkpoints/step-9.safetensors", "logs/events", "losses.jsonl", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    for step in (1, 2):
        pixels = np.full((4, 4, 3), step, dtype=np.uint8)
        write_png(folder / "samples" / f"step-{step:08d}.png", pixels)
    write_json(folder / "run.json", {"recipe": {"steps": 2}, "data": {"name": "digits"}})
    error, _ = run("push", folder, REPO)
    assert error is None
    more = {".gitattributes", "README.md", "samples.png", "run.json"}
    assert set(files()) == MODEL | more
    last = folder / "samples" / "step-00000002.png"
    assert files()["samples.png"].data == last.read_bytes()
    assert not (folder / "README.md").exists()


def test_a_run_that_has_not_ended(tmp_path):
    write_json(tmp_path / "run.json", {})
    error, _ = run("push", tmp_path, REPO)
    assert "go on with it by --resume" in str(error)
    error, _ = run("push", tmp_path / "nothing", REPO)
    assert isinstance(error, FileNotFoundError)
    assert SERVER.log == []


def test_a_push_that_broke_goes_on(generator):
    SERVER.faults.append(Fault("PUT /lfs/", times=1, status=400))
    with pytest.raises(OSError, match="goes on from there") as caught:
        generator.push_to_hub(REPO)
    sentence(caught)
    SERVER.faults.append(Fault("POST .*/commit/", times=1, status=400))
    with pytest.raises(OSError, match="goes on from there"):
        generator.push_to_hub(REPO)
    assert set(files()) == {".gitattributes"}
    there = {row[1].removeprefix("/lfs/") for row in uploads() if row[3] == 200}
    SERVER.log.clear()
    generator.push_to_hub(REPO)
    assert uploads() == []
    assert set(files()) >= MODEL
    assert there == {blob.oid for blob in files().values() if blob.oid}
    SERVER.log.clear()
    generator.push_to_hub(REPO)  # nothing new
    assert uploads() == []


def test_answers_that_pass_are_waited_for(generator, fresh):
    for pattern in ("POST /api/repos/create", "POST .*/commit/", "PUT /lfs/"):
        SERVER.faults += [Fault(pattern, times=1, status=status) for status in (429, 500)]
    generator.push_to_hub(REPO)
    assert [fault.times for fault in SERVER.faults] == [0] * 6
    assert len(fresh) >= 4
    assert set(files()) >= MODEL


def test_old_weights_do_not_stay(folder, tmp_path):
    run("push", folder, REPO)
    old = files()
    extra = {"transformer/model-00001-of-00002.safetensors": b"old", "notes/model.md": b"mine"}
    SERVER.add(REPO, {**{name: blob.data for name, blob in old.items()}, **extra})
    assert run("push", folder, REPO)[0] is None
    assert set(files()) == {*old, "notes/model.md"}


def test_no_token(generator, monkeypatch, folder):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(PermissionError, match="run `hf auth login`, set HF_TOKEN or") as caught:
        generator.push_to_hub(REPO)
    sentence(caught)
    error, _ = run("push", folder, REPO)
    assert isinstance(error, PermissionError)
    assert SERVER.log == []
    generator.push_to_hub(REPO, token=MINE)


def test_a_token_that_may_not_write(generator):
    with pytest.raises(PermissionError, match="may not write there") as caught:
        generator.push_to_hub(REPO, token=STRANGER)
    assert REPO in sentence(caught)


def test_no_network(generator):
    SERVER.stop()
    try:
        with pytest.raises(ConnectionError, match="cannot be reached: check the net") as caught:
            generator.push_to_hub(REPO)
    finally:
        SERVER.start()
    sentence(caught)


@pytest.mark.parametrize("name", ["me/my var", "me/a/b", "me/--x", ""])
def test_a_name_that_is_none(generator, name):
    with pytest.raises(ValueError, match="expected owner/name") as caught:
        generator.push_to_hub(name)
    sentence(caught)


def test_an_unknown_licence(generator):
    with pytest.raises(ValueError, match=r"Did you mean 'apache-2.0'") as caught:
        generator.push_to_hub(REPO, licence="Apache 2.0")
    sentence(caught)
    assert SERVER.log == []


BAD_HEADS = {
    "license: [mit": "is not YAML",
    "- mit": "is a list, not a mapping",
    "license: null": "license has no value",
    "license: apache": "unknown licence 'apache'",
    "license: other": "needs license_name",
    "tags: [1, 2]": "expected texts",
    "base_model: my model": "expected hub ids",
    "datasets: [me/x, digits]": "datasets has 'digits'",
    "language: english": "expected a code such as en",
    "pipeline_tag: [a]": "expected a text",
    "model-index: {name: x}": "not a list of models",
    "model-index: [{results: []}]": "has no name",
    "model-index: [{name: x, results: [{task: {type: a}, dataset: {name: b}}]}]": "dataset type",
    "model-index: [{name: x, results: [{task: {type: a}, dataset: {type: b, name: c}}]}]": (
        "has no metrics"
    ),
    "model-index: [{name: x, results: [{task: {type: a}, dataset: {type: b, name: c}, "
    "metrics: [{type: fid}]}]}]": "metric fid of model-index has no value",
}


@pytest.mark.parametrize(("head", "words"), BAD_HEADS.items())
def test_a_card_that_the_hub_would_refuse(folder, head, words):
    (folder / "README.md").write_text(f"---\n{head}\n---\n\n# mine\n")
    error, _ = run("push", folder, REPO)
    assert isinstance(error, ValueError)
    assert words in str(error)
    assert str(error).startswith("the hub would refuse")
    assert "\n" not in str(error)
    assert SERVER.log == []


def test_a_card_without_metadata(folder):
    (folder / "README.md").write_text("# mine\n")
    error, _ = run("push", folder, REPO)
    assert "does not begin with metadata" in str(error)


def test_a_card_by_hand_is_uploaded_as_it_is(folder):
    error, printed = run("card", folder, REPO, "--licence", "mit")
    assert error is None
    assert f"card: {folder / 'README.md'}" in printed
    assert (folder / "samples.png").is_file()
    text = (folder / "README.md").read_text() + "\nMore by hand.\n"
    (folder / "README.md").write_text(text)
    assert run("push", folder, REPO)[0] is None
    assert files()["README.md"].data.decode() == text
    error, _ = run("push", folder, REPO, "--licence", "mit")
    assert "README.md is there already" in str(error)
    error, _ = run("card", folder, REPO)
    assert isinstance(error, FileExistsError)
    assert run("card", folder, "--force")[0] is None
    assert "OWNER/my-var" in (folder / "README.md").read_text()


def test_a_report_that_is_none(folder, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"scores": []}))
    error, _ = run("push", folder, REPO, "--report", tmp_path / "report.json")
    assert "is not a report of this package" in str(error)
    error, _ = run("push", folder, REPO, "--report", tmp_path / "no.json")
    assert isinstance(error, FileNotFoundError)
    assert SERVER.log == []


def test_a_transformer_alone(folder):
    error, _ = run("push", folder / "transformer", REPO)
    assert "holds a arimage_var alone" in str(error)


def test_pushing_a_preset_names_it(tmp_path):
    generator = ImageGenerator.from_pretrained("digits-var")
    generator.push_to_hub("me/digits")
    assert card("me/digits").data.license == "apache-2.0"
    assert "Base model: `digits-var`" in card("me/digits").text
