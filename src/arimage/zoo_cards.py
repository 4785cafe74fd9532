"""The model cards of the zoo, made from its records."""

from arimage.zoo import Preset, size


def front_matter(preset: Preset) -> str:
    """The YAML head of a preset's model card, in the hub's field names."""
    text = bool(preset.text_encoder)
    tags = f"{preset.order.replace('_', '-')}, {'text' if text else 'class'}-conditional"
    source = f"source: {preset.repo}, {preset.file}, sha256 unverified"
    lines = [
        "---",
        f"license: {preset.licence.lower()}",
        *([f"license_name: {preset.licence_name}"] if preset.licence_name else []),
        "library_name: arimage",
        f"pipeline_tag: {'text-to-image' if text else 'unconditional-image-generation'}",
        f"tags: [autoregressive, {tags}]",
        f"arxiv: {preset.paper}",
        f"image_size: {preset.image_size}",
        f"text_encoder: {preset.text_encoder}" if text else f"num_classes: {preset.num_classes}",
        f"parameters: {{transformer: {preset.parameters[0]}, tokenizer: {preset.parameters[1]}}}",
        f"verified: {preset.verified}",
        *_scores("scores", preset.scores),
        *([f"published_by: {preset.published_by}"] if preset.published_by else []),
        *(_scores("published", preset.published) if preset.published else []),
        *([source, f"base_model: {preset.repo}"] if preset.repo else []),
        *_model_index(preset),
        "---",
    ]
    return "\n".join(lines) + "\n"


def _scores(title: str, scores: dict[str, float]) -> list[str]:
    lines = [f"  {name}: {value}" for name, value in scores.items()]
    return [f"{title}:", *lines] if lines else [f"{title}: not verified"]


def _model_index(preset: Preset) -> list[str]:
    """The scores as the hub reads them, with whose they are."""
    scores = preset.scores or preset.published
    if not scores:
        return []
    task = "text-to-image" if preset.text_encoder else "unconditional-image-generation"
    data = "imagenet-1k" if preset.published else "digits"
    whose = preset.published_by or "ours, by the protocol in this card"
    rows = [
        f"    - {{type: {name}, value: {value}, name: '{name.upper()} ({whose})'}}"
        for name, value in scores.items()
    ]
    return [
        "model-index:",
        f"- name: {preset.name}",
        "  results:",
        f"  - task: {{type: {task}}}",
        f"    dataset: {{type: {data}, name: {data}}}",
        "    metrics:",
        *rows,
    ]


def card(preset: Preset) -> str:
    """The model card of a preset on the hub."""
    text, side = bool(preset.text_encoder), preset.image_size
    settings = ", ".join(f"{name}={value!r}" for name, value in preset.sampling.items())
    scores = ", ".join(f"{name.upper()} {value}" for name, value in preset.published.items())
    remark = f"; {preset.remark}" if preset.remark else ""
    kind = "Images from English prompts" if text else "Class-conditional ImageNet images"
    asks = 'prompts=["a corgi on a beach"]' if text else 'class_labels=["golden retriever", 360]'
    encoder = f"| text encoder | `{preset.text_encoder}`, at most 120 tokens |\n" if text else ""
    limits = (
        f"What it has seen ({preset.data}) is what it knows, biases included; no filter is applied."
        if text
        else "ImageNet's classes and biases are the model's; it\nknows nothing else."
    )
    return f"""{front_matter(preset)}
# {preset.name}

{kind}, {side} x {side} pixels. The weights are those of their
authors, read from their files; this package adds none.

```python no-run
from arimage import ImageGenerator

generator = ImageGenerator.from_pretrained("{preset.repo}", variant="{preset.variant}")
images = generator({asks}, seeds={"[0]" if text else "[0, 1]"}).images
```

| | |
|---|---|
| also called | `{preset.name}` |
| transformer | `{preset.file}` of `{preset.repo}`, {size(preset.parameters[0])} |
| tokenizer | `{preset.tokenizer_file}` of `{preset.tokenizer_repo}`, {size(preset.parameters[1])} |
{encoder}| licence of the weights | {preset.licence_name or preset.licence} |
| sampling defaults | {settings} |
| published score | {f"{scores} ({preset.published_by}){remark}" if scores else "none stated"} |
| our score | not verified (no weights on the build machine) |

**How it was checked.** Names and shapes of all tensors against the published classes; encoding,
logits, seeded generation and decoding against recorded outputs of the reference code with random
weights (`tests/golden`). The published weights were not at hand: their hashes, and scores made
with them, are not verified.

**Use and limits.** Research on image generation. {limits}
"""
