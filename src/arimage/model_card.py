"""Model cards: the README.md of a published folder, from a template and what the folder says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from arimage.card_rules import HUB_ID, check_card, check_licence, read_benchmark
from arimage.files import read_json
from arimage.zoo import PRESETS, Preset, size

TEMPLATE = "templates/model_card.md"
SAMPLES = "samples.png"
INDEX, TOKENIZER, TRANSFORMER = "model_index.json", "image_tokenizer", "transformer"
RECORDS = ("run.json", "recipe.json")  # what a training leaves
REPORT = "report.json"
# The fields of a config that a reader asks for.
TOKENIZER_FIELDS = ("quantizer", "vocab_size", "code_dim", "downsample_factor", "scales", "grid")
TRANSFORMER_FIELDS = ("order", "num_classes", "depth", "width", "num_heads")
LIMITS = (
    "It knows what it has seen, with the biases of those images; no filter is applied to what it "
    "makes. Scores hold for the protocol that stands beside them and for nothing else."
)


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What its folder does not say about a model; None is what can be found.

    Attributes:
        licence: of the weights, by the hub's identifier; that of a known base model otherwise.
        base_model: preset or hub id of the model that it was made from.
        data: hub id of a data set, or words.
        reports: of ``arimage evaluate``, files or folders.
        benchmarks: METRIC=OWNER/DATASET:TASK: scores of the reports that go to leaderboards, too.
    """

    licence: str | None = None
    base_model: str | None = None
    data: str | None = None
    reports: Sequence[str | Path] = ()
    benchmarks: Sequence[str] = ()

    def __post_init__(self) -> None:
        for benchmark in self.benchmarks:
            read_benchmark(benchmark)
        if self.licence is not None:
            check_licence(self.licence)


@dataclass(frozen=True)
class Folder:
    """A saved model: ``kind`` is generator or tokenizer; configs, records, parameters by part."""

    kind: str
    configs: dict[str, dict[str, Any]]
    parameters: dict[str, int]
    index: dict[str, Any]
    record: dict[str, Any]
    record_name: str = ""

    @property
    def takes_text(self) -> bool:
        """Whether it draws from text."""
        return "text_tokens" in self.configs.get(TRANSFORMER, {})

    @property
    def task(self) -> str:
        """In the hub's words."""
        if self.kind == "tokenizer":
            return "image-to-image"
        return "text-to-image" if self.takes_text else "unconditional-image-generation"


def read_folder(folder: Path) -> Folder:
    """What a folder made by ``save_pretrained`` holds.

    Raises:
        FileNotFoundError: nothing that can be loaded, or a part is missing.
    """
    whole = (folder / INDEX).is_file()
    if not whole and not (folder / "config.json").is_file():
        more = (
            "; its run has not ended: go on with it by --resume"
            if (folder / RECORDS[0]).is_file()
            else ""
        )
        raise FileNotFoundError(
            f"no {INDEX} and no config.json in {folder}; give the folder of a generator or of a "
            f"tokenizer{more}"
        )
    places = {name: folder / name for name in (TOKENIZER, TRANSFORMER)} if whole else {"": folder}
    for place in places.values():
        if not (place / "config.json").is_file() or not list(place.glob("*.safetensors")):
            raise FileNotFoundError(f"no config.json with safetensors in {place}; save it again")
    configs = {name: read_json(place / "config.json") for name, place in places.items()}
    if not whole and "downsample_factor" not in configs[""]:  # every tokenizer has one
        raise FileNotFoundError(
            f"{folder} holds a {configs[''].get('model_type')} alone; give the folder of a "
            "generator, which has its tokenizer, too"
        )
    name = next((name for name in RECORDS if (folder / name).is_file()), "")
    return Folder(
        kind="generator" if whole else "tokenizer",
        configs=configs,
        parameters={name: count_parameters(place) for name, place in places.items()},
        index=read_json(folder / INDEX) if whole else {},
        record=read_json(folder / name) if name else {},
        record_name=name,
    )


