"""PAR's models, on LlamaGen's graph in another order, as fields of ``zoo.Preset``; a line each.

Files, scores and guidance of each score: Epiphqny/PAR@d96acea README.md. No licence is stated.
"""

from __future__ import annotations

from typing import Any

from arimage.zoo_llamagen import BY_FIXTURES, CELL, RESIZED, TOKENIZER

PAR_SAMPLING: dict[str, Any] = {"guidance_scale": 1.5}

# name, depth, parameters, guidance of its score, FID of the authors
_PAR = (
    ("XL-4x", 36, 774703360, 1.5, 2.61),
    ("XXL-4x", 48, 1410977280, 1.435, 2.35),
    ("3B-4x", 24, 3096668800, 1.345, 2.29),
    ("3B-16x", 24, 3096707200, 1.5, 2.88),
)


def _par(size: str, depth: int, parameters: int, scale: float, fid: float) -> dict[str, Any]:
    return {
        "name": f"par-{size.lower()}-384",
        "order": "regions",
        "image_size": 384,
        "num_classes": 1000,
        "scales": (384 // CELL,),
        "parameters": (parameters, TOKENIZER),
        "depth": depth,
        "licence": "unknown",
        "data": "ImageNet-1k",
        "paper": "2412.15119",
        "verified": BY_FIXTURES,
        "repo": "Epiphqny/PAR",
        "variant": f"PAR-{size}",
        "file": f"PAR-{size}.pt",
        "tokenizer_repo": "FoundationVision/LlamaGen",
        "tokenizer_file": "vq_ds16_c2i.pt",
        "sampling": {"guidance_scale": scale},
        "published": {"fid": fid},
        "published_by": "Epiphqny/PAR@d96acea README.md",
        "remark": RESIZED,
    }


ORDERED: tuple[dict[str, Any], ...] = tuple(_par(*row) for row in _PAR)
