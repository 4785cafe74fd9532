"""The models that load by name: one Preset each; zoo_cards.py and the README follow them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from arimage.registry import unknown_name
from arimage.zoo_groups import GROUPED
from arimage.zoo_llamagen import BY_FIXTURES, LLAMAGEN
from arimage.zoo_masked import MASKED
from arimage.zoo_orders import ORDERED
from arimage.zoo_relatives import RELATIVES
from arimage.zoo_relatives2 import RELATIVES2
from arimage.zoo_titok import TITOK
from arimage.zoo_voken import VOKEN


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Machine-readable record of a model.

    Attributes:
        name: what ``from_pretrained`` takes.
        order: one of ``ar.registry.ORDERS``.
        image_size: pixels per side.
        num_classes: class labels 0..num_classes-1; 0 for models of text.
        parameters: transformer, tokenizer.
        licence: of the weights; "other" has a ``licence_name``.
        data: what it was trained on.
        paper: arXiv id of the method.
        verified: what was checked, by which test; "not verified" is allowed and visible.
        folder: packaged folder, relative to the package; "" for models on the hub.
        command: what made the weights, where we made them.
        scores: our own measurements, name -> value, with the protocol in the card.
        repo, variant, file: of the transformer on the hub; repo and variant are a name, too.
        tokenizer_repo, tokenizer_file: of its tokenizer.
        depth: of the transformer in ``file``, checked when it is converted.
        scales: sides of its token maps, where the file does not say.
        text_encoder: hub id, for models of text.
        sampling: defaults, fields of ``sampling.settings.Settings``.
        published: scores that its authors state; ``published_by``, where; ``remark`` on them.
    """

    name: str
    order: str
    image_size: int
    num_classes: int
    parameters: tuple[int, int]
    licence: str
    data: str
    paper: str
    verified: str
    licence_name: str = ""
    folder: str = ""
    command: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    repo: str = ""
    variant: str = ""
    file: str = ""
    tokenizer_repo: str = ""
    tokenizer_file: str = ""
    depth: int | None = None
    scales: tuple[int, ...] = ()
    text_encoder: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    published_by: str = ""
    remark: str = ""

    @property
    def hints(self) -> dict[str, Any]:
        """What the layout of the published file is told of it."""
        return {"depth": self.depth, "scales": self.scales or None}


_DIGITS = {
    "image_size": 32,
    "num_classes": 10,
    "licence": "Apache-2.0",
    "data": "1,437 train digits of scikit-learn (UCI, CC BY 4.0)",
    "verified": "made here; tests repeat its accuracy and FID",
}

_PRESETS = (
    Preset(
        name="digits-var",
        folder="presets/digits-var",
        order="next_scale",
        parameters=(539952, 351451),
        paper="2404.02905",
        command="arimage demo --order next_scale --seed 0",
        scores={"accuracy": 0.988, "fid": 1.4},
        **_DIGITS,
    ),
    Preset(
        name="digits-llamagen",
        folder="presets/digits-llamagen",
        order="raster",
        parameters=(468864, 345019),
        paper="2406.06525",
        command="arimage demo --order raster --seed 0",
        scores={"accuracy": 0.965, "fid": 0.78},
        **_DIGITS,
    ),
)

# Sides of the token maps by image size: FoundationVision/VAR@78b9539 utils/arg_util.py.
VAR_SCHEDULES = {
    256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    1024: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}
# Settings of FoundationVision/VAR@78b9539 README.md for FID: cfg 1.5 there is 2.5 here.
VAR_SAMPLING: dict[str, Any] = {
    "guidance_scale": 2.5,
    "guidance_schedule": "linear",
    "top_k": 900,
    "top_p": 0.96,
}
_VAR_SIZES = {16: 310283520, 20: 600917136, 24: 1033399360, 30: 2010020356, 36: 2353893904}
_VAR_TOKENIZER = 108948355
_VAR_CARD = "FoundationVision/VAR@78b9539 README.md"
_VAR_FID = {16: 3.55, 20: 2.95, 24: 2.33, 30: 1.97, 36: 2.63}


