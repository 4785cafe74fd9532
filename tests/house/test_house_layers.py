"""Imports point one way: the drawing in docs/architecture.md, enforced by parsing every file.

Imports inside functions and under TYPE_CHECKING count, and so do strings such as
``"arimage.ar.var:VARModel"``, which the registries import later.
"""

import ast
import re

import pytest
from house import PACKAGE, module_name, parse, sources

import arimage

LEAVES = {  # may be imported by every room; among themselves only as said here
    "shapes": set(),
    "files": set(),
    "records": set(),
    "shares": set(),
    "registry": set(),
    "zoo_llamagen": set(),
    "zoo_masked": {"zoo_llamagen"},
    "zoo_titok": {"zoo_llamagen"},
    "zoo_orders": {"zoo_llamagen"},
    "zoo_groups": {"zoo_llamagen"},
    "zoo_relatives": {"zoo_llamagen"},
    "zoo_voken": {"zoo_llamagen"},
    "zoo_relatives2": {"zoo_llamagen"},
    "zoo": {
        "registry",
        "zoo_groups",
        "zoo_llamagen",
        "zoo_masked",
        "zoo_orders",
        "zoo_relatives",
        "zoo_relatives2",
        "zoo_titok",
        "zoo_voken",
    },
    "zoo_cards": {"zoo"},
    "hub": {"files", "registry", "zoo"},
    "names": set(),
    "card_rules": {"registry"},
    "model_card": {"card_rules", "files", "zoo"},
    "benchmark_entries": {"card_rules", "files", "model_card"},
    "publish": {"benchmark_entries", "card_rules", "files", "hub", "images", "model_card"},
    "images": {"files", "shapes"},
    "sheets": {"images", "shapes"},
    "outputs": {"images"},
    "slots": {"shapes"},
    "pretrained": {"files", "hub", "registry"},
    "checkpoint": {"pretrained"},
    "text": {"pretrained"},
}
ROOMS = {  # what each part may import besides itself and the leaves
    "tokenizers": set(),
    "ar": set(),
    "eval": set(),
    "sampling": {"ar.base", "ar.linear", "ar.orders.base", "ar.parts"},
    "convert": {"tokenizers", "ar"},
    "parts": {"tokenizers", "ar", "convert"},
    "editable": {"tokenizers", "ar", "sampling"},
    "generator": {"tokenizers", "ar", "sampling", "convert", "parts", "generated", "editable"},
    "generation": {"ar.base", "eval", "generated", "generation_files", "generator", "sampling"},
    "generation_files": {"eval.arrays"},
    "generated": {"eval.protocols", "eval.sources", "generator", "rejection", "sampling"},
    "rejection": {
        *("eval.base", "eval.protocols", "eval.sources", "generated", "generator", "sampling"),
    },
    "evaluation": {"convert", "eval", "generator"},
    "evaluation_tokenizer": {"eval", "tokenizers"},
    "auto": {"tokenizers", "ar"},
    "training": {"tokenizers", "ar", "sampling", "eval", "generator", "parts"},
    "demo": {"tokenizers", "ar", "sampling", "eval", "generator", "auto", "training"},
    "cli": {
        *("tokenizers", "ar", "sampling", "eval", "convert", "generator", "auto", "training"),
        *("demo", "cli_evaluate", "cli_generate", "cli_plot", "cli_publish", "cli_train"),
        *("cli_compare", "evaluation"),
    },
    "cli_generate": {"generation", "generation_files", "generator"},
    "cli_evaluate": {"cli_groups", "eval", "evaluation", "evaluation_tokenizer"},
    "cli_compare": {"cli_evaluate", "cli_groups", "demo", "eval"},
    "cli_train": {"cli_groups", "cli_runs", "cli_tokenizer", "generator", "training"},
    "cli_tokenizer": {"cli_runs", "training"},
    "cli_runs": {"training"},
    "cli_publish": {"generator"},
    "cli_plot": {"training"},
    "cli_groups": set(),
}
TARGET = re.compile(r"arimage(\.\w+)+(:\w+)?")


