"""TiTok's models, as fields of ``zoo.Preset``.

Files and scores: bytedance/1d-tokenizer@942a96f README_TiTok.md; settings of each score:
configs/infer/TiTok/*.yaml and sample_imagenet_titok.py (guidance g is 1 + g here, except under
power-cosine).
"""

from __future__ import annotations

from typing import Any

from arimage.zoo_llamagen import BY_FIXTURES

# README_TiTok.md "Get Started", for files of unknown size
TITOK_SAMPLING: dict[str, Any] = {
    "sampler": "annealed",
    "guidance_scale": 5.5,
    "choice_temperature": 1.0,
}
_FALLING = {"temperature_schedule": "falling"}  # in sample_imagenet_titok.py, of every size
_LINEAR = {"guidance_schedule": "linear_before", "num_steps": 8, **_FALLING}
_L32 = {"guidance_scale": 5.5, "choice_temperature": 9.5, **_LINEAR}
_B64 = {"guidance_scale": 4.0, "choice_temperature": 11.0, **_LINEAR}
_S128 = {
    "guidance_scale": 6.9,
    "guidance_schedule": {"name": "power_cosine", "power": 3.0},
    "choice_temperature": 2.8,
    "num_steps": 64,
    **_FALLING,
}

# name, depth, parameters of both, settings, FID of the authors
_TITOK: tuple[tuple[str, int, int, int, dict[str, Any], float], ...] = (
    ("l32", 24, 177200896, 641018895, _L32, 2.77),
    ("b64", 24, 177225472, 204762639, _B64, 2.48),
    ("s128", 21, 294990848, 83607567, _S128, 1.97),
)


def _titok(
    size: str, depth: int, parameters: int, tokenizer: int, sampling: dict[str, Any], fid: float
) -> dict[str, Any]:
    return {
        "name": f"titok-{size}",
        "order": "masked",
        "image_size": 256,
        "num_classes": 1000,
        "parameters": (parameters, tokenizer),
        "depth": depth,
        "licence": "Apache-2.0",
        "data": "ImageNet-1k",
        "paper": "2406.07550",
        "verified": BY_FIXTURES,
        "repo": "fun-research/TiTok",
        "variant": size,
        "file": f"generator_titok_{size}.bin",
        "tokenizer_repo": "fun-research/TiTok",
        "tokenizer_file": f"tokenizer_titok_{size}.bin",
        "sampling": TITOK_SAMPLING | sampling,
        "published": {"fid": fid},
        "published_by": "bytedance/1d-tokenizer@942a96f README_TiTok.md",
    }


TITOK: tuple[dict[str, Any], ...] = tuple(_titok(*row) for row in _TITOK)
