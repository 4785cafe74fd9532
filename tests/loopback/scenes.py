"""Runs a file of tests in a process of its own, where the hub is a loopback server.

``huggingface_hub`` reads its address once, when it is imported.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

FOLDER = Path(__file__).parent


def names(file):
    """The tests in a file."""
    tree = ast.parse((FOLDER / file).read_text(encoding="utf-8"))
    return [f.name for f in tree.body if isinstance(f, ast.FunctionDef) and f.name[:5] == "test_"]


def outcomes(file, folder):
    """The complaints of each test by name; "" where it passed."""
    report = folder / "report.xml"
    words = [sys.executable, "-m", "pytest", str(FOLDER / file), "-q", "-p", "no:xdist"]
    words += [f"--junitxml={report}", "-p", "no:cacheprovider"]
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "HF_"))}
    done = subprocess.run(
        words, env=variables, capture_output=True, text=True, check=False, cwd=FOLDER.parents[1]
    )
    if not report.is_file():
        raise AssertionError(done.stdout[-3000:] + done.stderr[-3000:])
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name").partition("[")[0]
        text = "\n".join(child.text or "" for child in case if child.tag in ("failure", "error"))
        found[name] = found.get(name, "") + text
    return found