def imported(module: str, tree: ast.AST) -> list[tuple[int, str]]:
    """(line, module) of everything of arimage that a file imports, without the first word."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = from_names(module, node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            names = [name] if TARGET.fullmatch(node.value) and module_exists(name) else []
        else:
            continue
        ours = (name for name in names if name.partition(".")[0] == "arimage")
        found += [(node.lineno, name.partition(".")[2]) for name in ours]
    return found


def from_names(module: str, node: ast.ImportFrom) -> list[str]:
    """The modules behind ``from x import a, b``; public names count as the module they live in."""
    package = module.split(".")[: -node.level] if node.level else []
    base = ".".join(package + ([node.module] if node.module else []))
    names = [alias.name for alias in node.names]
    if base == "arimage":
        return [arimage._HOMES.get(n, f"arimage.{n}") for n in names if n != "__version__"]
    inner = (f"{base}.{name}" for name in names)
    return [name if module_exists(name) else base for name in inner]


def module_exists(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def covers(allowed: set[str], target: str) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in allowed)


def violations(module: str, tree: ast.AST) -> list[str]:
    """One line per import of ``module`` that the drawing does not have."""
    part = module.split(".")[1]
    if part in LEAVES:
        allowed = LEAVES[part]
    elif part in ROOMS:
        allowed = {part, *LEAVES, *ROOMS[part]}
    else:
        return [f"{module}: not in the drawing; give it a place in LEAVES or ROOMS"]
    return [
        f"{module}:{line} imports arimage{'.' * bool(target)}{target}"
        for line, target in imported(module, tree)
        if not covers(allowed, target)
    ]


def test_imports_point_one_way():
    modules = {module_name(path): parse(path) for path in sources("src/arimage")}
    del modules["arimage"]  # the front: public names of every room, imported when used
    found = [line for module, tree in modules.items() for line in violations(module, tree)]
    assert not found, "\n".join(found)


def test_every_part_of_the_drawing_exists():
    missing = [part for part in {**LEAVES, **ROOMS} if not module_exists(f"arimage.{part}")]
    assert not missing


BAD_IMPORTS = [
    ("arimage.ar.var", "from arimage.tokenizers.base import ImageTokenizer"),
    ("arimage.ar.var", "from arimage import ImageTokenizer"),
    ("arimage.ar.var", "from ..tokenizers import vq"),
    ("arimage.ar.var", "import arimage"),
    ("arimage.eval.runner", "def f():\n    import arimage.generator as g"),
    ("arimage.eval.base", "if TYPE_CHECKING:\n    from arimage.sampling.loop import generate"),
    ("arimage.eval.registry", "TABLE = {'x': 'arimage.training.classifier:train'}"),
    ("arimage.sampling.loop", "from arimage.ar.layers import attend"),
    ("arimage.tokenizers.vq", "from arimage.slots import SlotTable; import arimage.ar.base"),
    ("arimage.files", "from arimage.images import to_pil"),
    ("arimage.generator", "from arimage.training import common"),
    ("arimage.training.common", "from arimage import demo"),
    ("arimage.newcomer", ""),
]
GOOD_IMPORTS = [
    ("arimage.ar.var", "from arimage.ar.base import Backbone; from . import layers; import os"),
    ("arimage.ar.var", "from arimage import __version__, files; import arimageless"),
    ("arimage.sampling.loop", "from arimage.ar.orders.base import Order"),
    ("arimage.training.common", "from arimage import ImageGenerator, evaluate"),
    ("arimage.cli", "from arimage.demo import digits"),
    ("arimage.ar.var", "'See arimage.tokenizers.base for the other side.'"),
]


@pytest.mark.parametrize(("module", "code"), BAD_IMPORTS)
def test_a_bad_import_is_flagged(module, code):
    assert len(violations(module, ast.parse(code))) == 1


@pytest.mark.parametrize(("module", "code"), GOOD_IMPORTS)
def test_a_good_import_passes(module, code):
    assert violations(module, ast.parse(code)) == []
