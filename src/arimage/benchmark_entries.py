"""Scores as entries of the hub's benchmarks: files .eval_results/NAME.yaml of a model.

The hub shows an entry on the model's page and on the leaderboard of its data set, which "must be a
Benchmark": one with an eval.yaml that is on an allow-list. The documentation names none of image
generation, so entries are made only where somebody names the benchmark.
Source: huggingface/hub-docs@064c754 docs/hub/eval-results.md (read 2026-11).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from arimage.card_rules import HUB_ID, listed, read_benchmark
from arimage.files import write_text
from arimage.model_card import metric_args, said

FOLDER = ".eval_results"


def make_entries(
    reports: Sequence[dict[str, Any]], benchmarks: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Contents of the files by name, an entry each, with the protocol as its notes.

    Args:
        reports: of ``arimage evaluate``, read.
        benchmarks: METRIC=OWNER/DATASET:TASK, as ``card_rules.read_benchmark`` has them.

    Raises:
        ValueError: no report has that metric, or several have it; two entries for one task.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    found: dict[str, list[dict[str, Any]]] = {}
    for metric, dataset, task in map(read_benchmark, benchmarks):
        known = [(s, r["protocol"]) for r in reports for s in r["scores"] if s["name"] == metric]
        if len(known) != 1:
            raise ValueError(
                f"got {len(known)} scores {metric!r} in {len(reports)} reports for the benchmark "
                f"{dataset}:{task}; give one report that has it"
            )
        (score, protocol) = known[0]
        name = f"{dataset.replace('/', '--')}-{task}.yaml"
        if name in found:
            raise ValueError(f"got the benchmark {dataset}:{task} twice; name it once")
        words = {"metric": metric, **metric_args(score, protocol)}
        notes = ", ".join(f"{key} {said(value)}" for key, value in words.items())
        entry = EvalResultEntry(dataset_id=dataset, task_id=task, value=score["value"], notes=notes)
        found[name] = eval_result_entries_to_yaml([entry])
    return found


def write_entries(folder: Path, entries: dict[str, list[dict[str, Any]]]) -> list[Path]:
    """Writes ``make_entries`` into ``FOLDER`` of a model's folder."""
    from huggingface_hub.utils import yaml_dump

    return [
        write_text(folder / FOLDER / name, yaml_dump(data, sort_keys=False))
        for name, data in entries.items()
    ]


def check_entries(path: Path) -> None:
    """Whether the hub would take a file of entries.

    Raises:
        ValueError: it would not; the first problem.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"the hub would refuse {path}: it is not YAML") from error
    problem = next(problems(data), None)
    if problem is not None:
        raise ValueError(f"the hub would refuse {path}: {problem}")


def problems(data: Any) -> Iterator[str]:
    """What is wrong with the entries of a file, one sentence each."""
    if not isinstance(data, list) or not data:
        yield "it is not a list of results"
    for entry in listed(data):
        dataset = entry.get("dataset") if isinstance(entry, dict) else None
        if not isinstance(dataset, dict) or not HUB_ID.fullmatch(str(dataset.get("id"))):
            yield "a result has no dataset id, owner/name"
        elif not dataset.get("task_id"):
            yield f"the result of {dataset['id']} has no task_id"
        elif entry.get("value") in (None, ""):
            yield f"the result of {dataset['id']} has no value"
