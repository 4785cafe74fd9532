"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def _parent(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot create the folder {path.parent} ({error.strerror}); choose another output path"
        ) from error
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"cannot write in {path.parent}; choose a folder you may write to")
    return path.parent


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; it is moved there when the block succeeds."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write the file {path}: a folder of that name exists")
    handle, name = tempfile.mkstemp(dir=_parent(path), prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_files(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder; its files move into ``folder`` when the block succeeds.

    Other files of ``folder`` stay; files of the same name are replaced, each in one step.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot write the folder {folder}: a file of that name exists")
    temporary = Path(tempfile.mkdtemp(dir=_parent(folder), prefix=f".{folder.name}."))
    try:
        yield temporary
        for source in sorted(p for p in temporary.rglob("*") if p.is_file()):
            target = folder / source.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(source, 0o644)  # safetensors writes for the owner alone
            os.replace(source, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes ``folder`` in one step when the block succeeds.

    Where another process made ``folder`` meanwhile, its files stay.
    """
    folder = Path(folder)
    temporary = Path(tempfile.mkdtemp(dir=_parent(folder), prefix=f".{folder.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> Path:
    """Writes ``text`` (UTF-8) to ``path`` through a temporary file; returns the path."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Writes ``value`` as indented JSON through a temporary file; returns the path."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def claim_json(path: str | Path, value: dict[str, Any]) -> dict[str, Any]:
    """Writes ``value`` unless the file is there; what it then holds, whichever process wrote it."""
    path = Path(path)
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=_parent(path), prefix=f".{path.name}.") as folder:
            temporary = write_json(Path(folder) / path.name, value)
            try:
                os.link(temporary, path)  # fails where another process was first
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(temporary, path)
    return read_json(path)


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object; a broken file gets one sentence with its place."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); save or download it again"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value
