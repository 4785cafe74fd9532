"""The two parts of a generator: loaded from its folder, checked against each other, joined."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from arimage import __version__
from arimage.ar.base import Backbone
from arimage.ar.orders.base import Order
from arimage.ar.registry import ORDERS
from arimage.convert import INDEX, locate
from arimage.files import new_files, read_json, write_json
from arimage.hub import Access
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
    check_fuse(tokenizer, transformer.config.order)


def check_fuse(tokenizer: ImageTokenizer, order: str) -> None:
    """Raises ValueError unless the order reads token maps as the tokenizer makes them."""
    if tokenizer.slots.num_scales > 1 and ORDERS[order].replaces != tokenizer.replaces:
        ways = "that replace each other", "that add up"
        mine, theirs = ways if tokenizer.replaces else ways[::-1]
        raise ValueError(
            f"got order {order!r} for a tokenizer with token maps {mine}; it reads maps {theirs}: "
            "use the pair that was trained together"
        )


def at_scales(
    tokenizer: ImageTokenizer, transformer: Backbone, scales: Sequence[int | Sequence[int]]
) -> tuple[ImageTokenizer, Backbone]:
    """The same weights over other token maps; a side stands for a square, or (height, width).

    Raises:
        ValueError: no scales or no maps, or those that one of the two cannot have.
    """
    grids = [(side, side) if isinstance(side, int) else tuple(side) for side in scales]
    if not grids or any(len(g) != 2 or not all(type(n) is int and n > 0 for n in g) for g in grids):
        raise ValueError(
            f"got scales {list(scales)}; expected sides of token maps, or (height, width), for "
            "example [1, 2, 4, 8] or [1, 2, (2, 4), (4, 8)]"
        )
    if tuple(grids) == transformer.slots.grids:
        return tokenizer, transformer
    model = transformer.at(grids)
    at = getattr(tokenizer, "at", None)
    if at is None:
        raise ValueError(f"got scales; a {type(tokenizer).__name__} has one size: leave them out")
    return at(grids), model


G = TypeVar("G", bound="Resizable")


class Resizable:
    """Gives a generator ``at``: images of other sizes and shapes, in more or fewer steps."""

    tokenizer: ImageTokenizer
    transformer: Backbone
    conditions: Any
    captures: Any

    def at(self: G, scales: Sequence[int | Sequence[int]]) -> G:
        """The same generator over other token maps; weights are shared, compilation is off.

        Args:
            scales: one entry per step, coarse to fine: a side, or (height, width). Images have the
                last one times the tokenizer's downsample factor.

        Raises:
            ValueError: a model that runs over its own maps alone (learned places), or maps that it
                cannot have.
        """
        other = copy.copy(self)
        other.tokenizer, other.transformer = at_scales(self.tokenizer, self.transformer, scales)
        other.conditions = copy.copy(self.conditions)
        other.conditions.transformer = other.transformer
        other.captures = None
        return other

    @property
    def image_size(self) -> int:
        """Pixels per side of its images.

        Raises:
            ValueError: they are not square.
        """
        height, width = self.tokenizer.slots.grids[-1]
        if height != width:
            raise ValueError(
                f"got token maps that end with {height} x {width}; images are cut to squares: give "
                "scales that end with a square, or known tokens instead of images"
            )
        return height * self.tokenizer.config.downsample_factor


def find_folder(
    name: str | Path, variant: str | None, tokenizer: str | Path | None, access: Access
) -> Path:
    """The folder of a generator: there already, or made of published files.

    Raises:
        FileNotFoundError: nothing of that name, or a folder without a generator. The rest as
            ``convert.locate``.
    """
    folder = locate(name, variant, tokenizer, access)
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"no {INDEX} in {folder}; give a folder made by ImageGenerator.save_pretrained"
        )
    return folder


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
