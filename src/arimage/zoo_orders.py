"""PAR's and RandAR's models, on LlamaGen's graph in other orders, as fields of ``zoo.Preset``.

Files, scores and guidance of each score: Epiphqny/PAR@d96acea README.md, where no licence is
stated; ziqipang/RandAR@d374a72 README.md.
"""

from __future__ import annotations

from typing import Any

from arimage.zoo_llamagen import BY_FIXTURES, CELL, RESIZED, TOKENIZER, over_its_tokens

PAR_SAMPLING: dict[str, Any] = {"guidance_scale": 1.5}
# --cfg-scales 1.0,4.0 of documentation.md
RANDAR_SAMPLING: dict[str, Any] = {"guidance_scale": 4.0, "guidance_schedule": "linear_before"}

# name, depth, parameters, guidance of its score, FID of the authors
_PAR = (
    ("XL-4x", 36, 774703360, 1.5, 2.61),
    ("XXL-4x", 48, 1410977280, 1.435, 2.35),
    ("3B-4x", 24, 3096668800, 1.345, 2.29),
    ("3B-16x", 24, 3096707200, 1.5, 2.88),
)


def _par(size: str, depth: int, parameters: int, scale: float, fid: float) -> dict[str, Any]:
    return over_its_tokens(f"par-{size.lower()}-384", 384, parameters, depth) | {
        "order": "regions",
        "num_classes": 1000,
        "licence": "unknown",
        "data": "ImageNet-1k",
        "paper": "2412.15119",
        "repo": "Epiphqny/PAR",
        "variant": f"PAR-{size}",
        "file": f"PAR-{size}.pt",
        "sampling": {"guidance_scale": scale},
        "published": {"fid": fid},
        "published_by": "Epiphqny/PAR@d96acea README.md",
        "remark": RESIZED,
    }


# size, depth, tokenizer, parameters, guidance of its score, FID of the authors
_RANDAR = (
    ("0.3b", 24, "llamagen", 342912000, 3.4, 2.65),
    ("0.3b", 24, "maskgit", 311454720, 4.0, 2.47),
    ("0.7b", 36, "llamagen", 774700800, 4.0, 2.27),
)
_TOKENIZERS = {
    "llamagen": (TOKENIZER, "FoundationVision/LlamaGen", "vq_ds16_c2i.pt"),
    "maskgit": (54515587, "fun-research/TiTok", "maskgit-vqgan-imagenet-f16-256.bin"),
}


def _randar(
    size: str, depth: int, tokenizer: str, parameters: int, scale: float, fid: float
) -> dict[str, Any]:
    count, repo, file = _TOKENIZERS[tokenizer]
    return {
        "name": f"randar-{size}-{tokenizer}",
        "order": "instructed",
        "image_size": 256,
        "num_classes": 1000,
        "scales": (256 // CELL,),
        "parameters": (parameters, count),
        "depth": depth,
        "licence": "MIT",
        "data": "ImageNet-1k",
        "paper": "2412.01827",
        "verified": BY_FIXTURES,
        "repo": "ziqipang/RandAR",
        "variant": f"{size}-{tokenizer}",
        "file": f"randar_{size}_{tokenizer}_360k_bs_1024_lr_0.0004.safetensors",
        "tokenizer_repo": repo,
        "tokenizer_file": file,
        "sampling": RANDAR_SAMPLING | {"guidance_scale": scale},
        "published": {"fid": fid},
        "published_by": "ziqipang/RandAR@d374a72 README.md",
    }


ORDERED: tuple[dict[str, Any], ...] = (
    *(_par(*row) for row in _PAR),
    *(_randar(*row) for row in _RANDAR),
)
