"""FlexVAR's and HMAR's models, relatives of VAR, as fields of ``zoo.Preset``.

Files, scores and settings: jiaosiyu1999/FlexVAR@04462cb README.md and eval_c2i.py;
NVlabs/HMAR@595a9df config/evaluate/ and utils/sampling_arg_util.py, scores of its paper.
"""

from __future__ import annotations

from typing import Any

from arimage.zoo_llamagen import BY_FIXTURES

FLEXVAR_SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # eval_c2i.py --infer_patch_nums
# --cfg 2.5 --top_k 900, top_p 0.95 of eval_c2i.py; s is 1 more than their cfg
FLEXVAR_SAMPLING: dict[str, Any] = {
    "guidance_scale": 3.5,
    "guidance_schedule": {"name": "linear_by_map", "steps": 9, "cells": 256},
    "sampler": "familiar",
    "top_k": 900,
    "top_p": 0.95,
}
_VAR_TOKENIZER = 108948355
_FLEXVAR_TOKENIZER = 72049827
_THIRTEEN = "2.08 in 13 steps: `generator.at([*range(1, 11), 12, 14, 16])`"
# depth, epochs in the file's name, parameters, FID of the authors
_FLEXVAR = (
    (16, 179, 315561936, 3.05),
    (20, 249, 607513952, 2.41),
    (24, 349, 1041314576, 2.21),
)


def _flexvar(depth: int, epochs: int, parameters: int, fid: float) -> dict[str, Any]:
    return {
        "name": f"flexvar-d{depth}",
        "order": "flexible_scale",
        "image_size": 256,
        "num_classes": 1000,
        "parameters": (parameters, _FLEXVAR_TOKENIZER),
        "depth": depth,
        "licence": "MIT",
        "data": "ImageNet-1k; tokenizer: not stated",
        "paper": "2502.20313",
        "verified": BY_FIXTURES,
        "repo": "jiaosiyu1999/FlexVAR",
        "variant": f"flexvar-d{depth}",
        "file": f"FlexVARd{depth}-epo{epochs}.pth",
        "tokenizer_repo": "jiaosiyu1999/FlexVAR",
        "tokenizer_file": "FlexVAE.pth",
        "sampling": FLEXVAR_SAMPLING,
        "published": {"fid": fid},
        "published_by": "jiaosiyu1999/FlexVAR@04462cb README.md",
        "remark": _THIRTEEN if depth == 24 else "",
    }


HMAR_SAMPLING: dict[str, Any] = {
    "guidance_scale": 2.7,
    "guidance_schedule": "linear_by_map",
    "top_k": 1000,
    "top_p": 0.99,
    "passes": [[1], [1, 3], [1, 1, 2, 5], [16], [25], [36], [64], [100], [169], [256]],
}
# depth, parameters, guidance (1 more than their cfg), top-k, FID of the authors
_HMAR = (
    (16, 467691904, 2.7, 1000, 3.01),
    (20, 845517872, 2.9, 950, None),
    (24, 1384328960, 3.1, 900, 2.10),
    (30, 2556324212, 2.6, 650, 1.95),
)


def _hmar(depth: int, parameters: int, scale: float, k: int, fid: float | None) -> dict[str, Any]:
    return {
        "name": f"hmar-d{depth}",
        "order": "refined_scale",
        "image_size": 256,
        "num_classes": 1000,
        "parameters": (parameters, _VAR_TOKENIZER),
        "depth": depth,
        "licence": "other",
        "licence_name": "nvidia-one-way-noncommercial-v1",
        "data": "ImageNet-1k; tokenizer: OpenImages",
        "paper": "2506.04421",
        "verified": BY_FIXTURES,
        "repo": "nvidia/HMAR",
        "variant": f"hmar-d{depth}",
        "file": f"hmar-d{depth}.pth",
        "tokenizer_repo": "FoundationVision/var",
        "tokenizer_file": "vae_ch160v4096z32.pth",
        "sampling": HMAR_SAMPLING | {"guidance_scale": scale, "top_k": k},
        "published": {} if fid is None else {"fid": fid},
        "published_by": "" if fid is None else "arXiv 2506.04421",
    }


RELATIVES: tuple[dict[str, Any], ...] = (
    *(_flexvar(*row) for row in _FLEXVAR),
    *(_hmar(*row) for row in _HMAR),
)
