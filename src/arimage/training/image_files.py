"""Images of a data set that can be opened by index, by any process: a folder, or ``datasets``.

What is here is sent to the processes that decode, so it holds names and open tables, no images.
"""

from pathlib import Path
from tarfile import TarError
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from arimage.eval.sources import columns_of, digest, labels_of, open_stored
from arimage.images import image_names, open_image
from arimage.shapes import Int

SHARDS = {".parquet": "parquet", ".tar": "webdataset"}  # suffix -> the reader of ``datasets``


@runtime_checkable
class ImageFiles(Protocol):
    """Images by index.

    Attributes:
        identity: equal for the same data set, also after it was moved; cheap, so the content of
            the images is not in it.
        labels: the class of each image, or None.
        class_names: one per class, or None.
    """

    identity: str
    labels: Int[np.ndarray, " n"] | None
    class_names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def title(self, index: int) -> str:
        """What messages call an image."""
        ...

    def open(self, index: int) -> Image.Image:
        """The image, in the mode that it has.

        Raises:
            FileNotFoundError, ValueError: it is gone or broken.
        """
        ...


class FolderFiles:
    """Image files below a folder, sorted by path; classes are sub-folders (``labels_of``).

    Raises:
        NotADirectoryError, ValueError: no folder, no image.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.names = Path(folder), image_names(folder)
        self.identity = digest(*self.names)
        labels = labels_of(self.names)
        self.labels = None if labels is None else labels.astype(np.int64)
        parents = sorted({name.split("/")[-2] for name in self.names if "/" in name})
        named = labels is not None and not all(name.isdigit() for name in parents)
        self.class_names = tuple(parents) if named and parents else None

    def __len__(self) -> int:
        return len(self.names)

    def title(self, index: int) -> str:
        """Its path."""
        return str(self.folder / self.names[index])

    def open(self, index: int) -> Image.Image:
        """Reads the file."""
        return open_image(self.folder / self.names[index])


class TableFiles:
    """Rows of a map-style data set of ``datasets``.

    Raises:
        ValueError: no row, no column of images.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self.column, label = columns_of(dataset.features, name)
        self.dataset, self.name = undecoded(dataset, self.column), name
        if not len(dataset):
            raise ValueError(f"{name} has no row; give a data set with images")
        self.identity = digest(Path(name).name, len(dataset), *dataset.features)
        self.labels, self.class_names = None, None
        labels = None if label is None else np.asarray(dataset[label])
        if labels is not None and labels.dtype.kind in "iu":
            self.labels = labels.astype(np.int64)
            self.class_names = class_names(dataset.features[label])

    def __len__(self) -> int:
        return len(self.dataset)

    def title(self, index: int) -> str:
        """Its row."""
        return f"image {index} of {self.name}"

    def open(self, index: int) -> Image.Image:
        """Reads the row's bytes or file."""
        return open_stored(self.dataset[index][self.column], self.title(index))


def class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of a ``ClassLabel``; None for other columns."""
    names = getattr(feature, "names", None)
    return tuple(names) if names else None


def undecoded(dataset: Any, *columns: str) -> Any:
    """A data set of these columns alone, the first as ``Image(decode=False)``: a broken image is
    then ours to skip."""
    import datasets

    return dataset.select_columns(list(columns)).cast_column(
        columns[0], datasets.Image(decode=False)
    )


def data_name(data: str | Path) -> str:
    """What records call a data set: a hub id whole, a local one by its name, without the path."""
    path = Path(data)
    return path.resolve().name if path.exists() else str(data)


def read_dataset(path: str, split: str | None, streaming: bool) -> Any:
    """The data set of ``datasets`` that a name means: parquet files or webdataset shards (a file,
    or a folder of them), a folder that ``datasets`` saved, or a hub id ("owner/name").

    Args:
        split: of a saved folder or a hub id; None takes "train", or the only one.
        streaming: read in order, without a copy on this machine.

    Raises:
        FileNotFoundError: it cannot be had or read. ValueError: no such split.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError

    try:
        if shards := find_shards(Path(path)):
            kind = SHARDS[shards[0].suffix.lower()]
            files = [str(shard) for shard in shards]
            return datasets.load_dataset(kind, data_files=files, split="train", streaming=streaming)
        if Path(path).is_dir():
            found = datasets.load_from_disk(path)
        else:
            found = datasets.load_dataset(path, streaming=streaming)
    except (OSError, ValueError, TarError, DatasetGenerationError) as error:
        cause = error.__cause__ or error  # the reader's own words, below "an error occurred"
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise FileNotFoundError(
            f"cannot load the data set {path!r} ({reason}); check the name and the network, or "
            "give a folder of images, parquet files or webdataset shards (.tar)"
        ) from error
    return choose_split(found, path, split) if isinstance(found, dict) else found


def choose_split(found: dict[str, Any], path: str, split: str | None) -> Any:
    """One split of several; see ``read_dataset``."""
    splits = list(found)
    wanted = split or (splits[0] if len(splits) == 1 else "train")
    if wanted not in splits:
        raise ValueError(
            f"{path} has the splits {', '.join(splits)}; got {split}: name one of them as split"
        )
    return found[wanted]


def find_shards(path: Path) -> list[Path]:
    """The file ``path``, or the files of a folder, where they are of a kind in ``SHARDS``; sorted.

    A folder with both kinds counts as parquet.
    """
    if path.is_file():
        return [path] if path.suffix.lower() in SHARDS else []
    if not path.is_dir():
        return []
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in SHARDS)
    first = min((p.suffix.lower() for p in files), default=None)
    return [p for p in files if p.suffix.lower() == first]


def saved_by_datasets(path: Path) -> bool:
    """Whether ``datasets`` wrote a folder (``save_to_disk``)."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
