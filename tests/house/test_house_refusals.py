"""What the project does without: torchvision, and pickles in any form."""

import ast
import importlib.metadata
import tomllib
from collections.abc import Callable

import pytest
from house import ROOT, parse, sources
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REFUSED_PACKAGES = {"torchvision", "torchaudio"}
REFUSED_MODULES = {"torchvision", "pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
Lookup = Callable[[str], list[str] | None]


def closure(requirements: list[str], requires: Lookup) -> dict[str, str]:
    """Every package that ``requirements`` bring, with the one that asked for it first."""
    waiting = [(Requirement(text), "arimage") for text in requirements]
    seen: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    while waiting:
        requirement, asker = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in done:
                continue
            done.add((name, extra))
            seen.setdefault(name, asker)
            children = [Requirement(text) for text in requires(name) or []]
            waiting += [(child, name) for child in children if wanted(child, extra)]
    return seen


def wanted(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def installed(name: str) -> list[str] | None:
    try:
        return importlib.metadata.requires(name)
    except importlib.metadata.PackageNotFoundError:  # another platform's, or one that is refused
        return []


def test_nothing_requires_torchvision():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [f"arimage[{','.join(project['optional-dependencies'])}]"]
    declared = [line for lines in project["optional-dependencies"].values() for line in lines]
    found = closure(project["dependencies"] + declared + extras, installed)
    assert {"torch", "transformers", "numpy"} <= set(found)
    refused = {name: f"asked for by {found[name]}" for name in REFUSED_PACKAGES & set(found)}
    assert not refused


def test_the_walk_sees_extras_of_extras():
    index = {
        "a": ["b[vision] ; python_version >= '3'"],
        "b": ["torchvision ; extra == 'vision'", "c ; extra == 'never'", "a"],
    }
    assert closure(["a"], index.get) == {"a": "arimage", "b": "a", "torchvision": "b"}


def refused(tree: ast.AST) -> list[str]:
    """Imports of refused modules, and calls that may execute what a file says."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
            if isinstance(node, ast.Call) and executes(node):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        bad = [name for name in names if name.partition(".")[0] in REFUSED_MODULES]
        found += [f"{node.lineno}: import {name}" for name in bad]
    return found


def executes(call: ast.Call) -> bool:
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if ast.unparse(call.func) == "torch.load":
        return options.get("weights_only") != "True"
    return options.get("allow_pickle", "False") != "False"


def test_no_source_file_uses_them():  # tests may: they try hostile files
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources("src", "examples", "benchmarks")
        for line in refused(parse(path))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("import torchvision.transforms as T", 1),
        ("def f():\n    from pickle import loads", 1),
        ("torch.load(path)", 1),
        ("torch.load(path, weights_only=flag)", 1),
        ("np.load(path, allow_pickle=True)", 1),
        ("torch.load(path, weights_only=True, map_location='cpu')", 0),
        ("np.load(path); np.save(path, x, allow_pickle=False)", 0),
        ("from torch import nn, load_state", 0),
    ],
)
def test_the_checker_tells_them_apart(code, count):
    assert len(refused(ast.parse(code))) == count
