"""The documents tell the truth: their Python runs and their links lead somewhere.

Each fenced ``python`` block of README.md and docs/*.md runs, block after block in one namespace
per file, in an empty folder. A block fenced as ``python no-run`` needs something that a test does
not have (a network, a GPU, an hour) and is only parsed.
"""

import ast
import re
import sys
import types
from pathlib import Path

import pytest
from house import ROOT

from arimage.pretrained import default_dtype

FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
RUN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("docs", "model_cards", "benchmarks", "examples")
ALL = sorted([*ROOT.glob("*.md"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.md"))])


def blocks(text: str) -> list[tuple[int, str, str]]:
    """(first line, words after the fence, code) of each block fenced as Python."""
    found = []
    for match in FENCE.finditer(text):
        words, code = match[2].split(), match[3]
        if words and words[0] == "python":
            indented = re.sub(rf"^{match[1]}", "", code, flags=re.MULTILINE)
            found.append((text.count("\n", 0, match.start(3)) + 1, " ".join(words[1:]), indented))
    return found


def run(path: Path, text: str) -> None:
    """Executes the blocks of a document; an error's traceback has the document's lines."""
    module = types.ModuleType("document")
    sys.modules["document"] = module  # dataclasses look their module up
    try:
        for line, tag, code in blocks(text):
            if tag not in ("", "no-run"):
                raise ValueError(f"{path}:{line}: got tag {tag!r}; expected none or 'no-run'")
            compiled = compile("\n" * (line - 1) + code, str(path), "exec")
            if not tag:
                exec(compiled, vars(module))
    finally:
        del sys.modules["document"]


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.name)
def test_the_python_in_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.setattr("arimage.generator.default_dtype", default_dtype)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    run(path, path.read_text(encoding="utf-8"))


def test_a_broken_block_is_caught(tmp_path):
    good = "# Title\n\n```python\na = 1\n```\n\n```sh\nnot python\n```\n\n- item\n\n  ```python\n"
    run(tmp_path, good + "  assert a == 1\n  ```\n")
    with pytest.raises(AssertionError) as error:
        run(tmp_path, good + "  assert a == 2\n  ```\n")
    assert error.traceback[-1].lineno + 1 == 14
    run(tmp_path, "```python no-run\nmissing()\n```\n")
    with pytest.raises(SyntaxError):
        run(tmp_path, "```python no-run\nmissing(\n```\n")
    with pytest.raises(ValueError, match="got tag 'norun'"):
        run(tmp_path, "```python norun\n```\n")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def dead_links(path: Path, text: str) -> list[str]:
    """Relative links of a document that lead to no file, or to no heading of a document."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    found = []
    for match in LINK.finditer(prose):
        link = match[1] or match[2]
        name, _, anchor = link.partition("#")
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        target = path.parent / name if name else path
        if not target.exists():
            found.append(f"{path.name}: no file {name}")
        elif anchor and target.suffix == ".md":
            body = text if target == path else target.read_text(encoding="utf-8")
            if anchor not in {slug(heading) for heading in HEADING.findall(FENCE.sub("", body))}:
                found.append(f"{path.name}: no heading {link}")
    return found


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_its_links_lead_somewhere(path):
    assert dead_links(path, path.read_text(encoding="utf-8")) == []


def test_a_dead_link_is_caught(tmp_path):
    (tmp_path / "b.md").write_text("# The `fuse` rule, twice\n")
    good = "[b](b.md) [c](b.md#the-fuse-rule-twice) [d](https://x.org/y) ![e](b.md 'title')\n"
    page = tmp_path / "a.md"
    assert dead_links(page, good + "`[x](y)`\n```text\n[x](y)\n```\n") == []
    bad = good + '[x](no.md) [y](b.md#no) [z](#no) <img src="no.png">'
    assert len(dead_links(page, bad)) == 4


def test_examples_are_short_and_parse():
    for path in (ROOT / "examples").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        ast.parse(text)
        assert len(text.splitlines()) <= 30, path.name
