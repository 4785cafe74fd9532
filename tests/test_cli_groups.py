"""A group of commands with one that needs no name."""

import typer
from typer.testing import CliRunner

from arimage.cli_groups import DefaultGroup

app = typer.Typer()
group = typer.Typer(cls=DefaultGroup, help="Look at things.")
app.add_typer(group, name="look")


@app.command()
def other() -> None:
    """Do something else."""


@group.command("images")
def look_at_images(data: str, size: int = 0) -> None:
    """Look at images."""
    typer.echo(f"images {data} {size}")


@group.command("tokenizer")
def look_at_tokenizer(model: str = "", size: int = 0) -> None:
    """Look at a tokenizer."""
    typer.echo(f"tokenizer {model} {size}")


def run(words):
    done = CliRunner().invoke(app, words.split())
    return done.exit_code, done.output


def test_the_first_command_needs_no_name():
    assert run("look photos --size 3") == (0, "images photos 3\n")
    assert run("look --size 3 photos") == run("look images photos --size 3")
    assert run("look tokenizer --model m --size 3") == (0, "tokenizer m 3\n")
    assert run("look ./tokenizer") == (0, "images ./tokenizer 0\n")
    assert run("look images tokenizer") == (0, "images tokenizer 0\n")


def test_help_is_the_first_command_s_and_names_the_others():
    code, text = run("look --help")
    assert code == 0
    assert "Look at images" in text
    assert "--size" in text
    assert "look tokenizer --help" in " ".join(text.split())
    assert "--model" in run("look tokenizer --help")[1]
    assert "Look at things" in run("--help")[1]


def test_without_arguments_it_asks_for_those_of_the_first_command():
    code, text = run("look")
    assert code == 2
    assert "Missing argument" in text
