"""Published files of a transformer and its tokenizer -> the folder of a generator."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from arimage import __version__, checkpoint, hub, names
from arimage.ar.registry import LAYOUTS
from arimage.files import new_files, write_json
from arimage.tokenizers import load as tokenizers
from arimage.zoo import PRESETS, Preset, find_file, find_published, find_variant
from arimage.zoo import published_tokenizer as find_tokenizer

INDEX = "model_index.json"
TOKENIZER, TRANSFORMER = tokenizers.PART, "transformer"


def locate(
    name: str | Path,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    access: hub.Access | None = None,
) -> Path:
    """The folder of a generator; published files are converted into the cache first.

    Args:
        name: preset, folder, hub id, or a published file.
        variant: which model of a hub repository, or of a folder of published files; where they are
            not published ones it is a folder inside, and no other is downloaded.
        tokenizer: the tokenizer's file, or a hub id that has one.
        access: to the hub.

    Raises:
        FileNotFoundError: nothing of that name, or no tokenizer. ValueError: files that do not fit.
    """
    for folder in (Path(name), Path(name) / (variant or "")):
        if (folder / INDEX).is_file():
            return folder
    files, preset = sources(name, variant, tokenizer, access)
    if not files:
        return hub.locate(name, access, variant or "")
    hints = preset.hints if preset else {}
    options = f"{__version__} {preset and preset.name}"
    cache_dir = access and access.cache_dir
    return hub.converted(
        files, options, lambda folder: write(files, folder, preset, **hints), cache_dir
    )


def sources(
    name: str | Path,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    access: hub.Access | None = None,
) -> tuple[list[Path], Preset | None]:
    """The published files behind a name (none for our own folders) and their preset, if known."""
    path = Path(name)
    if path.exists():
        preset = find_variant(variant) if variant is not None else None
        files = [path] if path.is_file() else chosen(path, preset)
        preset = named(files, preset)
    else:
        preset = PRESETS.get(str(name)) or find_published(str(name), variant)
        if preset is None or not preset.repo:
            return [], None
        files = [hub.fetch(preset.repo, preset.file, access)]
        tokenizer = tokenizer or preset.tokenizer_repo
    if tokenizer is not None and files:
        files.append(tokenizer_file(tokenizer, access))
    return files, preset


def chosen(folder: Path, preset: Preset | None) -> list[Path]:
    """The published files of a folder: the preset's, where they have its names, else all."""
    if preset is not None and (folder / Path(preset.file).name).is_file():
        both = (folder / Path(preset.file).name, folder / preset.tokenizer_file)
        return [file for file in both if file.is_file()]
    return checkpoint.files_in(folder)


def named(files: Sequence[Path], asked: Preset | None) -> Preset | None:
    """What is asked for, or what the published name of one of the files says.

    A name alone does not vouch for the depth: who trains a model may call its file as published.

    Raises:
        ValueError: the two differ.
    """
    found = [(file, preset) for file in files if (preset := find_file(file.name))]
    if len(found) != 1:
        return asked
    file, preset = found[0]
    if asked is not None and asked.variant != preset.variant:
        raise ValueError(
            f"{file} has the name of variant {preset.variant} ({preset.image_size} px) and "
            f"{asked.variant} ({asked.image_size} px) was asked for; leave variant out, or give "
            f"the file of {asked.variant}"
        )
    return preset if asked is not None else replace(preset, depth=None)


def tokenizer_file(tokenizer: str | Path, access: hub.Access | None = None) -> Path:
    """A local file, or the published tokenizer of a hub id (its newest revision).

    Raises:
        FileNotFoundError: neither.
    """
    if Path(tokenizer).is_file():
        return Path(tokenizer)
    published = find_tokenizer(str(tokenizer))
    if published is None:
        raise FileNotFoundError(
            f"no tokenizer file {tokenizer}; give its path, or a hub id that has one, for example "
            "'FoundationVision/var'"
        )
    newest = access and replace(access, revision=None)
    return hub.fetch(published.tokenizer_repo, published.tokenizer_file, newest)


def write(
    files: Sequence[Path],
    folder: Path,
    preset: Preset | None = None,
    **hints: Any,
) -> None:
    """Converts the transformer and the tokenizer that ``files`` hold between them.

    ``hints`` is what the layouts are told beyond the files.

    Raises:
        FileNotFoundError: one of the two is in none of them. ValueError: weights that do not fit.
    """
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    layout, weights = checkpoint.find_one(files, layouts, TRANSFORMER)
    converted = layout.convert(weights, **hints)
    config: Any = converted.config
    check_asked(preset, layout.name, config.order)
    image_tokenizer = tokenizers.convert(files, folder / TOKENIZER, config.scales)
    transformer = checkpoint.write(layout, converted, folder / TRANSFORMER)
    index = {
        "_class_name": "ImageGenerator",
        "_arimage_version": __version__,
        TOKENIZER: ["arimage", type(image_tokenizer).__name__],
        TRANSFORMER: ["arimage", type(transformer).__name__],
        "sampling": layout.sampling if preset is None else preset.sampling,
        "class_names": names.of(config.num_classes),
    }
    write_json(folder / INDEX, index)


def check_asked(preset: Preset | None, found: str, order: str) -> None:
    """Raises ValueError where a preset that was asked for is run in another order than ``found``.

    A published name of a file alone asks for nothing (``named``).
    """
    if preset is not None and preset.depth is not None and preset.order != order:
        raise ValueError(
            f"{preset.name} runs in the order {preset.order!r} and the file holds a {found}, of "
            f"the order {order!r}, or lacks what tells the two apart; get {preset.file} again"
        )


def convert(
    source: str | Path,
    target: str | Path,
    *,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    scales: Sequence[int] | None = None,
    num_heads: int | None = None,
) -> Path:
    """Writes a folder that ``ImageGenerator.from_pretrained`` loads; a file that holds a tokenizer
    alone becomes the folder of a tokenizer.

    Args:
        source: a published file, a folder of them, a hub id or a preset.
        target: the folder to write.
        variant, tokenizer: as ``locate``.
        scales: sides of the token maps, for files that do not say; one side for a raster model.
        num_heads: for files of a size that was not published and does not say.

    Raises:
        FileNotFoundError, ValueError: as ``locate``.
    """
    files, preset = sources(source, variant, tokenizer)
    if not files:
        raise FileNotFoundError(
            f"no published files behind {source}; give a checkpoint file, a folder of them, or a "
            "hub id whose layout is known"
        )
    hints = preset.hints if preset else {}
    given = {"scales": scales, "num_heads": num_heads}
    hints |= {name: value for name, value in given.items() if value is not None}
    with new_files(target) as temporary:
        try:
            write(files, temporary, preset, **hints)
        except checkpoint.NothingFound as error:
            if error.kind != TRANSFORMER:
                raise
            tokenizers.convert(files, temporary, scales)
    return Path(target)
