"""Weight files of published networks: found by path, hub id or in the cache, and checked.

A network that features come from is a ``PublishedWeights`` record in its own module. Files of a
published name must have the published hash; nothing is downloaded except from the hub.
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from arimage.checkpoint import plain, read
from arimage.hub import cache_home, fetch, file_sha256

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
NESTED = ("state_dict", "model")  # keys under which trainers keep the weights
HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+):([\w./-]+)")


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A file of weights as its authors published it.

    Attributes:
        name: of the network, for sentences.
        files: the names the one file is published under; the first is named in errors.
        sha256: of the file; a file of one of these names must have it.
        hub: copies on the hub as "owner/name:file"; they are tried in this order.
        where: in words, repository and release.
        what_for: what is computed from it.
        argument: what a caller writes to pass another file, such as ``Features(weights=...)``.
    """

    name: str
    files: tuple[str, ...]
    sha256: str
    hub: tuple[str, ...]
    where: str
    what_for: str
    argument: str


def find_weights(known: PublishedWeights, given: str | Path | None) -> Path:
    """The file of ``known``: the one given, the one in the cache, or a copy on the hub.

    Args:
        given: a path, or "owner/name:file" on the hub; None looks in ``cache_folder()`` and then
            tries ``known.hub``.

    Raises:
        FileNotFoundError: it is nowhere; the sentence says where to get it and where to put it.
        ValueError: a file of a published name with another hash.
    """
    if given is not None:
        return _checked(known, _given(known, given))
    for name in known.files:
        if (cache_folder() / name).is_file():
            return _checked(known, cache_folder() / name)
    for copy in known.hub:
        try:
            return _checked(known, fetch(*copy.split(":")))
        except OSError:
            continue
    raise FileNotFoundError(f"found no weights of {known.name}, {_instructions(known)}")


def cache_folder() -> Path:
    """Where weights may be placed by hand: ``arimage/weights`` in the hub's home (HF_HOME)."""
    return cache_home() / "weights"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Names to tensors of a torch or safetensors file, memory-mapped; no code in it is run.

    The dict may be flat or lie under "state_dict" or "model".

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format (TensorFlow graphs, TorchScript, pickles with code), or
            something else than named tensors.
    """
    if path.suffix not in SUFFIXES or _is_torchscript(path):
        kind = "a TorchScript program" if path.suffix in SUFFIXES else f"a {path.suffix} file"
        raise ValueError(
            f"{path} is {kind}; expected a state dict, names and tensors alone, in a file that "
            f"ends in {', '.join(SUFFIXES)}"
        )
    content = read(path)
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds {type(content).__name__}; expected names and tensors")
    other = next((k for k, v in content.items() if not isinstance(v, Tensor)), None)
    if other is not None:
        raise ValueError(
            f"{path} holds {type(content[other]).__name__} under {other!r}; expected names and "
            f"tensors alone, or a dict of them under {' or '.join(map(repr, NESTED))}"
        )
    return {plain(key): value for key, value in content.items()}


def _given(known: PublishedWeights, given: str | Path) -> Path:
    path = Path(given)
    if path.is_file():
        return path
    match = HUB_FILE.fullmatch(str(given))
    if not match:
        raise FileNotFoundError(
            f"no file {given} with weights of {known.name}, {_instructions(known)}"
        )
    try:
        return fetch(match[1], match[2])
    except OSError as error:
        raise FileNotFoundError(
            f"the hub gave no file {given} with weights of {known.name}, {_instructions(known)}"
        ) from error


def _checked(known: PublishedWeights, path: Path) -> Path:
    """The path, unless it bears a published name and holds something else."""
    if path.name in known.files and (found := file_sha256(path)) != known.sha256:
        raise ValueError(
            f"{path} has the sha256 {found}, but the published file of that name has "
            f"{known.sha256}: it is damaged or another file; get it again, or give weights of "
            "your own another name"
        )
    return path


def _instructions(known: PublishedWeights) -> str:
    return (
        f"which {known.what_for} needs: get {' or '.join(known.files)} ({known.where}; sha256 "
        f"{known.sha256}) and put it into {cache_folder()}, or pass its path as {known.argument}"
    )


def _is_torchscript(path: Path) -> bool:
    """Whether a zip holds compiled code beside the tensors."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
