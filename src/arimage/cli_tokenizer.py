"""``arimage train tokenizer`` and ``arimage finetune tokenizer``; heavy imports wait."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from arimage import cli_runs

train_app, finetune_app = typer.Typer(), typer.Typer()
Text = str | None
Data = Annotated[str, typer.Option(help="A folder of images, shards, or a data set's hub id.")]
Out = Annotated[Path, typer.Option(help="Folder of the run and of the tokenizer.")]
Perceptual = Annotated[Text, typer.Option(help="lpips, convnext, resnet, dinov2, or none.")]
Parts = Annotated[Text, typer.Option("--parts", help="To train: encoder,codebook,decoder.")]
Workers = Annotated[int, typer.Option(help="Processes that decode images.", min=0)]
Strict = Annotated[bool, typer.Option("--strict-data", help="Stop at a broken image.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="A recipe's field: losses.l1.weight=2.")
]


@train_app.command("tokenizer")
def train(
    config: Annotated[str, typer.Option(help="vqgan, llamagen, multiscale-vq-f16, x.yaml, ...")],
    data: Data,
    out: Out,
    steps: cli_runs.Steps = None,
    batch_size: cli_runs.BatchSize = None,
    perceptual: Perceptual = None,
    parts: Parts = None,
    precision: cli_runs.Precision = None,
    workers: Workers = 0,
    strict_data: Strict = False,
    tracker: cli_runs.Tracker = "tensorboard",
    resume: cli_runs.Resume = False,
    changes: Changes = None,
) -> None:
    """Train a new tokenizer by a recipe.

    Several GPUs: accelerate launch -m arimage.cli train tokenizer ...
    """
    given = {"steps": steps, "batch_size": batch_size, "precision": precision, "parts": parts}
    _run(
        config,
        _all_changes(given, perceptual, changes),
        data=data,
        out=out,
        resume=resume,
        strict=strict_data,
        workers=workers,
        tracker=tracker,
    )


@finetune_app.command("tokenizer")
def finetune(
    start: Annotated[str, typer.Option("--from", help="Preset, folder, file or hub id.")],
    data: Data,
    out: Out,
    variant: Annotated[Text, typer.Option(help="Of a repository of models.")] = None,
    config: Annotated[str, typer.Option(help="finetune, vqgan, x.yaml, ...")] = "finetune",
    steps: cli_runs.Steps = None,
    batch_size: cli_runs.BatchSize = None,
    perceptual: Perceptual = None,
    quantizer: Annotated[Text, typer.Option(help="Another one, with the codes there are.")] = None,
    parts: Parts = None,
    precision: cli_runs.Precision = None,
    workers: Workers = 0,
    strict_data: Strict = False,
    tracker: cli_runs.Tracker = "tensorboard",
    resume: cli_runs.Resume = False,
    changes: Changes = None,
) -> None:
    """Fine-tune a tokenizer on images of one's own.

    Several GPUs: accelerate launch -m arimage.cli finetune tokenizer ...
    """
    given = {"steps": steps, "batch_size": batch_size, "precision": precision, "parts": parts}
    _run(
        config,
        _all_changes(given, perceptual, changes),
        start=start,
        variant=variant,
        quantizer=quantizer,
        data=data,
        out=out,
        resume=resume,
        strict=strict_data,
        workers=workers,
        tracker=tracker,
    )


def _all_changes(
    given: dict[str, Any], perceptual: str | None, changes: list[str] | None
) -> list[str]:
    """Options as changes of a recipe, then those of --set."""
    if given["parts"] is not None:
        given["parts"] = f"[{given['parts']}]"
    found = [f"{name}={value}" for name, value in given.items() if value is not None]
    if perceptual == "none":
        found.append("losses.perceptual=null")
    elif perceptual is not None:
        found.append(f"losses.perceptual.features={perceptual}")
    return [*found, *(changes or [])]


def _run(config: str, changes: list[str], **fields: Any) -> None:
    from arimage.training.tokenizer_recipe import read_recipe
    from arimage.training.tokenizer_run import TokenizerRun, run_tokenizer

    run = TokenizerRun(recipe=read_recipe(config, changes), **fields)
    cli_runs.tell(run_tokenizer(run), run.recipe.steps, run.out)
