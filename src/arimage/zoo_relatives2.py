"""MVAR's, M-VAR's and CoDe's models, on VAR's graph or near it, as fields of ``zoo.Preset``.

Files, scores and the settings of each score: CVL-UESTC/MVAR@d0e035a README.md;
OliverRensu/MVAR@80768a1 README.md and gen_img_uncond.py, scores of arXiv 2411.10433;
czg1225/CoDe@bfb204d README.md and sample_CoDe.py. Their cfg t is a scale of 1 + t here.
"""

from __future__ import annotations

from typing import Any

from arimage.zoo_llamagen import BY_FIXTURES

VAR_TOKENIZER = {
    "tokenizer_repo": "FoundationVision/var",
    "tokenizer_file": "vae_ch160v4096z32.pth",
}
TOKENIZER = 108948355
VAR_SIZES = {16: 310283520, 20: 600917136, 24: 1033399360, 30: 2010020356}


def sampling(scale: float, top_k: int, top_p: float) -> dict[str, Any]:
    """VAR's rule of guidance with these numbers."""
    return {
        "guidance_scale": scale,
        "guidance_schedule": "linear",
        "top_k": top_k,
        "top_p": top_p,
    }


MVAR_SAMPLING = sampling(3.7, 1200, 0.99)  # of the one that was trained from nothing

# name after "mvar-", depth, settings of its score, FID of the authors
_MVAR = (
    ("d16", 16, MVAR_SAMPLING, 3.01),
    ("finetune-d16", 16, sampling(3.0, 1200, 0.99), 3.37),
    ("finetune-d20", 20, sampling(2.5, 900, 0.96), 2.83),
    ("finetune-d24", 24, sampling(2.4, 900, 0.96), 2.15),
)


def _mvar(name: str, depth: int, settings: dict[str, Any], fid: float) -> dict[str, Any]:
    from_var = "fine-tuned from VAR's weights; " if name.startswith("finetune") else ""
    return {
        "name": f"mvar-{name}",
        "order": "within_scale",
        "image_size": 256,
        "num_classes": 1000,
        "parameters": (VAR_SIZES[depth], TOKENIZER),
        "licence": "MIT",
        "data": "ImageNet-1k; tokenizer: OpenImages",
        "paper": "2505.12742",
        "verified": BY_FIXTURES,
        "repo": "CVLUESTC/MVAR",
        "variant": name,
        "file": f"mvar-{name}.pth",
        **VAR_TOKENIZER,
        "depth": depth,
        "sampling": settings,
        "published": {"fid": fid},
        "published_by": "CVL-UESTC/MVAR@d0e035a README.md",
        "remark": f"{from_var}its images were made with the same noise for every batch of 500",
    }


# depth, parameters, FID of the authors; normalised queries and keys from 24 on
_M_VAR = (
    (16, 464157184, None),
    (20, 900528736, None),
    (24, 1550067136, 1.93),
    (32, 3658707968, 1.78),
)


def _m_var(depth: int, parameters: int, fid: float | None) -> dict[str, Any]:
    counted = "its paper counts 3.0 B; a model of depth 32, as its script builds, has 3.7 B"
    return {
        "name": f"m-var-d{depth}",
        "order": "within_scale",
        "image_size": 256,
        "num_classes": 1000,
        "parameters": (parameters, TOKENIZER),
        "licence": "unknown",
        "data": "ImageNet-1k; tokenizer: OpenImages",
        "paper": "2411.10433",
        "verified": BY_FIXTURES,
        "repo": "OliverRen/M-VAR",
        "variant": f"d{depth}",
        "file": f"d{depth}.pth",
        **VAR_TOKENIZER,
        "depth": depth,
        "sampling": sampling(2.5, 900, 0.96),
        "published": {} if fid is None else {"fid": fid},
        "published_by": "" if fid is None else "arXiv 2411.10433",
        "remark": counted if depth == 32 else "",
    }


# step of the hand-over, FID of the pair by its authors
_CODE = ((9, 1.94), (8, 1.98), (7, 2.11), (6, 2.27))


def _code(part: str, depth: int, step: int, fid: float) -> dict[str, Any]:
    return {
        "name": f"code-{part}-{step}",
        "order": "next_scale",
        "image_size": 256,
        "num_classes": 1000,
        "parameters": (VAR_SIZES[depth], TOKENIZER),
        "licence": "MIT",
        "data": "ImageNet-1k; tokenizer: OpenImages",
        "paper": "2411.17787",
        "verified": BY_FIXTURES,
        "repo": "Zigeng/VAR_CoDe",
        "variant": f"{part}-{step}",
        "file": f"{part}_{step}.pth",
        **VAR_TOKENIZER,
        "depth": depth,
        "sampling": sampling(2.5, 600, 0.96),
        "published": {"fid": fid},
        "published_by": "czg1225/CoDe@bfb204d README.md",
        "remark": f"of drafter {step}, which hands over to refiner {step} at step {step}, at a "
        "temperature of 1.1 in the first 7 steps",
    }


RELATIVES2: tuple[dict[str, Any], ...] = (
    *(_mvar(*row) for row in _MVAR),
    *(_m_var(*row) for row in _M_VAR),
    *(_code("drafter", 30, *row) for row in _CODE),
    *(_code("refiner", 16, *row) for row in _CODE),
)
