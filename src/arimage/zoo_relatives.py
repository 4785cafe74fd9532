"""FlexVAR's models, relatives of VAR, as fields of ``zoo.Preset``.

Files, scores and settings: jiaosiyu1999/FlexVAR@04462cb README.md and eval_c2i.py.
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


RELATIVES: tuple[dict[str, Any], ...] = (*(_flexvar(*row) for row in _FLEXVAR),)
