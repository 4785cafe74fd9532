"""Where weight files of feature networks come from, and what is refused."""

import hashlib
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from arimage.eval.features import weights as module
from arimage.eval.features.weights import (
    PublishedWeights,
    cache_folder,
    file_sha256,
    find_weights,
    read_state_dict,
)

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A record of a file that lies in ``tmp_path``, an empty cache and a hub without network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    torch.save(STATE, tmp_path / "net-1.pth")
    return PublishedWeights(
        name="a network",
        files=("net-1.pth", "also-net-1.pth"),
        sha256=hashlib.sha256((tmp_path / "net-1.pth").read_bytes()).hexdigest(),
        hub=("somebody/net:net-1.pth",),
        where="release v1 of somebody/net",
        what_for="a toy",
        argument="Toy(weights=...)",
    )


def test_a_given_path_is_found(published, tmp_path):
    path = tmp_path / "net-1.pth"
    assert find_weights(published, path) == find_weights(published, str(path)) == path
    assert file_sha256(path) == published.sha256


def test_the_cache_is_searched_under_every_published_name(published, tmp_path):
    cache_folder().mkdir(parents=True)
    (tmp_path / "net-1.pth").rename(cache_folder() / "also-net-1.pth")
    assert find_weights(published, None) == cache_folder() / "also-net-1.pth"


def test_the_hub_is_asked_for_known_copies_and_for_given_ones(published, tmp_path, monkeypatch):
    asked = []

    def fetch(repository, file):
        asked.append((repository, file))
        if repository == "nobody/net":
            raise FileNotFoundError("not there")
        return tmp_path / "net-1.pth"

    monkeypatch.setattr(module, "fetch", fetch)
    twice = replace(published, hub=("nobody/net:x.pth", *published.hub))
    assert find_weights(twice, None).name == "net-1.pth"
    assert find_weights(published, "other/net.v2:sub/n.pth").name == "net-1.pth"
    assert asked == [
        ("nobody/net", "x.pth"),
        ("somebody/net", "net-1.pth"),
        ("other/net.v2", "sub/n.pth"),
    ]


@pytest.mark.parametrize("given", [None, "missing.pth", "somebody/net:net-1.pth"])
def test_missing_weights_get_one_sentence_with_everything_to_do(published, given):
    with pytest.raises(FileNotFoundError) as error:
        find_weights(published, given)
    message = str(error.value)
    assert "\n" not in message
    for word in (
        "a network",
        "a toy",
        "net-1.pth or also-net-1.pth",
        "release v1 of somebody/net",
        published.sha256,
        str(cache_folder()),
        "Toy(weights=...)",
        given or "a network",
    ):
        assert word in message


def test_a_published_name_needs_the_published_hash(published, tmp_path):
    path = tmp_path / "net-1.pth"
    torch.save({**STATE, "a.bias": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=f"the published file of that name has {published.sha256}"):
        find_weights(published, path)
    own = path.rename(tmp_path / "own.pth")
    assert find_weights(published, own) == own


@pytest.mark.parametrize("wrapper", [(), ("state_dict",), ("model",)])
def test_flat_and_nested_dicts_read_alike(tmp_path, wrapper):
    content = {f"module.{key}": value for key, value in STATE.items()}
    for key in wrapper:
        content = {key: content, "step": 3}
    torch.save(content, tmp_path / "x.pth")
    found = read_state_dict(tmp_path / "x.pth")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def test_safetensors_read_alike(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    found = read_state_dict(tmp_path / "x.safetensors")
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("run",)


def test_what_is_not_a_state_dict_is_refused(tmp_path, capsys):
    path = tmp_path / "x.pth"
    torch.save({"a": STATE["a.bias"], "note": "hello"}, path)
    with pytest.raises(ValueError, match=r"holds str under 'note'; expected names and tensors"):
        read_state_dict(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds list; expected names and tensors"):
        read_state_dict(path)
    torch.save({"a": Evil()}, path)
    with pytest.raises(ValueError, match="nothing in it was run"):
        read_state_dict(path)
    assert "run" not in capsys.readouterr().out.split()
    (tmp_path / "graph.pb").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is a \.pb file; expected a state dict"):
        read_state_dict(tmp_path / "graph.pb")
    with pytest.raises(FileNotFoundError, match="no file"):
        read_state_dict(tmp_path / "none.pth")


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:  # what torch.jit.save lays out
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/code/__torch__.py", "")
    with pytest.raises(ValueError, match="is a TorchScript program; expected a state dict"):
        read_state_dict(tmp_path / "x.pt")
