"""Every console command answers ``--help``, and the entry point runs."""

import pytest
from house import ROOT, fresh_python
from typer.main import get_command
from typer.testing import CliRunner

from arimage.cli import app


def paths(command, path=()):
    """The words that lead to every command and group."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from paths(child, (*path, name))


COMMANDS = sorted(paths(get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(("arimage", *words)))
def test_help(words):
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage" in done.output


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(("arimage", *words)))
def test_every_command_and_option_is_explained(words):
    command = get_command(app)
    for word in words:
        command = command.commands[word]
    assert command.help
    silent = [p.name for p in command.params if p.name != "help" and not getattr(p, "help", None)]
    assert not silent


def test_the_commands_are_there():
    assert ("demo",) in COMMANDS
    assert len(COMMANDS) > 5


def test_the_entry_point():
    code = "import sys; sys.argv = ['arimage', '--help']; from arimage.cli import main; main()"
    done = fresh_python(code, ROOT)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
