"""From a name to the folder of one tokenizer: ours as it is, published files converted once."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from arimage import __version__, checkpoint, hub
from arimage.files import read_json
from arimage.pretrained import ArimageModel
from arimage.registry import unknown_name
from arimage.tokenizers.registry import LAYOUTS, TOKENIZERS
from arimage.zoo import published_tokenizer

PART = "image_tokenizer"  # its folder inside a generator's
FILES = ("", f"{PART}/")  # where a repository has it


def load_tokenizer(
    name: str | Path,
    *,
    variant: str | None = None,
    scales: Sequence[int] | None = None,
    image_size: int | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **kwargs: Any,
) -> Any:
    """A tokenizer by preset, folder, hub id or published file.

    Args:
        name: preset, folder, hub id or file.
        variant: the model of a hub repository that it belongs to.
        scales: sides of the token maps, for published files, which do not say.
        image_size: pixels per side, for the same, instead of ``scales``; 256 without both.
        revision, cache_dir, token, local_files_only: as ``hub.Access``.
        kwargs: transformers' own.

    Raises:
        FileNotFoundError: nothing of that name. ValueError: a file or folder without a tokenizer.
    """
    access = hub.Access(
        revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
    )
    path = Path(name)
    if not path.exists() and (preset := published_tokenizer(str(name), variant)):
        path = hub.fetch(preset.tokenizer_repo, preset.tokenizer_file, access)
        image_size = image_size or preset.image_size
    folder = path if path.is_file() else hub.locate(name, access, variant or "", FILES)
    folder = locate(folder, scales, image_size, cache_dir)
    model_type = str(read_json(folder / "config.json").get("model_type", ""))
    family = model_type.removeprefix("arimage_")
    if family not in TOKENIZERS:
        raise ValueError(f"{folder / 'config.json'}: {unknown_name(PART, family, TOKENIZERS)}")
    return TOKENIZERS[family].from_pretrained(folder, **kwargs)


def locate(
    path: Path,
    scales: Sequence[int] | None = None,
    image_size: int | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder with the tokenizer's config.json, for a folder or a published file."""
    files = [path] if path.is_file() else checkpoint.files_in(path)
    for candidate in (path / PART, path):
        config = candidate / "config.json"
        if config.is_file() and (not files or "model_type" in read_json(config)):
            return candidate
    if not files:
        raise FileNotFoundError(
            f"no {PART}/config.json and no checkpoint in {path}; give the folder or the file of a "
            "tokenizer"
        )
    options = f"{__version__} {PART} {scales and tuple(scales)} {image_size}"
    return hub.converted(
        files, options, lambda target: convert(files, target, scales, image_size), cache_dir
    )


def convert(
    sources: Iterable[Path],
    target: Path,
    scales: Sequence[int] | None = None,
    image_size: int | None = None,
) -> ArimageModel:
    """Writes the tokenizer that is in one of the files; returns it, backed by the file.

    ``scales`` are the sides of its token maps: of a single-scale tokenizer, of the one it has.

    Raises:
        ValueError: no tokenizer in them, or several.
    """
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    layout, weights = checkpoint.find_one(sources, layouts, "tokenizer")
    converted = layout.convert(weights, scales=scales, image_size=image_size)
    return checkpoint.write(layout, converted, target)
