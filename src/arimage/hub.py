"""From a name to a local folder: a path, a packaged preset or a Hugging Face Hub repository."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from arimage.registry import unknown_name
from arimage.zoo import PRESETS


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
    if str(name) in PRESETS:
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
            f"give a local folder or one of the presets {', '.join(sorted(PRESETS))}"
        ) from error
