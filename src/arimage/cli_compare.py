"""The commands that compare: reports, orders. Heavy imports wait until they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from arimage.cli_evaluate import parse_names
from arimage.cli_groups import DefaultGroup

app = typer.Typer()
compare_app = typer.Typer(cls=DefaultGroup, help="Compare two reports; or all orders on digits.")
app.add_typer(compare_app, name="compare")


@compare_app.command("reports")
def compare(
    a: Annotated[Path, typer.Argument(help="report.json, or its folder.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    force: Annotated[bool, typer.Option("--force", help="Whatever their protocols.")] = False,
) -> None:
    """Compare two reports; refused where their protocols differ."""
    from arimage.eval.compare import compare as run
    from arimage.eval.report import Report

    for row in run(Report.load(a), Report.load(b), force=force):
        error = "" if row.standard_error is None else f" ± {row.standard_error:.2g}"
        typer.echo(f"{row.name}: {row.a:.6g} -> {row.b:.6g} ({row.value:+.4g}{error})")


@compare_app.command("orders")
def compare_orders(
    flops: Annotated[float, typer.Option(help="Of each training.")] = 3e11,
    only: Annotated[
        str | None, typer.Option(help="Models and orders: var,llama/raster; all by default.")
    ] = None,
    steps_per_image: Annotated[
        str, typer.Option(help="Passes that are tried where an order lets one choose.")
    ] = "2,4,8,16",
    out: Annotated[Path, typer.Option(help="Folder; the same command goes on there.")] = Path(
        "compare-out"
    ),
    seed: Annotated[int, typer.Option(help="Of the trainings.")] = 0,
) -> None:
    """Train every registered order on digits with one budget: FID against passes and images/s.

    Writes compare.png, compare.json and the models. The last line is one JSON object.
    """
    from rich.console import Console

    from arimage.demo.compare import Comparison
    from arimage.demo.compare_figure import table

    counts, names = parse_counts(steps_per_image), parse_names(only or "")
    console = Console()
    comparison = Comparison(
        out=out, flops=flops, seed=seed, steps_per_image=counts, only=names, say=console.print
    )
    record = comparison.run()
    console.print(table(record))
    for name, reason in record["left_out"].items():
        console.print(f"[yellow]left out[/] {name}: {reason}", highlight=False)
    console.print(f"figure: {out}/compare.png")
    print(json.dumps(record))


def parse_counts(text: str) -> list[int]:
    """ "2,4" to numbers of steps.

    Raises:
        ValueError: anything but integers from 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"got steps per image {text!r}; give integers from 1, for example 4,8,16")
    return sorted({int(part) for part in parts})
