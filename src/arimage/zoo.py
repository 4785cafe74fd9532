"""The models that load by name: one Preset each. Cards and the README's table come from here."""

from __future__ import annotations

from dataclasses import dataclass, field

from arimage.registry import unknown_name


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Machine-readable record of a model.

    Attributes:
        name: what ``from_pretrained`` takes.
        folder: packaged folder, relative to the package.
        order: raster, next_scale or masked.
        image_size: pixels per side.
        num_classes: class labels 0..num_classes-1.
        parameters: transformer, tokenizer.
        licence: of the weights.
        data: what it was trained on.
        paper: arXiv id of the method.
        command: what made the weights.
        verified: what was checked, by which test; "not verified" is allowed and visible.
        scores: our own measurements, name -> value, with the protocol in the card.
    """

    name: str
    folder: str
    order: str
    image_size: int
    num_classes: int
    parameters: tuple[int, int]
    licence: str
    data: str
    paper: str
    command: str
    verified: str
    scores: dict[str, float] = field(default_factory=dict)


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
        scores={"accuracy": 0.988, "fid": 1.389},
        **_DIGITS,
    ),
    Preset(
        name="digits-llamagen",
        folder="presets/digits-llamagen",
        order="raster",
        parameters=(468864, 345019),
        paper="2406.06525",
        command="arimage demo --order raster --seed 0",
        scores={"accuracy": 0.964, "fid": 0.784},
        **_DIGITS,
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _PRESETS}


def find(name: str) -> Preset:
    """The preset of that name.

    Raises:
        KeyError: an unknown name, with the nearest known ones.
    """
    if name not in PRESETS:
        raise KeyError(unknown_name("preset", name, PRESETS))
    return PRESETS[name]


def front_matter(preset: Preset) -> str:
    """The YAML head of a preset's model card, in the hub's field names."""
    lines = [
        "---",
        f"license: {preset.licence.lower()}",
        "library_name: arimage",
        "pipeline_tag: unconditional-image-generation",
        f"tags: [autoregressive, {preset.order.replace('_', '-')}, class-conditional]",
        f"arxiv: {preset.paper}",
        f"image_size: {preset.image_size}",
        f"num_classes: {preset.num_classes}",
        f"parameters: {{transformer: {preset.parameters[0]}, tokenizer: {preset.parameters[1]}}}",
        f"verified: {preset.verified}",
        "scores:",
        *(f"  {name}: {value}" for name, value in preset.scores.items()),
        "---",
    ]
    return "\n".join(lines) + "\n"


def markdown_table() -> str:
    """The README's table of what loads by name."""
    lines = [
        "| preset | order | image | classes | transformer + tokenizer | licence | verified |",
        "|---|---|---|---|---|---|---|",
    ]
    for preset in PRESETS.values():
        sizes = " + ".join(f"{n / 1e3:.0f} k" for n in preset.parameters)
        lines.append(
            f"| [`{preset.name}`](model_cards/{preset.name}.md) | {preset.order} "
            f"| {preset.image_size} px | {preset.num_classes} | {sizes} | {preset.licence} "
            f"| {preset.verified} |"
        )
    return "\n".join(lines)
