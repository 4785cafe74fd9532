"""Loading from the hub: tests/test_hub_protocol.py runs this file in a process of its own."""
# ruff: noqa: E402

import os
import pickle
import sys
import tempfile
from pathlib import Path

assert "huggingface_hub" not in sys.modules

from hub_server import MINE, STRANGER, serve
from hub_store import Fault

SERVER = serve(tempfile.mkdtemp())

import huggingface_hub
import pytest
import torch
from tiny import make_generator, sentence

from arimage import ImageGenerator, ImageTokenizer, hub
from arimage.ar.var import VARModel
from arimage.tokenizers.vq import VQTokenizer

REPO = "me/my-var"
WEIGHTS = "transformer/model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A generator's files by name, and some that nobody needs."""
    folder = tmp_path_factory.mktemp("generator")
    make_generator("var", "next_scale").save_pretrained(folder)
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {**found, "README.md": b"hello", "extra/other.safetensors": b"0" * 100}


@pytest.fixture(autouse=True)
def fresh(files, monkeypatch):
    """A hub with one repository, and no waiting."""
    SERVER.clear()
    SERVER.add(REPO, files)
    waited = []
    monkeypatch.setattr("arimage.hub.sleep", waited.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waited.append)
    return waited


def load(folder, name=REPO, **options):
    return ImageGenerator.from_pretrained(name, cache_dir=folder, **options)


def ids(generator):
    return generator([0, 1], seeds=[3, 4]).ids.tolist()


def test_a_second_load_asks_for_no_content(tmp_path):
    first = load(tmp_path)
    wanted = {
        "model_index.json",
        *(f"{part}/config.json" for part in ("image_tokenizer", "transformer")),
    }
    small = [row[1] for row in SERVER.contents() if "/resolve/" in row[1]]
    assert {path.partition("/resolve/")[2].partition("/")[2] for path in small} == wanted
    assert len(SERVER.contents()) == len(small) + 2 == 5  # large ones come from another host
    SERVER.log.clear()
    again = load(tmp_path)
    assert SERVER.contents() == []
    assert SERVER.asked("/resolve/") == []
    assert len(SERVER.log) <= 2  # which commit it is, and perhaps its files
    assert ids(first) == ids(again)


def test_the_cache_is_the_one_of_huggingface_hub():
    ImageGenerator.from_pretrained(REPO)
    assert huggingface_hub.try_to_load_from_cache(REPO, WEIGHTS) is not None
    huggingface_hub.hf_hub_download(REPO, "README.md")
    SERVER.log.clear()
    ImageGenerator.from_pretrained(REPO)
    assert SERVER.contents() == []


def test_a_revision(tmp_path, files):
    old = SERVER.repositories[REPO].branches["main"]
    torch.manual_seed(7)
    make_generator("var", "next_scale", guidance_scale=3.5).save_pretrained(tmp_path / "new")
    index = (tmp_path / "new" / "model_index.json").read_bytes()
    SERVER.add(REPO, {**files, "model_index.json": index})
    SERVER.add(REPO, files, branch="v1")
    assert load(tmp_path).settings.guidance_scale == 3.5
    for revision in (old, "v1"):
        assert load(tmp_path, revision=revision).settings.guidance_scale == 1.0
    with pytest.raises(FileNotFoundError, match="it has no revision 'v9'") as caught:
        load(tmp_path, revision="v9")
    sentence(caught)


def test_only_the_asked_variant_is_downloaded(tmp_path, files):
    both = {f"{name}/{file}": data for name in ("d16", "d20") for file, data in files.items()}
    SERVER.add("me/both", both)
    load(tmp_path, "me/both", variant="d16")
    assert not SERVER.asked("GET .*/d20/")
    assert not list(tmp_path.rglob("d20"))
    folder = next(path for path in tmp_path.rglob("d16"))
    assert {p.name for p in folder.iterdir()} == {
        "model_index.json",
        "image_tokenizer",
        "transformer",
    }
    with pytest.raises(FileNotFoundError, match="in its folder d30") as caught:
        load(tmp_path, "me/both", variant="d30")
    sentence(caught)


def test_parts_are_downloaded_alone(tmp_path):
    tokenizer = ImageTokenizer.from_pretrained(REPO, cache_dir=tmp_path)
    assert not list(tmp_path.rglob("transformer"))
    assert tokenizer.config.model_type == "arimage_multiscale_vq"
    other = tmp_path / "other"
    model = VARModel.from_pretrained(REPO, subfolder="transformer", cache_dir=other)
    assert not list(other.rglob("image_tokenizer"))
    assert model.config.model_type == "arimage_var"


def test_a_broken_download_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    SERVER.faults.append(Fault("GET /cdn/", times=2, cut=True))
    assert ids(load(tmp_path)) == ids(load(tmp_path))
    resumed = [row for row in SERVER.asked("GET /cdn/") if row[3] == 206]
    assert resumed
    assert all(int(row[2].removeprefix("bytes=").rstrip("-")) > 0 for row in resumed)


