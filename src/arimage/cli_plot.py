"""The command that draws runs: plot. Heavy imports wait until it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of training runs.")],
    out: Annotated[Path, typer.Option(help="Where the PNGs go.")] = Path("plots"),
) -> None:
    """Draw losses, learning rates and FID of runs, and a scaling law of three or more generators.

    The last line is one JSON object.
    """
    from arimage.training.plots import plot_runs

    made = plot_runs(runs, out)
    for sentence in made["left_out"]:
        typer.echo(sentence, err=True)
    for fit in made["fits"]:
        for law in fit["laws"]:
            typer.echo(
                f"{fit['group']}, {law['loss']}: L = ({law['beta']:.4g} {law['x']})^"
                f"{law['alpha']:.4f}, r = {law['r']:.4f} over {law['points']} points"
            )
    typer.echo(json.dumps(made))
