"""The two parts of a generator: loaded from its folder, checked against each other, joined."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from arimage import __version__
from arimage.ar.base import Backbone
from arimage.ar.orders.base import Order
from arimage.ar.registry import ORDERS
from arimage.convert import INDEX
from arimage.files import new_files, read_json, write_json
from arimage.pretrained import ArimageModel
from arimage.registry import unknown_name
from arimage.tokenizers.base import ImageTokenizer


def make_order(
    tokenizer: ImageTokenizer,
    transformer: Backbone,
    num_steps: int | None = None,
    **options: Any,
) -> Order:
    """The transformer's order over the tokenizer's slots.

    Args:
        num_steps, options: ``Settings.order_options``.

    Raises:
        ValueError: ``num_steps`` for an order that has a fixed number, an option that the order
            does not have.
    """
    name = transformer.config.order
    cls = ORDERS[name]
    if num_steps is not None and not cls.free_steps:
        raise ValueError(
            f"got num_steps {num_steps}; the order {name!r} has a fixed number of steps: "
            "leave it out"
        )
    for option, value in options.items():
        if option not in cls.settings:
            raise ValueError(
                f"got {option} {value}; the order {name!r} has no such setting: leave it out"
            )
    if num_steps is not None:
        options = options | {"num_steps": num_steps}
    options = transformer.order_options | options
    return cls(tokenizer, transformer.prefix_length, transformer.device, **options)


def change_order(transformer: Backbone, order: str, *, force: bool = False) -> None:
    """Has a transformer run in another order than it was trained for, from its next image on.

    Args:
        transformer: of a generator; its config changes in place.
        order: one of its config's ``orders``.
        force: what the images are worth is not known, and this says that one knows it.

    Raises:
        KeyError: an unknown order. ValueError: one that the transformer cannot be run in, or
            another than its own without ``force``.
    """
    config, name = transformer.config, type(transformer).__name__
    if order not in ORDERS:
        raise KeyError(unknown_name("order", order, ORDERS))
    if order == config.order:
        return
    if order not in config.orders or "masked" in (order, config.order):  # rows for mask tokens
        raise ValueError(
            f"got order {order!r} for {name}, which was trained for {config.order!r} and cannot be "
            "run in it; train a model that can"
        )
    if not force and {order, config.order} != {"raster", "jacobi"}:  # whose images are the same
        raise ValueError(
            f"got order {order!r} for {name}, which was trained for {config.order!r}: it can be "
            "run so, but how good its images are is not known; give force=True to do it all the "
            "same"
        )
    config.order = order


def check_fit(tokenizer: ImageTokenizer, transformer: Backbone) -> None:
    """Raises ValueError unless both agree on token maps, vocabulary and, if read, codes."""
    theirs: dict[str, Any] = {
        "grids": tokenizer.slots.grids,
        "vocab_size": tokenizer.config.vocab_size,
        "code_dim": tokenizer.config.code_dim,
    }
    ours = {
        "grids": transformer.slots.grids,
        "vocab_size": transformer.config.vocab_size,
        "code_dim": transformer.code_dim,
    }
    for name, value in ours.items():
        if value is not None and value != theirs[name]:
            raise ValueError(
                f"the transformer was built for {name} {value} and the tokenizer has "
                f"{theirs[name]}; use the pair that was trained together"
            )


def own_tokenizer(path: str | Path | None, dtype: torch.dtype) -> ImageTokenizer | None:
    """The tokenizer of a folder that ``save_pretrained`` or a training made; else None."""
    if path is None or not (Path(path) / "config.json").is_file():
        return None
    return ImageTokenizer.from_pretrained(path, dtype=dtype)


def load_part(folder: Path, part: str, registry: Any, dtype: torch.dtype) -> Any:
    """One component folder, by the ``model_type`` in its config.json."""
    path = folder / part
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"no {part}/config.json in {folder}; the folder is incomplete")
    model_type = str(read_json(path / "config.json").get("model_type", ""))
    name = model_type.removeprefix("arimage_")
    if name not in registry:
        raise ValueError(f"{path / 'config.json'}: {unknown_name(part, name, registry)}")
    cls: type[ArimageModel] = registry[name]
    return cls.from_pretrained(path, dtype=dtype)


def save_parts(
    folder: str | Path,
    name: str,
    parts: Mapping[str, ArimageModel],
    about: dict[str, Any],
    dtype: torch.dtype | None,
) -> None:
    """Writes a folder for each part, and the index with the class ``name`` and ``about``."""
    index: dict[str, Any] = {"_class_name": name, "_arimage_version": __version__}
    index |= {part: ["arimage", type(model).__name__] for part, model in parts.items()}
    with new_files(folder) as temporary:
        for part, model in parts.items():
            stored = model if dtype is None else copy.deepcopy(model).to(dtype)
            stored.save_pretrained(temporary / part)
        write_json(temporary / INDEX, index | about)
