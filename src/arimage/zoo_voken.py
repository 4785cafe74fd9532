"""SEED-Voken's models, IBQ and Open-MAGVIT2, as fields of ``zoo.Preset``; a line each.

Files and scores: TencentARC/SEED-Voken@b9a17ea docs/IBQ.md and docs/Open-MAGVIT2.md; settings of
each score: scripts/evaluation/sample_gpu.sh.
"""

from __future__ import annotations

from typing import Any

from arimage.zoo_llamagen import BY_FIXTURES

IBQ_SAMPLING: dict[str, Any] = {"guidance_scale": 2.0}
OPEN_MAGVIT2_SAMPLING: dict[str, Any] = {"guidance_scale": 1.9}

# size, depth, parameters, guidance and temperature of its score, FID of the authors
_IBQ = (
    ("B", 16, 342994944, 2.25, 1.1, 2.88),
    ("L", 20, 649640960, 2.0, 1.0, 2.45),
    ("XL", 24, 1076103168, 2.35, 1.15, 2.14),
    ("XXL", 30, 2063331840, 2.85, 1.2, 2.05),
)
_IBQ_TOKENIZER = 110982019

_SHARED = {
    "order": "raster",
    "image_size": 256,
    "num_classes": 1000,
    "scales": (16,),
    "licence": "Apache-2.0",
    "data": "ImageNet-1k",
    "verified": BY_FIXTURES,
}


def _ibq(
    size: str, depth: int, parameters: int, scale: float, temperature: float, fid: float
) -> dict[str, Any]:
    return _SHARED | {
        "name": f"ibq-{size.lower()}",
        "parameters": (parameters, _IBQ_TOKENIZER),
        "depth": depth,
        "paper": "2412.02692",
        "repo": f"TencentARC/IBQ-AR-{size}",
        "variant": f"AR_256_{size}",
        "file": f"AR_256_{size}.ckpt",
        "tokenizer_repo": "TencentARC/IBQ-Tokenizer-16384",
        "tokenizer_file": "imagenet256_16384.ckpt",
        "sampling": {"guidance_scale": scale, "temperature": temperature},
        "published": {"fid": fid},
        "published_by": "TencentARC/SEED-Voken@b9a17ea docs/IBQ.md",
    }


# size, depth, parameters, settings of its score (of the first part, and what the second's differ
# in), FID of the authors
_OPEN_MAGVIT2 = (
    ("B", 24, 343570432, {"guidance_scale": 1.9}, {"guidance_scale": 2.0}, 3.08),
    ("L", 36, 804362240, {"guidance_scale": 1.9, "temperature": 1.1}, {"temperature": 1.0}, 2.51),
    (
        "XL",
        48,
        1486679040,
        {"guidance_scale": 1.75, "temperature": 1.1},
        {"guidance_scale": 1.85, "temperature": 1.0},
        2.33,
    ),
)
_OPEN_MAGVIT2_TOKENIZER = 115127829


def _open_magvit2(
    size: str,
    depth: int,
    parameters: int,
    first: dict[str, float],
    second: dict[str, float],
    fid: float,
) -> dict[str, Any]:
    return _SHARED | {
        "name": f"open-magvit2-{size.lower()}",
        "parameters": (parameters, _OPEN_MAGVIT2_TOKENIZER),
        "depth": depth,
        "paper": "2409.04410",
        "repo": f"TencentARC/Open-MAGVIT2-AR-{size}-256-resolution",
        "variant": f"AR_256_{size}",
        "file": f"AR_256_{size}.ckpt",
        "tokenizer_repo": "TencentARC/Open-MAGVIT2-Tokenizer-256-resolution",
        "tokenizer_file": "imagenet_256_L.ckpt",
        "sampling": first | {"parts": [second]},
        "published": {"fid": fid},
        "published_by": "TencentARC/SEED-Voken@b9a17ea docs/Open-MAGVIT2.md",
    }


VOKEN: tuple[dict[str, Any], ...] = (
    *(_ibq(*row) for row in _IBQ),
    *(_open_magvit2(*row) for row in _OPEN_MAGVIT2),
)