def count_parameters(folder: Path) -> int:
    """Numbers in the safetensors files of a folder, by their headers."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():
                product = 1
                for side in file.get_slice(name).get_shape():
                    product *= side
                count += product
    return count


def render(folder: Path, repo_id: str, facts: CardFacts, samples: bool) -> str:
    """The card of a folder as it will be called on the hub; checked.

    Args:
        folder: made by ``save_pretrained``; what a training left there is read, too.
        repo_id: its hub id.
        facts: what the folder does not say.
        samples: whether ``samples.png`` lies beside the card.

    Raises:
        ValueError: metadata that the hub would refuse. FileNotFoundError: no model, no report.
    """
    model = read_folder(folder)
    base = facts.base_model or model.record.get("from")
    preset = find_base(base)
    reports = [read_report(path) for path in facts.reports]
    licence = facts.licence or (preset.licence.lower() if preset else None)
    name = repo_id.rpartition("/")[2]
    data = facts.data or said(model.record.get("data"))
    text = Template((files("arimage") / TEMPLATE).read_text(encoding="utf-8")).substitute(
        name=name,
        what=what(model),
        samples=f"![Samples]({SAMPLES})\n\n" if samples else "",
        code=code(model, repo_id),
        facts=table(model),
        made=made(model, base, data),
        scores=scores(reports),
        licence=f"Licence of the weights: {licence}." if licence else "No licence is stated.",
        limits=LIMITS,
    )
    ids = {
        "base_model": preset.repo if preset and preset.repo else base,
        "datasets": facts.data or data_name(model.record),
    }
    ids = {key: value for key, value in ids.items() if value and HUB_ID.fullmatch(value)}
    head = metadata(model, name, licence, ids, reports)
    card = f"---\n{head}\n---\n\n{text}"
    check_card(card, "the card")
    return card


def data_name(record: dict[str, Any]) -> str | None:
    """What a training's record calls its data set: a hub id, or the name of a local one."""
    data = record.get("data")
    named = (data.get("dataset") or data.get("name")) if isinstance(data, dict) else data
    return named if isinstance(named, str) else None


def find_base(base: str | None) -> Preset | None:
    """The preset of a base model, by its name or repository."""
    known = (p for p in PRESETS.values() if base and base in (p.name, p.repo, p.tokenizer_repo))
    return next(known, None)


def metadata(
    model: Folder,
    name: str,
    licence: str | None,
    ids: dict[str, str],
    reports: Sequence[dict[str, Any]],
) -> str:
    """The YAML head, without its rules."""
    from huggingface_hub import ModelCardData

    order = model.configs.get(TRANSFORMER, {}).get("order", "")
    tags = ["autoregressive", order.replace("_", "-")] if order else ["image-tokenizer"]
    given: dict[str, Any] = {**ids, **({"license": licence} if licence else {})}
    results = [result for report in reports for result in eval_results(model, report)]
    if results:
        measured = sorted({result.metric_type for result in results})
        given |= {"metrics": measured, "model_name": name, "eval_results": results}
    data = ModelCardData(library_name="arimage", pipeline_tag=model.task, tags=tags, **given)
    return data.to_yaml()


def eval_results(model: Folder, report: dict[str, Any]) -> list[Any]:
    """The scores of a report in the hub's form, each with its protocol as arguments."""
    from huggingface_hub import EvalResult

    protocol = report["protocol"]
    data = protocol["references"].get("reference", {}).get("name") or protocol.get("name")
    data = str(data or protocol.get("source") or "images of the report")
    return [
        EvalResult(
            task_type=model.task,
            dataset_type=re.sub(r"[^\w.-]+", "-", data).strip("-").lower(),
            dataset_name=data,
            metric_type=score["name"],
            metric_name=score["name"].upper(),
            metric_value=score["value"],
            metric_args=metric_args(score, protocol),
        )
        for score in report["scores"]
    ]


def metric_args(score: dict[str, Any], protocol: dict[str, Any]) -> dict[str, Any]:
    """What it takes to read a score; nothing without a value."""
    reference = protocol["references"].get("reference", {})
    found = {
        "protocol": protocol.get("name"),
        "images": score["count"],
        "reference": score.get("reference"),
        "reference_sha256": reference.get("sha256"),
        "features": score.get("features"),
        "standard_error": score.get("standard_error"),
        "arimage": protocol["versions"].get("arimage"),
    }
    settings = {f"setting {key}": said(value) for key, value in protocol["settings"].items()}
    return {key: value for key, value in (found | settings).items() if value not in (None, "")}


def read_report(path: str | Path) -> dict[str, Any]:
    """A report.json, or that of a folder.

    Raises:
        FileNotFoundError: no such file. ValueError: a file that is no report.
    """
    path = Path(path)
    path = path / REPORT if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no report at {path}; give a {REPORT} or its folder")
    report = read_json(path)
    needed = {"protocol": ("references", "settings", "versions"), "scores": ()}
    missing = [key for key in needed if key not in report] or [
        key for key in needed["protocol"] if key not in report["protocol"]
    ]
    if missing:
        raise ValueError(f"{path} is not a report of this package (it has no {missing[0]})")
    return report


