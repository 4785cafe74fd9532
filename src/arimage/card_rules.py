"""What the hub accepts as a model card's metadata, checked before anything is uploaded.

The rules are those of https://huggingface.co/docs/hub/model-cards and of the model-index in
https://github.com/huggingface/hub-docs/blob/main/modelcard.md (read 2026-11).
"""

import re
from collections.abc import Iterator
from typing import Any

from arimage.registry import unknown_name

# https://huggingface.co/docs/hub/repositories-licenses (2026-11).
LICENCES = tuple(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
    c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl
    ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0
    odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2
    llama3.3 llama4 grok2-community gemma unknown other
    """.split()
)
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
BENCHMARK = re.compile(rf"([\w.-]+)=({HUB_ID.pattern}):([\w.-]+)")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]+)?|code|multilingual")
TEXTS = ("library_name", "pipeline_tag", "license_name", "license_link", "thumbnail")
IDS = ("base_model", "datasets", "new_version")
RESULT_FIELDS = (("task", "type"), ("dataset", "type"), ("dataset", "name"))
HEAD = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", re.DOTALL)


def check_licence(licence: str) -> None:
    """Raises ValueError unless the hub knows the licence."""
    if licence not in LICENCES:
        raise ValueError(
            f"{unknown_name('licence', licence, LICENCES)}; for one that the hub does not "
            "know write license: other with license_name and license_link into README.md"
        )


def read_benchmark(text: str) -> tuple[str, str, str]:
    """(metric, hub id of the data set, task) of "METRIC=OWNER/DATASET:TASK".

    Raises:
        ValueError: another form.
    """
    found = BENCHMARK.fullmatch(text)
    if found is None:
        raise ValueError(
            f"got the benchmark {text!r}; expected METRIC=OWNER/DATASET:TASK, a score of a "
            "report and where the hub lists it"
        )
    return found[1], found[2], found[3]


def check_card(text: str, where: str) -> None:
    """Checks a card as the hub will.

    Args:
        text: of the README.md.
        where: what the sentence calls it.

    Raises:
        ValueError: metadata that the hub would refuse; the first problem.
    """
    head = HEAD.match(text)
    if head is None:
        problem = "it does not begin with metadata between two lines of ---"
        raise ValueError(f"the hub would refuse {where}: {problem}")
    problem = next(problems(parsed(head[1], where)), None)
    if problem is not None:
        raise ValueError(f"the hub would refuse {where}: {problem}")


def parsed(head: str, where: str) -> dict[str, Any]:
    """The metadata.

    Raises:
        ValueError: not YAML, or not a mapping.
    """
    import yaml

    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 2})" if mark is not None else ""
        reason = getattr(error, "problem", None) or "cannot be read"
        raise ValueError(
            f"the hub would refuse {where}: its metadata is not YAML{line}: {reason}"
        ) from error
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise ValueError(f"the hub would refuse {where}: its metadata is a {kind}, not a mapping")
    return found


def problems(data: dict[str, Any]) -> Iterator[str]:
    """What is wrong with metadata, one sentence each."""
    for key, value in data.items():
        if value is None or value == "" or value == []:
            yield f"{key} has no value; give one or leave {key} out"
    for key in TEXTS:
        if key in data and not isinstance(data[key], str):
            yield f"{key} is {data[key]!r}; expected a text"
    for key in IDS:
        for value in listed(data.get(key)):
            if not isinstance(value, str) or not HUB_ID.fullmatch(value):
                yield f"{key} has {value!r}; expected hub ids, owner/name"
    for value in listed(data.get("language")):
        if not LANGUAGE.fullmatch(str(value)):
            yield f"language has {value!r}; expected a code such as en"
    for value in listed(data.get("tags")):
        if not isinstance(value, str):
            yield f"tags has {value!r}; expected texts"
    yield from licence_problems(data)
    if "model-index" in data:
        yield from index_problems(data["model-index"])


def licence_problems(data: dict[str, Any]) -> Iterator[str]:
    """Of the licence."""
    for value in listed(data.get("license")):
        try:
            check_licence(str(value))
        except ValueError as error:
            yield str(error)
        if value == "other" and not data.get("license_name"):
            yield "license: other needs license_name"


def index_problems(index: Any) -> Iterator[str]:
    """Of the model-index."""
    if not isinstance(index, list) or not all(isinstance(entry, dict) for entry in index):
        yield "model-index is not a list of models"
        return
    for entry in index:
        if not entry.get("name"):
            yield "an entry of model-index has no name"
        for result in listed(entry.get("results")):
            yield from result_problems(result)


def result_problems(result: Any) -> Iterator[str]:
    """Of a result in the model-index."""
    if not isinstance(result, dict):
        yield f"a result of model-index is {result!r}; expected task, dataset and metrics"
        return
    for part, field in RESULT_FIELDS:
        found = result.get(part)
        if not isinstance(found, dict) or not found.get(field):
            yield f"a result of model-index has no {part} {field}"
    if not result.get("metrics"):
        yield "a result of model-index has no metrics"
    for metric in listed(result.get("metrics")):
        if not isinstance(metric, dict) or not metric.get("type"):
            yield "a metric of model-index has no type"
        elif metric.get("value") is None or metric["value"] == "":
            yield f"the metric {metric['type']} of model-index has no value"


def listed(value: Any) -> list[Any]:
    """A list as it is, one value as a list, nothing as an empty one."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
