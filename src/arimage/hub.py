"""From a name to a local folder: a path, a packaged preset or a Hugging Face Hub repository.

What comes from the hub lies in the cache that all libraries of Hugging Face share, and its hash is
checked once. Published files in other layouts are converted once, into a cache beside it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

from arimage.files import new_folder, write_text
from arimage.registry import unknown_name
from arimage.zoo import PRESETS, packaged

T = TypeVar("T")

CONFIGS = ("model_index.json", "config.json")
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
PARTS = ("", "image_tokenizer/", "transformer/")  # folders inside a model's
ANY = ["*.json", "*.safetensors"]  # never a pickle
WAITS = (1.0, 2.0, 4.0)  # seconds before another try
PASSING = (429, 500, 502, 503, 504)  # answers that may be another one soon
LONGEST = 60.0  # seconds that the hub may ask to wait


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a repository of the hub is read, in the words of ``huggingface_hub``.

    Attributes:
        revision: branch, tag or commit.
        cache_dir: instead of the shared cache.
        token: of an account that may read it; None is that of ``hf auth login`` or HF_TOKEN.
        local_files_only: make no request.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``snapshot_download`` and ``hf_hub_download``."""
        return asdict(self)


def is_id(name: str | Path) -> bool:
    """Whether a name that is no path has the form of a hub id, "owner/name"."""
    return str(name).count("/") == 1 and not str(name).startswith((".", "/", "~"))


def locate(
    name: str | Path,
    access: Access | None = None,
    inside: str = "",
    parts: Sequence[str] = PARTS,
) -> Path:
    """A local folder for ``name``.

    Args:
        name: a folder, a preset of the zoo, or a hub id ``"owner/name"``.
        access: to the hub.
        inside: the folder of the repository that is meant; no other is downloaded.
        parts: of that folder, which are downloaded.

    Raises:
        FileNotFoundError: no such folder, preset or repository, or one without a model.
        PermissionError: a repository that needs another token. ConnectionError: the hub is out of
            order. ValueError: a file that is not what the hub says; it is removed.
    """
    path = Path(name)
    if path.is_dir():
        return path / inside
    if str(name) in PRESETS and PRESETS[str(name)].folder:
        return Path(str(files("arimage"))) / PRESETS[str(name)].folder / inside
    if path.exists():
        raise NotADirectoryError(f"{name} is a file; give the folder made by save_pretrained")
    if is_id(name):
        return _download(str(name), access or Access(), inside, parts)
    raise FileNotFoundError(
        f"{unknown_name('preset', str(name), PRESETS)}; or give a folder that exists, or a hub id "
        "'owner/name'"
    )


def _download(repo_id: str, access: Access, inside: str, parts: Sequence[str]) -> Path:
    names = [f"{part}{name}" for part in parts for name in (*CONFIGS, *WEIGHTS)]
    folder = _snapshot(repo_id, access, inside, names)
    if any((folder / name).is_file() for name in CONFIGS):
        return folder
    folder = _snapshot(repo_id, access, inside, ANY)  # perhaps of a published layout
    if any(folder.rglob("*.safetensors")):
        return folder
    where = f" in its folder {inside}" if inside else ""
    raise FileNotFoundError(
        f"the hub repository {repo_id!r} has no model_index.json, config.json or safetensors"
        f"{where}; pickles of strangers are not downloaded: to convert one that you trust, "
        "download it and run arimage convert FILE FOLDER"
    )


def _snapshot(repo_id: str, access: Access, inside: str, names: Sequence[str]) -> Path:
    """The folder of the cache with the files of those names, their hashes checked."""
    from huggingface_hub import snapshot_download

    options = {
        **access.options,
        "allow_patterns": [(Path(inside) / name).as_posix() for name in names],
    }
    try:
        folder = Path(patient(lambda: snapshot_download(repo_id, **options))) / inside
    except failures() as error:
        kind, reason = explained(error, repo_id, access)
        raise kind(
            f"cannot get {repo_id!r} from the hub: {reason}; or give a local folder or one of the "
            f"presets {', '.join(packaged())}"
        ) from error
    verify(repo_id, (path for path in folder.rglob("*") if path.is_file()), access)
    return folder


def fetch(repo_id: str, file: str, access: Access | None = None) -> Path:
    """One file of a hub repository, downloaded once.

    Raises:
        FileNotFoundError: offline and not cached, or no such file; says how to place it by hand.
        PermissionError, ConnectionError, ValueError: as ``locate``.
    """
    from huggingface_hub import hf_hub_download

    access = access or Access()
    try:
        path = Path(patient(lambda: hf_hub_download(repo_id, file, **access.options)))
    except failures() as error:
        kind, reason = explained(error, repo_id, access)
        raise kind(
            f"cannot get the file {file} of the hub repository {repo_id} ({reason}); or download "
            "it elsewhere, put it in a folder with the other files of the model and give that "
            "folder's path"
        ) from error
    verify(repo_id, [path], access)
    return path


