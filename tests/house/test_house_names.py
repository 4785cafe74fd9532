"""The public face: names that resolve, docstrings, and an import that costs nothing."""

import ast
import importlib
import inspect
import tomllib

import pytest
import yaml
from house import PACKAGE, ROOT, Function, fresh_python, module_name, parse, sources

import arimage

HEAVY = (
    "torch",
    "transformers",
    "scipy",
    "PIL",
    "sklearn",
    "matplotlib",
    "vector_quantize_pytorch",
)


@pytest.mark.parametrize("name", arimage.__all__)
def test_public_name_resolves(name):
    assert getattr(arimage, name) is not None


def test_public_names_are_told_once_and_alike():
    assert dir(arimage) == sorted(arimage.__all__)
    assert set(arimage.__all__) == {"__version__", *arimage._HOMES}
    guarded = next(node for node in parse(PACKAGE / "__init__.py").body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == arimage._HOMES


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = arimage.nonsense


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == arimage.__version__ == citation["version"]


@pytest.mark.parametrize("module", ["arimage", "arimage.cli"])
def test_import_is_light(module):
    code = (
        "import sys, time\n"
        "start = time.perf_counter()\n"
        f"import {module}\n"
        "seconds = time.perf_counter() - start\n"
        f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "print(f'{seconds:.3f} s', *loaded)\n"
    )
    done = fresh_python(code, ROOT / "tests")
    assert done.returncode == 0, done.stderr
    seconds, _, loaded = done.stdout.strip().partition(" s")
    print(f"import {module}: {seconds} s (hoped for: under 0.3 s)")
    assert not loaded, f"import {module} loads{loaded}"


def undocumented(module: str, tree: ast.Module) -> list[str]:
    """Public classes, functions and methods without a docstring of their own or of a base."""
    found = [] if ast.get_docstring(tree) else [module]
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            found.append(f"{module}.{node.name}")
        if isinstance(node, ast.ClassDef):
            found += [f"{module}.{node.name}.{name}" for name in bare_methods(module, node)]
    return found


def bare_methods(module: str, node: ast.ClassDef) -> list[str]:
    names = {
        method.name
        for method in node.body
        if isinstance(method, Function) and not ast.get_docstring(method)
    }
    public = sorted(name for name in names if not name.startswith("_"))
    if not public:
        return []
    bases = getattr(importlib.import_module(module), node.name).__mro__[1:]
    told = {name for b in bases for name in vars(b) if inspect.getdoc(vars(b)[name])}
    return [name for name in public if name not in told]


def test_every_public_thing_has_a_docstring():
    trees = {module_name(path): parse(path) for path in sources("src/arimage")}
    found = [name for module, tree in trees.items() for name in undocumented(module, tree)]
    assert not found, "\n".join(found)


def test_a_missing_docstring_is_flagged():
    code = (
        '"""x"""\nclass Registry:\n    """x"""\n    def bare(self): ...\n    def _own(self): ...\n'
    )
    code += "def bare(): ...\ndef _own(): ...\nclass Bare: ...\n"
    found = undocumented("arimage.registry", ast.parse(code))
    assert found == [f"arimage.registry.{name}" for name in ("Registry.bare", "bare", "Bare")]
