"""ARPG's and LPD's models, which predict groups of tokens, as fields of ``zoo.Preset``.

Files, scores and guidance of each score: hp-l33/ARPG@1a1758c GETTING_STARTED.md;
mit-han-lab/lpd@f447b83 README.md and scripts/eval.
"""

from __future__ import annotations

from typing import Any

from arimage.zoo_llamagen import over_its_tokens

# --cfg-schedule and --sample-schedule of sample_c2i_ddp.py; the scale is that of ARPG-L
ARPG_SAMPLING: dict[str, Any] = {"guidance_scale": 5.0, "guidance_schedule": "linear_after"}

# name, file, depth, parameters, guidance of its score, FID of the authors
_ARPG = (
    ("L", "300m", 24, 319844352, 5.0, 2.38),
    ("XL", "700m", 36, 718996480, 6.0, 2.02),
    ("XXL", "1b", 48, 1302448128, 7.5, 1.91),
)


def _arpg(
    size: str, file: str, depth: int, parameters: int, scale: float, fid: float
) -> dict[str, Any]:
    return over_its_tokens(f"arpg-{size.lower()}", 256, parameters, depth) | {
        "order": "random_groups",
        "num_classes": 1000,
        "licence": "MIT",
        "data": "ImageNet-1k",
        "paper": "2503.10568",
        "repo": "hp-l33/ARPG",
        "variant": size,
        "file": f"arpg_{file}.pt",
        "sampling": ARPG_SAMPLING | {"guidance_scale": scale},
        "published": {"fid": fid},
        "published_by": "hp-l33/ARPG@1a1758c GETTING_STARTED.md",
    }


# --cfg-schedule of scripts/eval; the scale is that of LPD-L at 256 px
LPD_SAMPLING: dict[str, Any] = {"guidance_scale": 4.8, "guidance_schedule": "linear_per_token"}

# size, pixels per side, depth, parameters, steps and guidance of its score, FID of the authors
_LPD = (
    ("l", 256, 24, 337157120, 20, 4.8, 2.40),
    ("xl", 256, 36, 751947520, 32, 5.0, 1.92),
    ("xxl", 256, 48, 1412184576, 20, 5.9, 2.00),
    ("l", 512, 24, 337943552, 48, 7.3, 2.54),
    ("xl", 512, 36, 752930560, 48, 6.0, 2.10),
)


def _lpd(
    size: str, side: int, depth: int, parameters: int, steps: int, scale: float, fid: float
) -> dict[str, Any]:
    return over_its_tokens(f"lpd-{size}-{side}", side, parameters, depth) | {
        "order": "local_groups",
        "num_classes": 1000,
        "licence": "MIT",
        "data": "ImageNet-1k",
        "paper": "2507.01957",
        "repo": f"mit-han-lab/lpd_{size}_{side}",
        "variant": f"{size}-{side}",
        "file": f"lpd_{size}_{side}.pth",
        "sampling": LPD_SAMPLING | {"guidance_scale": scale, "num_steps": steps},
        "published": {"fid": fid},
        "published_by": "mit-han-lab/lpd@f447b83 README.md",
    }


GROUPED: tuple[dict[str, Any], ...] = (
    *(_arpg(*row) for row in _ARPG),
    *(_lpd(*row) for row in _LPD),
)
