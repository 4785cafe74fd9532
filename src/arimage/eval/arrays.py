"""Arrays in npy and npz files: one at a time, mapped where that is possible, never a pickle."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip. ValueError: it cannot be read."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); download or pack it again") from error


def load_npy(path: Path) -> np.ndarray:
    """A npy file, mapped. ValueError: not one, or one that holds Python objects."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an array of numbers ({error})") from error


def npz_member(path: Path, key: str) -> np.ndarray:
    """One array of a npz, without reading the others; mapped where it is stored uncompressed.

    Raises:
        ValueError: no such array, Python objects in it (they are never loaded), a damaged file.
    """
    with open_zip(path) as archive:
        if f"{key}.npy" not in archive.namelist():
            known = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
            raise ValueError(f"{path} has no array {key!r}; it holds {known or 'nothing'}")
        info = archive.getinfo(f"{key}.npy")
        stored = info.compress_type == zipfile.ZIP_STORED
        with archive.open(info) as member:
            try:
                shape, fortran, dtype = _npy_header(member)
            except (ValueError, zipfile.BadZipFile) as error:
                raise ValueError(f"{path}: {key} is not a numpy array ({error})") from error
            header = member.tell()
    if dtype.hasobject:
        raise ValueError(
            f"{path}: {key} holds Python objects, which could run code and are never loaded; save "
            "plain numbers"
        )
    if stored and not fortran and shape:
        offset = _data_start(path, info) + header
        return np.memmap(path, dtype, "r", offset, shape)
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return loaded[key]
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path}: {key} cannot be read ({error}); download it again") from error


def _data_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header of 30 bytes, name and extra."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name + extra


def _npy_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"npy version {version}")
    return readers[version](member)
