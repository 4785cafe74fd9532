"""The commands that train: tokens, train, finetune. Heavy imports wait until they run.

``train`` and ``finetune`` are groups: their parts are ``tokenizer`` and, for ``train``,
``generator`` and ``small``, which runs where none is named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arimage import cli_runs, cli_tokenizer
from arimage.cli_groups import DefaultGroup

app = typer.Typer()
train_app = typer.Typer(
    cls=DefaultGroup, help="Train small models (by default), a generator or a tokenizer."
)
finetune_app = typer.Typer(help="Fine-tune a tokenizer.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(finetune_app, name="finetune")

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]


@app.command()
def tokens(
    data: Annotated[str, typer.Option(help="A folder per class, shards, or a hub id.")],
    out: Annotated[Path, typer.Option(help="Folder of the tokens and a copy of the tokenizer.")],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", "--model", "-m", help="Preset, folder, file or hub id.")
    ] = "digits-var",
    variant: Annotated[str | None, typer.Option(help="Of a repository of models.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a hub data set; train by default.")] = None,
    augment: Annotated[str, typer.Option(help="none, flip, ten_crop, twenty_crop.")] = "none",
    jittered_copies: Annotated[int, typer.Option(help="Of each image, to add.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of the jitter.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Squares encoded together.", min=1)] = 16,
    processes: Annotated[int, typer.Option(help="That share the work.", min=1)] = 1,
    workers: Annotated[int, typer.Option(help="That decode images, for each.", min=0)] = 0,
    device: Device = "cpu",
) -> None:
    """Encode a data set once, for `arimage train --tokens`; run again, it goes on.

    Several machines: torchrun ... -m arimage.cli tokens ...
    """
    from arimage.training.token_run import TokenRun, run_in_processes
    from arimage.training.variants import Augmentation

    run = TokenRun(
        tokenizer=tokenizer,
        data=data,
        out=out,
        variant=variant,
        split=split,
        augmentation=Augmentation(name=augment, jittered_copies=jittered_copies, seed=seed),
        batch_size=batch_size,
        workers=workers,
        device=device,
    )
    made = run_in_processes(run, processes)
    if made is None:
        typer.echo(f"{out}/: this share is done, those of other processes are not")
        return
    if made.skipped:
        names = "; ".join(made.skipped[:5]) + "; ..." * (len(made.skipped) > 5)
        typer.echo(f"{len(made.skipped)} broken images were skipped: {names}", err=True)
    times = f", {made.variants} variants of each" if made.variants > 1 else ""
    typer.echo(f"{len(made)} images of {made.num_classes} classes{times}: {out}/")


@train_app.command("small")
def train_small(
    out: Annotated[Path, typer.Option(help="Where the generator is saved.")],
    data: Annotated[Path | None, typer.Option(help="A folder, a sub-folder per class.")] = None,
    tokens: Annotated[Path | None, typer.Option(help="From `arimage tokens`, for data.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="A generator to fine-tune.")] = None,
    recipe: Annotated[str, typer.Option(help="small, llamagen, rar, var, var-d24, ...")] = "small",
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="A recipe's field: learning_rate=1e-4.")
    ] = None,
    order: Annotated[str | None, typer.Option(help="next_scale, raster, masked, random.")] = None,
    image_size: Annotated[int | None, typer.Option(help="A multiple of 8; 32 by default.")] = None,
    tokenizer_steps: Annotated[int | None, typer.Option(help="1000 by default.", min=1)] = None,
    transformer_steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 2000,
    jittered_copies: Annotated[int, typer.Option(help="Of each image, to add.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of initialisation, batches, dropout.")] = 0,
) -> None:
    """Train a small tokenizer and transformer, or fine-tune a generator on other classes."""
    from arimage.training.recipes import find_recipe
    from arimage.training.run import Source, run_training

    source = Source(
        data=data,
        tokens=tokens,
        start=start,
        order=order,
        image_size=image_size,
        tokenizer_steps=tokenizer_steps,
        jittered_copies=jittered_copies,
    )
    chosen = find_recipe(recipe, changes or (), steps=transformer_steps, seed=seed)
    _, histories = run_training(source, out, chosen)
    for history in histories:
        values = (f"{name} {value:.3f}" for name, value in history.recent().items())
        typer.echo(f"{history.name}, mean of the last 20 steps: {', '.join(values)}")
    typer.echo(f"saved: {out}")


@train_app.command("generator")
def train_generator(
    data: Annotated[Path, typer.Option(help="A folder made by `arimage tokens`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run and of the generator.")],
    config: Annotated[
        str | None, typer.Option(help="var-d16, llamagen-B, rar-B, x.yaml, ...; finetune.")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="A generator to fine-tune.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of a repository of models.")] = None,
    validation: Annotated[Path | None, typer.Option(help="Tokens of held-out images.")] = None,
    steps: cli_runs.Steps = None,
    batch_size: cli_runs.BatchSize = None,
    precision: cli_runs.Precision = None,
    tracker: cli_runs.Tracker = "tensorboard",
    resume: cli_runs.Resume = False,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="A recipe's field: model.depth=4.")
    ] = None,
) -> None:
    """Train a generator on tokens by a recipe, or fine-tune one on other classes.

    Several GPUs: accelerate launch -m arimage.cli train generator ...
    """
    from arimage.training.generator_recipe import read_generator_recipe
    from arimage.training.generator_run import GeneratorRun, run_generator

    if config is None and start is None:
        raise ValueError("give --config, a recipe for a new generator, or --from, one to fine-tune")
    given = {"steps": steps, "batch_size": batch_size, "precision": precision}
    said = [f"{name}={value}" for name, value in given.items() if value is not None]
    run = GeneratorRun(
        recipe=read_generator_recipe(config or "finetune", [*said, *(changes or ())]),
        data=data,
        out=out,
        start=start,
        variant=variant,
        validation=validation,
        resume=resume,
        tracker=tracker,
    )
    cli_runs.tell(run_generator(run), run.recipe.steps, run.out)


train_app.add_typer(cli_tokenizer.train_app)
finetune_app.add_typer(cli_tokenizer.finetune_app)
