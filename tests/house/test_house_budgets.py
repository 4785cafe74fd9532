"""Sizes that keep the code readable: functions, files, parameters, lines."""

import ast
from pathlib import Path
from statistics import quantiles

import pytest
from house import FOLDERS, ROOT, Function, functions, parse, sources

FUNCTION_LINES = 80
NINE_OF_TEN_FUNCTIONS = 45
FILE_LINES = 400
PARAMETERS = 8
SETTINGS = 12  # with keyword-only settings
OPTIONS = 16  # of a console command, which has no config object to take them
COLUMNS = 100


def span(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: Function) -> tuple[int, int]:
    """How many there are and how many are allowed; self, cls, *args and **kwargs do not count."""
    positional = [*function.args.posonlyargs, *function.args.args]
    if positional and positional[0].arg in ("self", "cls"):
        del positional[0]
    named = len(function.args.kwonlyargs)
    command = any("command" in ast.unparse(line) for line in function.decorator_list)
    roomy = named and len(positional) <= PARAMETERS
    limit = SETTINGS if roomy else PARAMETERS
    return len(positional) + named, OPTIONS if command else limit


def offenders(path: Path, text: str) -> list[str]:
    """One line for each thing in a file that is over its budget."""
    lines = text.splitlines()
    found = [
        f"{path}:{number} has {len(line)} columns (at most {COLUMNS})"
        for number, line in enumerate(lines, 1)
        if len(line) > COLUMNS
    ]
    if len(lines) > FILE_LINES:
        found.append(f"{path} has {len(lines)} lines (at most {FILE_LINES})")
    for function in functions(ast.parse(text)):
        where = f"{path}:{function.lineno} {function.name}"
        if span(function) > FUNCTION_LINES:
            found.append(f"{where} has {span(function)} lines (at most {FUNCTION_LINES})")
        count, limit = parameters(function)
        if count > limit:
            found.append(f"{where} has {count} parameters (at most {limit})")
    return found


def test_nothing_is_over_its_budget():
    files = sources(*FOLDERS)
    found = [
        line
        for path in files
        for line in offenders(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_nine_of_ten_functions_are_short():
    spans = [span(f) for path in sources("src/arimage") for f in functions(parse(path))]
    ninth = quantiles(spans, n=10)[-1]
    print(f"{len(spans)} functions, the ninth decile has {ninth:.0f} lines")
    assert ninth <= NINE_OF_TEN_FUNCTIONS


OVER = {
    "columns": "x = '" + "y" * COLUMNS + "'",
    "lines": "\n" * (FILE_LINES + 1),
    "lines ": "def f():\n" + "    pass\n" * FUNCTION_LINES,
    "parameters": "def f(self, a, b, c, d, e, f, g, h, i): ...",
    "parameters ": "def f(a, *, b, c, d, e, f, g, h, i, j, k, l, m): ...",
}


@pytest.mark.parametrize("unit", OVER)
def test_an_offender_is_found(unit):
    (line,) = offenders(Path("x.py"), OVER[unit])
    assert unit.strip() in line


def test_what_is_just_within_the_budget_passes():
    code = "def f(self, a, b, c, d, e, f, g, h): ...\ndef g(a, *, b, c, d, e, f, g, h, i, j): ...\n"
    assert offenders(Path("x.py"), code + "z = '" + "y" * (COLUMNS - 6) + "'") == []