def verify(repo_id: str, paths: Iterable[Path], access: Access) -> None:
    """Compares files of the hub's cache with the hashes that name their blobs, each once.

    ``huggingface_hub`` compares sizes only. A blob is named by the sha256 of a large file and by
    git's sha1 of a small one.

    Raises:
        ValueError: another hash; the file is removed, so that it is downloaded again.
    """
    for path in paths:
        name = Path(os.readlink(path)).name if path.is_symlink() else ""
        if len(name) not in (40, 64) or set(name) - set("0123456789abcdef"):
            continue
        facts = path.stat()
        mark = cache_home(access.cache_dir) / "verified" / name
        note = f"{facts.st_size} {facts.st_mtime_ns}"
        if mark.is_file() and mark.read_text(encoding="utf-8") == note:
            continue
        found = file_sha256(path) if len(name) == 64 else _git_sha1(path)
        if found != name:
            path.resolve().unlink()
            path.unlink()
            raise ValueError(
                f"{path.name} of the hub repository {repo_id!r} arrived with the hash "
                f"{found[:16]}... and not {name[:16]}..., which the hub names; it was removed: "
                "load again to download it again"
            )
        write_text(mark, note)


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def patient(call: Callable[[], T]) -> T:
    """The result of ``call``, which is made again after answers that pass (429, 500, ...)."""
    for wait in WAITS:
        try:
            return call()
        except failures() as error:
            response = _response(error)
            if response is None or response.status_code not in PASSING:
                raise
            asked = response.headers.get("Retry-After", "")
            sleep(min(float(asked), LONGEST) if asked.isdigit() else wait)
    return call()


def explained(error: BaseException, repo_id: str, access: Access) -> tuple[type[OSError], str]:
    """What to raise for a failure of ``huggingface_hub``: a class, and why it failed."""
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    login = "log in with `hf auth login`, set HF_TOKEN or give token="
    response = _response(error)
    status = 0 if response is None else response.status_code
    if isinstance(error, errors.GatedRepoError):
        text = f"its owners give access on request: ask on its page, then {login}"
        return PermissionError, text
    if isinstance(error, errors.RepositoryNotFoundError):
        text = f"there is no such repository, or it is private: check the name, or {login}"
        return FileNotFoundError, text
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError, f"it has no revision {access.revision!r}"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return FileNotFoundError, "it has no such file"
    if status in (401, 403):
        return PermissionError, f"the hub refused ({status}): {login}"
    if status in PASSING:
        why = "too many requests" if status == 429 else "the hub is out of order"
        return ConnectionError, f"{why} ({status}): try again in some minutes"
    if _is_offline(access):
        text = "it is not in the cache and the network is off (local_files_only, HF_HUB_OFFLINE)"
        return FileNotFoundError, text
    if isinstance(error, (errors.HFValidationError, errors.BadRequestError)):
        return OSError, _first_line(error)
    if isinstance(error.__cause__, errors.FileMetadataError):
        return OSError, "what answers there is no hub: check HF_ENDPOINT and the proxy"
    text = "it is not in the cache and the hub cannot be reached: check the network"
    return FileNotFoundError, f"{text} ({type(error.__cause__ or error).__name__})"


def failures() -> tuple[type[BaseException], ...]:
    """What ``huggingface_hub`` raises; its client was httpx and is httpx2 since version 2."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    transport = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")
    return (transport, HFValidationError, OSError, RuntimeError)  # the last: of an upload's thread


def _response(error: BaseException | None) -> Any:
    """The hub's answer behind an error, if there was one."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response
        error = error.__cause__
    return None


def _is_offline(access: Access) -> bool:
    from huggingface_hub import constants

    return access.local_files_only or constants.HF_HUB_OFFLINE


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def converted(
    sources: Sequence[Path],
    options: str,
    make: Callable[[Path], None],
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder that ``make`` writes from ``sources``, made once.

    It lies in ``cache_home(cache_dir)`` and is named after the first source; another size or time
    of a source, or other ``options``, is another folder.
    """
    digest = hashlib.sha256(options.encode())
    for source in sources:
        real = source.resolve()
        facts = real.stat()
        digest.update(f"{real} {facts.st_size} {facts.st_mtime_ns}".encode())
    name = f"{sources[0].stem}-{digest.hexdigest()[:16]}"
    folder = cache_home(cache_dir) / name
    if not folder.is_dir():
        with new_folder(folder) as temporary:
            make(temporary)
    return folder


def cache_home(cache_dir: str | Path | None = None) -> Path:
    """``arimage/`` in the hub's home (HF_HOME), or in a ``cache_dir``."""
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HOME) / "arimage"


def file_sha256(path: Path) -> str:
    """The hash of a file, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
