"""Small models for small images: what ``arimage demo`` and ``arimage train`` build.

A few hundred thousand parameters each, so that a CPU trains them in minutes.
"""

from typing import Any

import torch

from arimage.ar.base import Backbone
from arimage.ar.registry import MODELS
from arimage.parts import check_fuse
from arimage.registry import unknown_name
from arimage.tokenizers.base import ImageTokenizer, nearest_multiple_error
from arimage.tokenizers.registry import TOKENIZERS

DOWNSAMPLE = 8
VOCAB_SIZE = 128
SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # VAR at 256 px; smaller images take the first ones
FAMILIES = {
    "next_scale": "var",
    "raster": "llama",
    "masked": "llama",
    "random": "rar",
    "regions": "par",
    "instructed": "randar",
    "random_groups": "arpg",
    "local_groups": "lpd",
    "within_scale": "mvar",
    "halton": "halton",
    "bits": "maskbit",
    "flexible_scale": "flexvar",
    "refined_scale": "hmar",
}
# Three matrices in the feed-forward, not two.
GATED = ("llama", "par", "randar", "arpg", "halton", "ibq", "open_magvit2")
SMALL_ORDERS = tuple(FAMILIES)
# Orders over several token maps, and what makes these; the others have one map, of "vq".
BY_SCALE = {
    "next_scale": "multiscale_vq",
    "flexible_scale": "flexible_vq",
    "refined_scale": "multiscale_vq",
    "within_scale": "multiscale_vq",
}


def small_tokenizer(order: str, image_size: int, seed: int) -> ImageTokenizer:
    """An untrained tokenizer of the kind that ``order`` needs.

    Raises:
        KeyError: an unknown order. ValueError: a size that is not a multiple of 8.
    """
    check_order(order)
    if image_size < DOWNSAMPLE or image_size % DOWNSAMPLE:
        raise ValueError(nearest_multiple_error(image_size, DOWNSAMPLE))
    fields: dict[str, Any] = {
        "image_size": image_size,
        "downsample_factor": DOWNSAMPLE,
        "channels": 16,
        "channel_multipliers": [1, 2, 2, 2],
        "norm_groups": 8,
        "vocab_size": VOCAB_SIZE,
        "code_dim": 8,
    }
    if order == "bits":
        fields |= {"quantizer": "lfq", "vocab_size": 2 ** fields["code_dim"]}
    if order in BY_SCALE:
        fields["scales"] = scales_to(image_size // DOWNSAMPLE)
    cls = TOKENIZERS[BY_SCALE.get(order, "vq")]
    torch.manual_seed(seed)
    return cls(cls.config_class(**fields))


def small_transformer(
    order: str,
    tokenizer: ImageTokenizer,
    num_classes: int,
    seed: int,
    family: str | None = None,
) -> Backbone:
    """An untrained transformer over ``tokenizer``'s tokens.

    ``family`` is one that knows the order; None for the usual one.
    """
    check_order(order, tokenizer, family)
    family = family or FAMILIES[order]
    height, width = tokenizer.slots.grids[-1]
    fields: dict[str, Any] = {
        "order": order,
        "vocab_size": tokenizer.config.vocab_size,
        "num_classes": num_classes,
        "depth": 5 if family == "titok_uvit" else 4,
        "width": 96,
        "num_heads": 4,
        "dropout": 0.1,
    }
    if order in BY_SCALE:
        scales = [h for h, _ in tokenizer.slots.grids]
        fields |= {"scales": scales, "code_dim": tokenizer.config.code_dim}
        fields |= {"shared_adaln": True} if family != "m_var" else {}
    else:
        fields |= {"grid": [height, width], "mlp_hidden": 256 if family in GATED else 384}
    cls = MODELS[family]
    torch.manual_seed(seed)
    return cls(cls.config_class(**fields))


def scales_to(side: int) -> list[int]:
    """VAR's sides below ``side``, then ``side``."""
    return [s for s in SCALES if s < side] + [side]


def default_order(family: str | None, tokenizer: ImageTokenizer | None = None) -> str:
    """The family's first order; without one, raster where the tokenizer has one token map."""
    if family is not None:
        return MODELS[family].config_class.orders[0]
    if tokenizer is None:
        return "next_scale"
    replaces = "flexible_scale" if tokenizer.replaces else "next_scale"
    return "raster" if tokenizer.slots.num_scales == 1 else replaces


def check_order(
    order: str, tokenizer: ImageTokenizer | None = None, family: str | None = None
) -> None:
    """Raises KeyError for an unknown order, ValueError for one that the tokenizer cannot serve or
    the family does not know.
    """
    if order not in SMALL_ORDERS:
        raise KeyError(unknown_name("order", order, SMALL_ORDERS))
    if family is not None and order not in (known := MODELS[family].config_class.orders):
        raise ValueError(
            f"got order {order!r} for a transformer of the family {family!r}, which knows "
            f"{', '.join(known)}; use one of them or another recipe"
        )
    if tokenizer is None or tokenizer.slots.grids == ((1, 1),):
        return
    maps = tokenizer.slots.num_scales
    if (order in BY_SCALE) != (maps > 1):
        fitting = [name for name in SMALL_ORDERS if (name in BY_SCALE) == (maps > 1)]
        raise ValueError(
            f"got order {order!r} for a tokenizer with {maps} token map{'s' * (maps > 1)}; use "
            f"{', '.join(fitting[:-1])} or {fitting[-1]}"
        )
    check_fuse(tokenizer, order)
