"""Masked models, Halton-MaskGIT's and MaskBit's, as fields of ``zoo.Preset``; a line each.

Files and scores: valeoai/Halton-MaskGIT@f61b0a1 README.md (32 steps; its CFG w is 1 + w here), with
the temperatures of launch/eval_test_to_img.sh; markweberdev/maskbit@5ea3d73 README.md, with the
settings of configs/generator/*.yaml (its guidance g is 1 + g here).
"""

from __future__ import annotations

from typing import Any

from arimage.zoo_llamagen import BY_FIXTURES, CELL, over_its_tokens

# README.md and exemple.py: w 2, temperature factors 1 to 1.2
HALTON_SAMPLING: dict[str, Any] = {
    "guidance_scale": 3.0,
    "temperature_schedule": {"name": "sharpening", "first": 1.0, "last": 1.2},
}
_EVALUATED = {"name": "sharpening", "first": 1.0, "last": 1.0, "warm_up": 1}

# size, depth, pixels per side, parameters, w of its score, FID of the authors
_HALTON = (
    ("tiny", 6, 256, 23031425, 1.5, 10.2),
    ("small", 12, 256, 69344769, 1.0, 6.40),
    ("base", 12, 256, 142224641, 0.7, 4.17),
    ("small", 12, 384, 69508609, 1.0, 6.11),
    ("base", 12, 384, 142470401, 0.7, 4.15),
    ("large", 24, 384, 479984641, 0.5, 2.59),
)


def _halton(
    size: str, depth: int, side: int, parameters: int, weight: float, fid: float
) -> dict[str, Any]:
    return over_its_tokens(f"halton-{size}-{side}", side, parameters, depth) | {
        "order": "halton",
        "num_classes": 1000,
        "licence": "MIT",
        "data": "ImageNet-1k",
        "paper": "2503.17076",
        "repo": "llvictorll/Halton-MaskGIT",
        "variant": f"{size}-{side}",
        "file": f"ImageNet_{side}_{size}.pth",
        "sampling": {"guidance_scale": 1 + weight, "temperature_schedule": _EVALUATED},
        "published": {"fid": fid},
        "published_by": "valeoai/Halton-MaskGIT@f61b0a1 README.md",
    }


# markweberdev/maskbit@5ea3d73 configs/generator/maskbit_generator_14bit.yaml
MASKBIT_SAMPLING: dict[str, Any] = {
    "guidance_scale": 8.1,
    "guidance_schedule": {"name": "power_cosine", "power": 3.0},
    "choice_temperature": 7.8,
}

# bits, parameters of both, guidance, its power, scale of the confidence's noise, FID of the authors
_MASKBIT = (
    (10, 304728128, 54469005, 7.4, 2.5, 10.5, 1.68),
    (12, 304795776, 54479247, 8.1, 3.0, 8.2, 1.65),
    (14, 304929024, 54489489, 8.1, 3.0, 7.8, 1.62),
    (16, 305193472, 54499731, 7.5, 2.5, 7.5, 1.64),
    (18, 305720320, 54509973, 6.7, 2.5, 8.5, 1.67),
)


def _maskbit(
    bits: int,
    parameters: int,
    tokenizer: int,
    scale: float,
    power: float,
    choice: float,
    fid: float,
) -> dict[str, Any]:
    return {
        "name": f"maskbit-{bits}bit",
        "order": "bits",
        "image_size": 256,
        "num_classes": 1000,
        "scales": (256 // CELL,),
        "parameters": (parameters, tokenizer),
        "depth": 24,
        "licence": "Apache-2.0",
        "data": "ImageNet-1k",
        "paper": "2409.16211",
        "verified": BY_FIXTURES,
        "repo": f"markweber/maskbit_generator_{bits}bit",
        "variant": f"{bits}bit",
        "file": f"maskbit_generator_{bits}bit.bin",
        "tokenizer_repo": f"markweber/maskbit_tokenizer_{bits}bit",
        "tokenizer_file": f"maskbit_tokenizer_{bits}bit.bin",
        "sampling": {
            "guidance_scale": scale,
            "guidance_schedule": {"name": "power_cosine", "power": power},
            "choice_temperature": choice,
        },
        "published": {"fid": fid},
        "published_by": "markweberdev/maskbit@5ea3d73 README.md, 64 steps",
    }


MASKED: tuple[dict[str, Any], ...] = (
    *(_halton(*row) for row in _HALTON),
    *(_maskbit(*row) for row in _MASKBIT),
)