def what(model: Folder) -> str:
    """One sentence."""
    config = model.configs.get(TOKENIZER) or model.configs[""]
    pixels = f"{config.get('image_size')} x {config.get('image_size')} pixels"
    if model.kind == "tokenizer":
        return f"An image tokenizer: images of {pixels} to discrete tokens and back."
    order = str(model.configs[TRANSFORMER].get("order", "")).replace("_", "-")
    if model.takes_text:
        return f"Images of {pixels} from text, by an autoregressive transformer ({order})."
    count = model.configs[TRANSFORMER].get("num_classes")
    return f"Images of {pixels} of {count} classes, by an autoregressive transformer ({order})."


def code(model: Folder, repo_id: str) -> str:
    """How it is loaded and used."""
    if model.kind == "tokenizer":
        return (
            "from arimage import ImageTokenizer\n\n"
            f'tokenizer = ImageTokenizer.from_pretrained("{repo_id}")\n'
            "ids = tokenizer.encode(images)      # float, (b, 3, H, W), [-1, 1]\n"
            "again = tokenizer.decode(ids)"
        )
    asks = 'prompts=["a corgi on a beach"]' if model.takes_text else "class_labels=[0, 1]"
    return (
        "from arimage import ImageGenerator\n\n"
        f'generator = ImageGenerator.from_pretrained("{repo_id}")\n'
        f"images = generator({asks}, seeds={'[0]' if model.takes_text else '[0, 1]'}).images"
    )


def table(model: Folder) -> str:
    """Parts, sizes and sampling defaults."""
    rows = ["| | |", "|---|---|"]
    for part, config in model.configs.items():
        fields = TRANSFORMER_FIELDS if part == TRANSFORMER else TOKENIZER_FIELDS
        told = ", ".join(f"{key} {said(config[key])}" for key in fields if config.get(key))
        title = "tokenizer" if part in ("", TOKENIZER) else part
        kind = config.get("model_type")
        rows.append(f"| {title} | {kind}, {size(model.parameters[part])}; {told} |")
    defaults = {k: v for k, v in model.index.get("sampling", {}).items() if v is not None}
    if defaults:
        told = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
        rows.append(f"| sampling defaults | {told} |")
    return "\n".join(rows)


def made(model: Folder, base: str | None, data: str) -> str:
    """Base model, data, recipe."""
    from huggingface_hub.utils import yaml_dump

    lines = [
        f"- Base model: {f'`{base}`' if base else 'none named'}.",
        f"- Data: {data or 'not stated'}.",
    ]
    if not model.record:
        return "\n".join([*lines, "- Recipe: not stated."])
    record = yaml_dump(model.record, sort_keys=False).strip()
    lines += [f"- Recipe, data and versions: [{model.record_name}]({model.record_name}).", ""]
    head = f"<details><summary>{model.record_name}</summary>"
    return "\n".join([*lines, head, "", "```yaml", record, "```", "", "</details>"])


def scores(reports: Sequence[dict[str, Any]]) -> str:
    """A table for each report, and its protocol."""
    blocks = []
    for report in reports:
        protocol = report["protocol"]
        keys = ("name", "value", "standard_error", "count", "reference", "features")
        cells = ([said(score.get(key)) or "-" for key in keys] for score in report["scores"])
        rows = [f"| {' | '.join(row)} |" for row in cells]
        named = f"protocol {protocol['name']}" if protocol.get("name") else "no named protocol"
        settings = [f"{key} {said(value)}" for key, value in protocol["settings"].items()]
        notes = [*protocol.get("warnings", ()), *protocol.get("deviations", ())]
        head = "| metric | value | ± (s.e.) | images | compared with | features |"
        lines = [head, "|---|---|---|---|---|---|", *rows, ""]
        lines += [f"Made under {'; '.join([named, *settings])}.", *(f"- {n}" for n in notes)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) or "None measured."


def said(value: Any) -> str:
    """A value for a reader: short numbers, no braces, no hashes."""
    if isinstance(value, dict):
        told = {k: said(v) for k, v in value.items() if k not in ("identity", "tokenizer")}
        return ", ".join(f"{key} {part}" for key, part in told.items() if part)
    if isinstance(value, (list, tuple)):
        return ", ".join(said(part) for part in value[:20]) + ", ..." * (len(value) > 20)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
