"""Options that every training run has, and what is said at its end; heavy imports wait."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from arimage.training.session import Outcome

Steps = Annotated[int | None, typer.Option(help="Optimizer steps.", min=1)]
BatchSize = Annotated[int | None, typer.Option(help="Images per step, of all processes.", min=1)]
Precision = Annotated[str | None, typer.Option(help="no (float32), bf16, fp16.")]
Tracker = Annotated[str, typer.Option(help="tensorboard, wandb, trackio, none.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]


def tell(outcome: Outcome, steps: int, out: Path) -> None:
    """Ends the processes; the main one says what became of a run of ``steps``.

    Raises:
        typer.Exit: a signal stopped it.
    """
    from accelerate import PartialState

    PartialState().destroy_process_group()
    if int(os.environ.get("RANK", 0)):
        return
    if outcome.skipped:
        names = "; ".join(outcome.skipped[:5]) + "; ..." * (len(outcome.skipped) > 5)
        typer.echo(f"{len(outcome.skipped)} broken images were skipped: {names}", err=True)
    if not outcome.finished and not outcome.done:
        typer.echo("stopped before the first step; nothing is saved", err=True)
        raise typer.Exit(130)
    if not outcome.finished:
        again = [word for word in sys.argv[1:] if word != "--resume"]
        several = int(os.environ.get("WORLD_SIZE", 1)) > 1
        typer.echo(
            f"stopped after step {outcome.done} of {steps}, which is saved; go on with"
            f"{' the same launcher and' * several}: arimage {shlex.join(again)} --resume",
            err=True,
        )
        raise typer.Exit(130)
    measured = ", ".join(f"{name} {value:.4g}" for name, value in outcome.measured.items())
    if measured:
        typer.echo(f"last step: {measured}")
    typer.echo(f"saved: {out}")
