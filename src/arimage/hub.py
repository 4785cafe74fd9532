"""From a name to a local folder: a path, a packaged preset or a Hugging Face Hub repository.

Published files in other layouts are converted once, into a cache beside the hub's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from arimage.files import new_folder
from arimage.registry import unknown_name
from arimage.zoo import PRESETS, packaged


def locate(name: str | Path, *, revision: str | None = None) -> Path:
    """A local folder for ``name``.

    Args:
        name: a folder, a preset of the zoo, or a hub id ``"owner/name"``.
        revision: branch, tag or commit of a hub repository.

    Raises:
        FileNotFoundError: no such folder, preset or repository; one sentence says what to do.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if str(name) in PRESETS and PRESETS[str(name)].folder:
        return Path(str(files("arimage"))) / PRESETS[str(name)].folder
    if path.exists():
        raise NotADirectoryError(f"{name} is a file; give the folder made by save_pretrained")
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")):
        return _download(str(name), revision)
    raise FileNotFoundError(
        f"{unknown_name('preset', str(name), PRESETS)}; or give a folder that exists, or a hub id "
        "'owner/name'"
    )


def _download(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "README.md"]  # never a pickle
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"cannot get {repo_id!r} from the hub ({reason}); check the name and the network, or "
            f"give a local folder or one of the presets {', '.join(packaged())}"
        ) from error


def fetch(repo_id: str, file: str, revision: str | None = None) -> Path:
    """One file of a hub repository, downloaded once.

    Raises:
        FileNotFoundError: offline and not cached, or no such file; says how to place it by hand.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id, file, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = type(error).__name__
        raise FileNotFoundError(
            f"cannot get the file {file} of the hub repository {repo_id} ({reason}): it is not in "
            f"the cache and the hub did not give it; download it elsewhere, put it in a folder "
            "with the other files of the model and give that folder's path"
        ) from error


def converted(sources: Sequence[Path], options: str, make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` writes from ``sources``, made once.

    It lies in ``arimage/`` in the hub's home (HF_HOME) and is named after the first source; another
    size or time of a source, or other ``options``, is another folder.
    """
    digest = hashlib.sha256(options.encode())
    for source in sources:
        real = source.resolve()
        facts = real.stat()
        digest.update(f"{real} {facts.st_size} {facts.st_mtime_ns}".encode())
    name = f"{sources[0].stem}-{digest.hexdigest()[:16]}"
    folder = cache_home() / name
    if not folder.is_dir():
        with new_folder(folder) as temporary:
            make(temporary)
    return folder


def cache_home() -> Path:
    """``arimage/`` in the hub's home (HF_HOME)."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "arimage"


def file_sha256(path: Path) -> str:
    """The hash of a file, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