def test_a_download_that_breaks_for_good_leaves_nothing_half(tmp_path):
    fault = Fault("GET /cdn/", times=10**6, status=404)
    SERVER.faults.append(fault)
    with pytest.raises(FileNotFoundError) as caught:
        load(tmp_path)
    sentence(caught)
    fault.times = 0
    load(tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_answers_that_pass_are_waited_for(tmp_path, fresh, status):
    SERVER.faults.append(Fault("GET /api/models/", times=2, status=status))
    SERVER.faults.append(Fault("HEAD .*/resolve/", times=1, status=status))
    SERVER.faults.append(Fault("GET /cdn/", times=1, status=status))
    load(tmp_path)
    assert [fault.times for fault in SERVER.faults] == [0, 0, 0]
    assert fresh[:2] == [1.0, 2.0]


def test_the_hub_says_how_long_to_wait(tmp_path, fresh):
    wait = {"Retry-After": "17"}
    SERVER.faults.append(Fault("GET /api/models/", times=1, status=429, headers=wait))
    load(tmp_path)
    assert fresh == [17.0]


@pytest.mark.parametrize(
    ("status", "words"), [(429, r"too many requests \(429\)"), (500, r"out of order \(500\)")]
)
def test_answers_that_stay_get_one_sentence(tmp_path, status, words):
    SERVER.faults.append(Fault("GET /api/models/", times=100, status=status))
    with pytest.raises(ConnectionError, match=words) as caught:
        load(tmp_path)
    assert REPO in sentence(caught)


def test_an_answer_that_stays_does_not_matter_with_a_cache(tmp_path):
    first = ids(load(tmp_path))
    SERVER.faults.append(Fault("GET /api/models/", times=100, status=500))
    assert ids(load(tmp_path)) == first


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("pattern", ["GET /cdn/", "GET .*/model_index.json"])
def test_a_file_of_another_hash_is_removed(tmp_path, pattern):
    SERVER.faults.append(Fault(pattern, change=flipped))
    with pytest.raises(ValueError, match="arrived with the hash") as caught:
        load(tmp_path)
    assert REPO in sentence(caught)
    load(tmp_path)


def test_hashes_are_taken_once(tmp_path, monkeypatch):
    load(tmp_path)
    monkeypatch.setattr(hub, "file_sha256", lambda path: pytest.fail("taken again"))
    load(tmp_path)


def test_no_network(tmp_path):
    first = ids(load(tmp_path / "full"))
    SERVER.stop()
    try:
        assert ids(load(tmp_path / "full")) == first
        with pytest.raises(FileNotFoundError, match="cannot be reached: check the netw") as caught:
            load(tmp_path / "empty")
        sentence(caught)
    finally:
        SERVER.start()


def test_offline(tmp_path, monkeypatch):
    first = ids(load(tmp_path / "full"))
    SERVER.log.clear()
    options = {"local_files_only": True}
    assert ids(load(tmp_path / "full", **options)) == first
    with pytest.raises(FileNotFoundError, match="the network is off") as caught:
        load(tmp_path / "empty", **options)
    sentence(caught)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert ids(load(tmp_path / "full")) == first
    with pytest.raises(FileNotFoundError, match="the network is off") as caught:
        load(tmp_path / "empty")
    sentence(caught)
    assert SERVER.log == []


def test_a_missing_repository(tmp_path):
    for make in (ImageGenerator, ImageTokenizer, VQTokenizer):
        with pytest.raises(FileNotFoundError, match="no such repository, or it is priv") as caught:
            make.from_pretrained("me/missing", cache_dir=tmp_path)
        assert "me/missing" in sentence(caught)


def test_a_private_repository(tmp_path, files):
    SERVER.add("me/secret", files, private=True)
    for token in (False, STRANGER):
        with pytest.raises(FileNotFoundError, match="hf auth login") as caught:
            load(tmp_path, "me/secret", token=token)
        sentence(caught)
    load(tmp_path / "a", "me/secret", token=MINE)
    load(tmp_path / "b", "me/secret")  # HF_TOKEN
    tokenizer = ImageTokenizer.from_pretrained("me/secret", cache_dir=tmp_path / "c", token=MINE)
    assert tokenizer.config.vocab_size == 32


def test_a_gated_repository(tmp_path, files):
    SERVER.add("you/gated", files, gated=True)
    for token in (False, STRANGER):
        with pytest.raises(PermissionError, match="access on request") as caught:
            load(tmp_path, "you/gated", token=token)
        sentence(caught)
    load(tmp_path, "you/gated", token=MINE)


class Evil:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model_index.json", "config.json", None])
def test_pickles_of_strangers_are_not_even_downloaded(tmp_path, files, name):
    mark = tmp_path / "was-here"
    evil = pickle.dumps(Evil(mark))
    kept = {
        file: data
        for file, data in files.items()
        if file.endswith(".json") and (name == "model_index.json")
    }
    kept |= {"config.json": files["image_tokenizer/config.json"]} if name == "config.json" else {}
    parts = ("", "transformer/", "image_tokenizer/")
    SERVER.add("evil/x", {**kept, **{f"{part}pytorch_model.bin": evil for part in parts}})
    for make in (ImageGenerator, ImageTokenizer):
        with pytest.raises(FileNotFoundError):
            make.from_pretrained("evil/x", cache_dir=tmp_path / "cache")
    assert not mark.exists()
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_a_pickle_under_a_published_name_is_not_run(tmp_path):
    mark = tmp_path / "was-here"
    evil = pickle.dumps(Evil(mark))
    names = ("var_d16.pth", "vae_ch160v4096z32.pth")
    SERVER.add("FoundationVision/var", dict.fromkeys(names, evil))
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "cache", "FoundationVision/var", variant="d16")
    sentence(caught)
    assert not mark.exists()
    asked = {row[1].rpartition("/")[2] for row in SERVER.asked("HEAD .*/resolve/")}
    assert asked == set(names)


def test_converted_files_stay_in_the_cache_folder(tmp_path):
    assert hub.cache_home(tmp_path) == tmp_path / "arimage"
    assert hub.cache_home() == Path(os.environ["HF_HOME"]) / "arimage"