def _var(
    depth: int,
    published: dict[str, float],
    *,
    family: str = "var",
    repo: str = "FoundationVision/var",
    file: str = "var_d{}.pth",
    licence: str = "MIT",
    paper: str = "2404.02905",
    published_by: str = _VAR_CARD,
    sampling: dict[str, Any] = VAR_SAMPLING,
) -> Preset:
    """A model on VAR's graph: its depth fixes its size; 36 is the 512 px model."""
    return Preset(
        name=f"{family}-d{depth}",
        order="next_scale",
        image_size=512 if depth == 36 else 256,
        num_classes=1000,
        parameters=(_VAR_SIZES[depth], _VAR_TOKENIZER),
        licence=licence,
        data="ImageNet-1k; tokenizer: OpenImages",
        paper=paper,
        verified=BY_FIXTURES,
        repo=repo,
        variant=f"d{depth}",
        file=file.format(depth),
        tokenizer_repo="FoundationVision/var",
        tokenizer_file="vae_ch160v4096z32.pth",
        depth=depth,
        sampling=sampling,
        published=published,
        published_by=published_by,
    )


_CCA = {
    "family": "cca-var",
    "repo": "ChenDRAG/CCA_VAR",
    "file": "CCA_VAR_Guidance_Free/VAR_d{}_CCA.pth",
    "paper": "2410.09347",
    "published_by": "thu-ml/CCA@7d5a073 README.md, without guidance",
    "sampling": {**VAR_SAMPLING, "guidance_scale": 1.0},
}
_DDO = {
    "family": "ddo-var",
    "repo": "nvidia/DirectDiscriminativeOptimization",
    "file": "var_d{}-ddo.pth",
    "licence": "CC-BY-NC-SA-4.0",
    "paper": "2503.01103",
    "published_by": "NVlabs/DDO@d7b366b README.md, with guidance",
    "sampling": {**VAR_SAMPLING, "guidance_scale": 2.4, "top_k": None, "top_p": None},
}
_HUB_PRESETS = (
    *(_var(depth, {"fid": fid}) for depth, fid in _VAR_FID.items()),
    *(
        _var(depth, {"fid": fid}, **_CCA)
        for depth, fid in {16: 4.03, 20: 3.02, 24: 2.63, 30: 2.54}.items()
    ),
    *(_var(depth, {"fid": fid}, **_DDO) for depth, fid in {16: 2.54, 30: 1.73}.items()),
    *(Preset(**row) for row in LLAMAGEN),
)

# bytedance/1d-tokenizer@942a96f README_RAR.md: parameters, depth, temperature, scale, power, FID.
# The files hold 1.6 to 3.0 M more, in rows that no image uses.
_RAR_SIZES = {
    "b": (259275520, 24, 1.0, 16.0, 2.75, 1.95),
    "l": (459470848, 24, 1.02, 15.5, 2.5, 1.70),
    "xl": (952678144, 32, 1.02, 6.9, 1.5, 1.50),
    "xxl": (1495499136, 40, 1.02, 8.0, 1.2, 1.48),
}
RAR_DEMO: dict[str, Any] = {"guidance_scale": 4.0}  # of its README, for files of unknown size


def _rar(size: str) -> Preset:
    """A size of RAR with the settings of its published FID."""
    parameters, depth, temperature, scale, power, fid = _RAR_SIZES[size]
    return Preset(
        name=f"rar-{size}",
        order="raster",
        image_size=256,
        num_classes=1000,
        parameters=(parameters, 54515587),
        licence="Apache-2.0",
        data="ImageNet-1k",
        paper="2411.00776",
        verified=BY_FIXTURES,
        repo="yucornetto/RAR",
        variant=f"rar-{size}",
        file=f"rar_{size}.bin",
        tokenizer_repo="fun-research/TiTok",
        tokenizer_file="maskgit-vqgan-imagenet-f16-256.bin",
        depth=depth,
        sampling={
            "guidance_scale": scale,
            "guidance_schedule": {"name": "power_cosine", "power": power},
            "temperature": temperature,
        },
        published={"fid": fid},
        published_by="bytedance/1d-tokenizer@942a96f README_RAR.md",
    )


