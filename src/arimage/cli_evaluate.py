"""The commands that score: evaluate, reference. Heavy imports wait until they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from arimage.cli_groups import DefaultGroup

app = typer.Typer()
evaluate_app = typer.Typer(cls=DefaultGroup, help="Score a model or images; or a tokenizer.")
app.add_typer(evaluate_app, name="evaluate")
Text = str | None


@evaluate_app.command("images")
def evaluate(
    images: Annotated[str, typer.Argument(help="A model, or a folder, zip or npz of images.")],
    variant: Annotated[Text, typer.Option(help="Of a repository of models.")] = None,
    protocol: Annotated[Text, typer.Option(help="For example imagenet256-50k.")] = None,
    reference: Annotated[Text, typer.Option(help="Real images, or their statistics.")] = None,
    metrics: Annotated[Text, typer.Option(help="Comma-separated names.")] = None,
    features: Annotated[Text, typer.Option(help="inception, dinov2, clip, pixels, ...")] = None,
    training: Annotated[Text, typer.Option(help="Images, for metrics of copies.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report and cache.")] = None,
    sweep: Annotated[
        list[str] | None, typer.Option(help="guidance_scale=1:4:0.5, again for each setting.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="A sampling setting: top_k=900.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Cut image files to this square.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per call of the extractor.")] = 256,
    processes: Annotated[int, typer.Option(help="That share the work.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    uncertainty: Annotated[bool, typer.Option(help="Also standard errors.")] = False,
    strict: Annotated[bool, typer.Option(help="Stop at a broken image.")] = False,
) -> None:
    """Score a model as it generates, or a folder of images, and write a report.

    With --out, features are kept in OUT/features: a killed run goes on there.
    """
    from arimage.eval.sources import ReadOptions
    from arimage.evaluation import Job

    job = Job(
        images=images,
        variant=variant,
        settings=parse_settings(changes or []),
        read=ReadOptions(size=size, strict=strict),
        cache=str(out / "features") if out else None,
        device=device,
        protocol=protocol,
        metrics=tuple(parse_names(metrics)) if metrics else None,
        reference=reference,
        training=training,
        features=features,
        uncertainty=uncertainty,
        batch_size=batch_size,
    )
    run_job(job, out, sweep or [], processes)


def run_job(job: Any, out: Path | None, texts: list[str], processes: int) -> None:
    """Runs, prints and saves."""
    from arimage.evaluation import run_in_processes, run_sweep

    if texts:
        if out is None or processes > 1:
            raise ValueError(
                f"got a sweep, --out {out} and {processes} processes; a sweep needs a folder for "
                "its reports and plot, and runs in one process"
            )
        from arimage.eval.sweep import records

        for point in records(run_sweep(job, texts, out)):
            scores = ", ".join(f"{name} {value:.5g}" for name, value in point["scores"].items())
            typer.echo(f"{point['settings']}: {scores}{' (front)' * point.get('front', False)}")
        typer.echo(f"sweep: {out}/sweep.json, sweep.png")
        return
    show(run_in_processes(job, processes), out)


def parse_names(text: str) -> list[str]:
    """ "fid, recall" to names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """["top_k=900"] to sampling settings.

    Raises:
        ValueError: not name=value.
    """
    from arimage.eval.sweep import parse_grid

    found = parse_grid(texts)
    several = next((name for name, values in found.items() if len(values) != 1), None)
    if several is not None:
        raise ValueError(f"got several values of {several!r}; give one, or --sweep")
    return {name: values[0] for name, values in found.items()}


