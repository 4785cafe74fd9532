"""Features on disk, a file per batch and extractor: what a killed run has is not computed again.

``FOLDER/SOURCE-KEY/EXTRACTOR/000000.safetensors``. The key follows from the identity of the images
and the batch size, the extractor's folder from its name, which holds its weights' hash: other
images or another network never find these files. Files appear whole, so a kill leaves none in half;
several processes may fill one folder.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from arimage.eval.base import FeatureBatch
from arimage.eval.sources import ImageSource, digest
from arimage.files import new_file, read_json, write_json
from arimage.shapes import Int

PARTS = ("features", "spatial", "probabilities")


@dataclass(frozen=True, eq=False)
class Seen:
    """What one extractor says about one batch of a source.

    ``kept``: indices of the images in the source; ``skipped``: what could not be read;
    ``size``: (height, width) of the images, None where there are none.
    """

    batch: FeatureBatch
    kept: Int[np.ndarray, " b"]
    skipped: tuple[str, ...]
    size: tuple[int, int] | None


class FeatureCache:
    """The files of one source, read in batches of ``batch_size``."""

    def __init__(self, folder: str | Path, source: ImageSource, batch_size: int) -> None:
        self.folder = Path(folder) / digest(source.identity, batch_size)[:16]
        record = {"source": source.name, "identity": source.identity, "batch_size": batch_size}
        if not (self.folder / "source.json").is_file():
            write_json(self.folder / "source.json", record)

    def path(self, extractor: str, index: int) -> Path:
        """The file of batch ``index``."""
        readable = re.sub(r"[^\w.@-]+", "_", extractor)[:80]
        return self.folder / f"{readable}-{digest(extractor)[:8]}" / f"{index:06d}.safetensors"

    def load(self, extractor: str, index: int) -> Seen | None:
        """The batch, or None where it is not there or not whole."""
        path = self.path(extractor, index)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "np") as file:
                record = json.loads(file.metadata()["arimage"])
                parts = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None
        kept = parts.pop("kept")
        size = tuple(record["size"]) if record["size"] else None
        batch = FeatureBatch(extractor=extractor, **parts)
        return Seen(batch, kept, tuple(record["skipped"]), size)

    def save(self, index: int, seen: Seen) -> None:
        """Writes a batch."""
        found = {part: getattr(seen.batch, part) for part in PARTS}
        arrays = {k: np.ascontiguousarray(v) for k, v in found.items() if v is not None}
        record = {"skipped": seen.skipped, "size": seen.size}
        with new_file(self.path(seen.batch.extractor, index)) as temporary:
            metadata = {"arimage": json.dumps(record)}
            save_file(arrays | {"kept": seen.kept}, temporary, metadata)

    def remember(self, key: str, make: Callable[[], str]) -> str:
        """A fact about the source, found out once."""
        record = read_json(self.folder / "source.json")
        if key not in record:
            record[key] = make()
            write_json(self.folder / "source.json", record)
        return record[key]
