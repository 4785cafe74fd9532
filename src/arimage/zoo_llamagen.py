"""LlamaGen's models, and CCA's on its graph, as fields of ``zoo.Preset``; a line each.

Files and scores: FoundationVision/LlamaGen@ce98ec4 README.md, GETTING_STARTED.md (guidance of each
score, top_k 0, top_p 1); thu-ml/CCA README.md.
"""

from __future__ import annotations

from typing import Any

LLAMAGEN_SAMPLING: dict[str, Any] = {"guidance_scale": 2.0}
LLAMAGEN_TEXT_SAMPLING: dict[str, Any] = {"guidance_scale": 7.5, "top_k": 1000}  # sample_t2i.py

BY_FIXTURES = "keys, shapes and code by fixtures; weights and scores not verified"
CELL = 16  # pixels per token and side
TOKENIZER = 71883403
RESIZED = "the score is that of 384 px samples resized to 256 px"

# depth, parameters, guidance of its score
_SIZES = {
    "B": (12, 110888448, 2.0),
    "L": (24, 342910976, 2.0),
    "XL": (36, 774699520, 1.75),
    "XXL": (48, 1410972672, 1.75),
    "3B": (24, 3096659200, 1.65),
}
# size, pixels per side, FID of the authors at 256 px
_CLASSES = (
    ("B", 256, 5.46),
    ("B", 384, 6.09),
    ("L", 256, 3.80),
    ("L", 384, 3.07),
    ("XL", 384, 2.62),
    ("XXL", 384, 2.34),
    ("3B", 384, 2.18),
)
_CCA = (("B", 7.04), ("L", 3.43), ("XL", 3.10), ("XXL", 3.12), ("3B", 2.69))
_TEXT = (
    (256, "t2i_XL_stage1_256.pt", "LAION-COCO, 50 M images"),
    (512, "t2i_XL_stage2_512.pt", "LAION-COCO, 50 M images, then 10 M of its authors"),
)
_TEXT_XL = 777923840


def over_its_tokens(name: str, side: int, parameters: int, depth: int) -> dict[str, Any]:
    """What every model over the tokens of LlamaGen's tokenizer has; the rest is LlamaGen's."""
    return {
        "name": name,
        "order": "raster",
        "image_size": side,
        "scales": (side // CELL,),
        "parameters": (parameters, TOKENIZER),
        "depth": depth,
        "licence": "MIT",
        "paper": "2406.06525",
        "verified": BY_FIXTURES,
        "repo": "FoundationVision/LlamaGen",
        "tokenizer_repo": "FoundationVision/LlamaGen",
        "tokenizer_file": "vq_ds16_c2i.pt",
    }


def _class_model(size: str, side: int, fid: float) -> dict[str, Any]:
    depth, parameters, scale = _SIZES[size]
    return over_its_tokens(f"llamagen-{size.lower()}-{side}", side, parameters, depth) | {
        "num_classes": 1000,
        "variant": f"c2i-{size}-{side}",
        "file": f"c2i_{size}_{side}.pt",
        "data": "ImageNet-1k",
        "sampling": {"guidance_scale": scale},
        "published": {"fid": fid},
        "published_by": "FoundationVision/LlamaGen@ce98ec4 README.md",
        "remark": RESIZED if side == 384 else "",
    }


def _cca_model(size: str, fid: float) -> dict[str, Any]:
    return _class_model(size, 384, fid) | {
        "name": f"cca-llamagen-{size.lower()}-384",
        "repo": "ChenDRAG/CCA_LlamaGen",
        "file": f"CCA_LlamaGen_Guidance_Free/c2i_{size}_384_CCA_0005000.pt",
        "paper": "2410.09347",
        "sampling": {"guidance_scale": 1.0},
        "published_by": "thu-ml/CCA@7d5a073 README.md, without guidance",
    }


def _text_model(side: int, file: str, data: str) -> dict[str, Any]:
    return over_its_tokens(f"llamagen-t2i-xl-{side}", side, _TEXT_XL, 36) | {
        "num_classes": 0,
        "variant": f"t2i-XL-{side}",
        "repo": "peizesun/llamagen_t2i",
        "file": file,
        "tokenizer_repo": "peizesun/llamagen_t2i",
        "tokenizer_file": "vq_ds16_t2i.pt",
        "text_encoder": "google/flan-t5-xl",
        "data": data,
        "sampling": LLAMAGEN_TEXT_SAMPLING,
    }


LLAMAGEN: tuple[dict[str, Any], ...] = (
    *(_class_model(*row) for row in _CLASSES),
    *(_cca_model(*row) for row in _CCA),
    *(_text_model(*row) for row in _TEXT),
)