@app.command()
def reference(
    data: Annotated[str, typer.Argument(help="A folder, archive or data set of real images.")],
    out: Annotated[Path, typer.Option(help="A .npz for the statistics.")],
    size: Annotated[int | None, typer.Option(help="Centre-crop to this square, as ADM.")] = None,
    features: Annotated[str, typer.Option(help="inception, dinov2, clip, ...")] = "inception",
    split: Annotated[Text, typer.Option(help="Of a data set.")] = None,
    keep: Annotated[int, typer.Option(help="Images whose features are kept.", min=0)] = 10_000,
    cache: Annotated[Path | None, typer.Option(help="Folder of features, to go on.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    strict: Annotated[bool, typer.Option(help="Stop at a broken image.")] = False,
) -> None:
    """Make reference statistics of real images once, for `arimage evaluate --reference`."""
    import torch

    from arimage.eval.base import feature_extractor
    from arimage.eval.extraction import Pass
    from arimage.eval.references import from_source, save_reference
    from arimage.eval.sources import ReadOptions, open_path

    source = open_path(data, ReadOptions(size=size, strict=strict, split=split))
    with torch.device(device):
        made = from_source(source, feature_extractor(features), Pass(cache=cache), keep=keep)
    save_reference(out, made)
    typer.echo(f"{made.count} images seen by {made.extractor}: {out}")


@evaluate_app.command("tokenizer")
def evaluate_tokenizer(
    data: Annotated[str, typer.Option(help="A folder, archive or data set of images.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Preset, folder, hub id or file.")],
    variant: Annotated[Text, typer.Option(help="Of a repository of models.")] = None,
    before: Annotated[Text, typer.Option(help="A tokenizer to compare it with.")] = None,
    metrics: Annotated[
        Text, typer.Option(help="rfid, psnr, ssim, lpips, r...; all that is at hand by default.")
    ] = None,
    scale_metrics: Annotated[
        Text, typer.Option(help="Also after each scale: psnr,ssim by default; none is quicker.")
    ] = None,
    perturb: Annotated[
        list[str] | None, typer.Option(help="ALPHA:DELTA, for pFID; again for each point.")
    ] = None,
    features: Annotated[str, typer.Option(help="inception, dinov2, ...")] = "inception",
    split: Annotated[Text, typer.Option(help="Of a data set.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report and pictures.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images at once.", min=1)] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    uncertainty: Annotated[bool, typer.Option(help="Also standard errors.")] = False,
    strict: Annotated[bool, typer.Option(help="Stop at a broken image.")] = False,
) -> None:
    """Score a tokenizer's reconstructions of images, which are cut to its size."""
    from arimage.eval.sources import ReadOptions
    from arimage.evaluation_tokenizer import TokenizerJob

    job = TokenizerJob(
        data=data,
        model=model,
        variant=variant,
        before=before,
        metrics=tuple(parse_names(metrics)) if metrics else None,
        scale_metrics=parse_scale_metrics(scale_metrics),
        grid=tuple(parse_point(text) for text in perturb or []),
        features=features,
        read=ReadOptions(split=split, strict=strict),
        batch_size=batch_size,
        device=device,
        uncertainty=uncertainty,
    )
    show(job.run(), out)


def parse_scale_metrics(text: str | None) -> tuple[str, ...] | None:
    """ "psnr,ssim" to names, "none" to no name; None, the default, stays."""
    return None if text is None else () if text == "none" else tuple(parse_names(text))


def show(report: Any, out: Path | None) -> None:
    """Prints tables, notes and, as the last line, JSON; saves the report and its sheets."""
    from rich.console import Console

    from arimage.images import write_png

    console = Console()
    for table in report.tables():
        console.print(table)
    for sentence in (*report.protocol.warnings, *report.protocol.deviations):
        console.print(f"[yellow]note[/]: {sentence}")
    if out is not None:
        report.save(out)
        sheets = {} if report.gallery is None else report.gallery.sheets
        files = ["report.html", "report.md", "report.json", *(f"{name}.png" for name in sheets)]
        for name, picture in sheets.items():
            write_png(out / f"{name}.png", picture, {"arimage": json.dumps(report.to_json())})
        console.print(f"report: {out}/{', '.join(files)}")
    print(json.dumps(report.to_json()))


def parse_point(text: str) -> tuple[float, int]:
    """ "0.5:100" to alpha and delta.

    Raises:
        ValueError: anything else.
    """
    alpha, _, delta = text.partition(":")
    try:
        return float(alpha), int(delta)
    except ValueError as error:
        raise ValueError(f"got {text!r}; write alpha:delta, for example 0.5:100") from error
