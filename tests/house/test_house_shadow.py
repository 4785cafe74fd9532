"""The links ``tokenizers``, ``ar``, ``sampling``, ``eval`` at the root shadow no other package.

A regular package ``tokenizers`` on the search path would win over Hugging Face's, which
transformers imports only when it is first needed. So these folders have no ``__init__.py``.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from house import FOLDERS, PACKAGE, ROOT, fresh_python, sources

LINKS = ("tokenizers", "ar", "sampling", "eval")
USE = (
    "import tokenizers; tokenizers.Encoding; "
    "from transformers import AutoTokenizer, GenerationMixin, Trainer"
)


def test_hugging_face_tokenizers_win_at_the_root():
    done = fresh_python(USE, ROOT)
    assert done.returncode == 0, done.stderr


def test_an_init_file_would_break_it(tmp_path):
    shutil.copytree(PACKAGE / "tokenizers", tmp_path / "src" / "arimage" / "tokenizers")
    (tmp_path / "tokenizers").symlink_to("src/arimage/tokenizers")
    kept = fresh_python("import tokenizers; tokenizers.Encoding", tmp_path)
    assert kept.returncode == 0, kept.stderr
    (tmp_path / "tokenizers" / "__init__.py").touch()
    broken = fresh_python("import tokenizers; tokenizers.Encoding", tmp_path)
    assert broken.returncode != 0
    assert "has no attribute 'Encoding'" in broken.stderr


@pytest.mark.parametrize("name", LINKS)
def test_root_link(name):
    link = ROOT / name
    assert link.is_symlink()
    assert not os.path.isabs(os.readlink(link))
    assert link.resolve() == PACKAGE / name


@pytest.mark.parametrize("name", LINKS)
def test_no_init_file(name):
    assert not list((PACKAGE / name).glob("__init__.py*"))


def test_the_linter_sees_every_file_once():
    """An exclusion that means the links would also leave out the rooms, and say nothing."""
    command = [sys.executable, "-m", "ruff", "check", "--show-files", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seen = [Path(line) for line in done.stdout.splitlines() if line.endswith(".py")]
    assert sorted(seen) == sources(*FOLDERS)