_ROWS = (*ORDERED, *GROUPED, *MASKED, *RELATIVES, *RELATIVES2, *TITOK, *VOKEN)
_MORE = (Preset(**row) for row in _ROWS)
PRESETS: dict[str, Preset] = {
    preset.name: preset for preset in (*_PRESETS, *_HUB_PRESETS, *map(_rar, _RAR_SIZES), *_MORE)
}


def packaged() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(name for name, preset in PRESETS.items() if preset.folder)


def find(name: str) -> Preset:
    """The preset of that name.

    Raises:
        KeyError: an unknown name, with the nearest known ones.
    """
    if name not in PRESETS:
        raise KeyError(unknown_name("preset", name, PRESETS))
    return PRESETS[name]


def find_loaded(name: str, variant: str | None) -> Preset | None:
    """The preset that ``from_pretrained(name, variant=variant)`` means; None for other models."""
    if name in PRESETS:
        return PRESETS[name]
    known = (p for p in PRESETS.values() if p.repo == name and p.variant == variant)
    return next(known, None) or find_file(name.rpartition("/")[2])


def find_published(repo: str, variant: str | None) -> Preset | None:
    """The model of a hub repository in a published layout; None for other repositories.

    Raises:
        ValueError: no variant, or one that the repository does not have.
    """
    known = {preset.variant: preset for preset in PRESETS.values() if preset.repo == repo}
    if not known:
        return None
    if variant is None:
        raise ValueError(f"{repo} holds several models; give variant: {', '.join(known)}")
    if variant not in known:
        raise ValueError(unknown_name(f"variant of {repo}", variant, known))
    return known[variant]


def find_variant(variant: str) -> Preset:
    """The first model of that variant or name, whatever its repository.

    Raises:
        ValueError: there is none.
    """
    if variant in PRESETS:
        return PRESETS[variant]
    known = {p.variant: p for p in reversed(PRESETS.values()) if p.variant}
    if variant not in known:
        raise ValueError(unknown_name("variant", variant, known))
    return known[variant]


def find_file(name: str) -> Preset | None:
    """The one model whose published file has that name; None if there is none, or several."""
    found = [p for p in PRESETS.values() if p.file and p.file.rpartition("/")[2] == name]
    return found[0] if len(found) == 1 else None


def published_tokenizer(name: str, variant: str | None = None) -> Preset | None:
    """The first model whose tokenizer is meant by a preset's name or by a repository."""
    for preset in PRESETS.values():
        named = name == preset.name or name in (preset.repo, preset.tokenizer_repo)
        if preset.tokenizer_repo and named and variant in (None, preset.variant):
            return preset
    return None


def size(count: int) -> str:
    """540 k, 310 M, 2.0 B."""
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if unit == 1e9 else f"{count / unit:.0f} {name}"
    return f"{count / 1e3:.0f} k"


def markdown_table() -> str:
    """The README's table of what loads by name."""
    lines = [
        "| preset | order | image | classes | transformer + tokenizer | licence | published FID "
        "| verified |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for preset in PRESETS.values():
        sizes = " + ".join(size(n) for n in preset.parameters)
        licence = preset.licence_name or preset.licence
        asks = preset.num_classes or "text"
        lines.append(
            f"| [`{preset.name}`](model_cards/{preset.name}.md) | {preset.order} "
            f"| {preset.image_size} px | {asks} | {sizes} | {licence} "
            f"| {preset.published.get('fid', '')} | {preset.verified} |"
        )
    return "\n".join(lines)
