"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from arimage import cli_compare, cli_evaluate, cli_generate, cli_plot, cli_publish, cli_train
from arimage.cli_generate import Device, Model, parse_classes

TRACKERS = ("wandb", "trackio")  # packages that no extra of this one brings

app = typer.Typer(
    name="arimage",
    help="Autoregressive image generation: demo, generate, edit, train, evaluate, push, ...",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(
    order: Annotated[str, typer.Option(help="next_scale, raster or masked.")] = "next_scale",
    out: Annotated[Path | None, typer.Option(help="Folder (default demo-out/ORDER).")] = None,
    seed: Annotated[int, typer.Option(help="Of training.")] = 0,
) -> None:
    """Train, save, load, generate and score on real digits; a few minutes on a CPU."""
    from rich.console import Console

    from arimage.demo.report import table
    from arimage.demo.run import run_demo

    console = Console()
    out = out or Path("demo-out") / order
    record = run_demo(order, out, seed=seed, say=lambda text: console.print(f"[bold]{text}[/]"))
    console.print(table(record))
    console.print(f"pictures, report and model: {out}")
    print(json.dumps(record))


@app.command()
def reconstruct(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Annotated[Path, typer.Option(help="A .png: originals above reconstructions.")],
    model: Model = "digits-var",
    device: Device = "cpu",
) -> None:
    """Encode images to tokens and decode them again; prints PSNR and SSIM."""
    import numpy as np
    import torch

    from arimage.eval.metrics.reconstruction import psnr, ssim
    from arimage.generator import ImageGenerator
    from arimage.images import from_pixels, grid, read_image, to_pixels, write_png

    exact = torch.float32
    tokenizer = ImageGenerator.from_pretrained(model, dtype=exact, device=device).tokenizer
    originals = np.stack([read_image(p, tokenizer.config.image_size) for p in images])
    decoded = to_pixels(tokenizer.reconstruct(from_pixels(originals).to(tokenizer.device)))
    write_png(out, grid(np.concatenate([originals, decoded]), len(originals), zoom=2))
    for path, db, similarity in zip(
        images, psnr(originals, decoded), ssim(originals, decoded), strict=True
    ):
        typer.echo(f"{path}: PSNR {db:.2f} dB, SSIM {similarity:.3f}")
    typer.echo(f"sheet: {out}")


@app.command()
def edit(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    mask: Annotated[list[Path], typer.Option(help="White is drawn anew; one, or one per image.")],
    out: Annotated[Path, typer.Option(help="A .png: a row per image, before, mask, after.")],
    model: Model = "digits-var",
    asked: Annotated[
        str | None,
        typer.Option("--class-label", "--prompt", help="Label, name or prompt; else none."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first image; the others count up.")] = 0,
    outpaint: Annotated[bool, typer.Option("--outpaint", help="Draw the black part anew.")] = False,
    paste: Annotated[bool, typer.Option("--paste", help="Put the kept pixels back.")] = False,
    guidance_scale: Annotated[float | None, typer.Option(help="u + s (c - u); 1 is off.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k most probable tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the nucleus of this mass.")] = None,
    device: Device = "cpu",
) -> None:
    """Draw the masked part of images anew: in-painting, out-painting, with a class or without."""
    options = {"guidance_scale": guidance_scale, "top_k": top_k, "top_p": top_p}
    settings = {name: value for name, value in options.items() if value is not None}
    from arimage.generator import ImageGenerator
    from arimage.images import native_pixels
    from arimage.sampling.editing import read_masks

    generator = ImageGenerator.from_pretrained(model, device=device)
    condition: dict[str, Any] = {}
    if asked is not None and generator.transformer.takes_text:
        condition = {"prompts": asked}
    elif asked is not None:
        condition = {"class_labels": parse_classes(asked)}
    pixels, sizes = native_pixels(images, generator.tokenizer.config.image_size)
    draws = [draw ^ outpaint for draw in read_masks(mask, sizes)]
    output = generator.edit(
        pixels, draws, seeds=seed, paste=paste, output_type="pixels", **condition, **settings
    )
    labels, seeds = output.class_labels, output.seeds
    record = {"model": model, "paste": paste, "outpaint": outpaint, "seeds": seeds}
    record |= {"class_labels": labels} if labels else {"prompts": output.prompts}
    record |= generator.settings.updated(settings).to_json()
    save_edited(out, pixels, draws, output.images, record)
    typer.echo(f"{len(images)} images: {out}")


def save_edited(out: Path, before: Any, draws: list[Any], after: Any, record: Any) -> None:
    """A sheet with a row per image: before, mask, after; the settings in the PNG."""
    import numpy as np

    from arimage import __version__
    from arimage.images import grid, write_png
    from arimage.sampling.editing import mask_pixels

    rows = np.stack([before, mask_pixels(draws, before.shape[1]), after], axis=1)
    sheet = grid(rows.reshape(-1, *before.shape[1:]), 3, zoom=2, paper=128)  # masks are white
    write_png(out, sheet, {"arimage": json.dumps({"arimage": __version__, **record})})


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint file, folder of them, hub id, preset.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; from_pretrained loads it.")],
    variant: Annotated[str | None, typer.Option(help="Which model, for example d16.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="The tokenizer's file or hub id.")] = None,
    scales: Annotated[str | None, typer.Option(help='Sides of token maps: "1,2,3", "24".')] = None,
    num_heads: Annotated[int | None, typer.Option(help="Where the file does not say.")] = None,
) -> None:
    """Turn published checkpoint files into a folder of safetensors."""
    from arimage.convert import convert as run

    sides = None if scales is None else parse_scales(scales)
    hints = {"scales": sides, "num_heads": num_heads}
    typer.echo(f"saved: {run(source, target, variant=variant, tokenizer=tokenizer, **hints)}")


def parse_scales(text: str) -> list[int]:
    """ "1,2,3" to sides.

    Raises:
        ValueError: anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise ValueError(f"got scales {text!r}; give sides of token maps, for example 1,2,3")
    return [int(part) for part in parts]


app.add_typer(cli_generate.app)
app.add_typer(cli_train.app)
app.add_typer(cli_evaluate.app)
app.add_typer(cli_compare.app)
app.add_typer(cli_publish.app)
app.add_typer(cli_plot.app)


@app.command("ls")
def list_models() -> None:
    """List the models that load by name, and what is registered."""
    from rich.console import Console
    from rich.table import Table

    from arimage import (
        FEATURES,
        METRICS,
        MODELS,
        ORDERS,
        PRESETS,
        QUANTIZERS,
        SAMPLERS,
        SCHEDULES,
        TOKENIZERS,
    )
    from arimage.eval.protocols import PROTOCOLS
    from arimage.eval.references import KNOWN
    from arimage.eval.registry import PAIR_METRICS
    from arimage.zoo import size

    table = Table(title="presets")
    for heading in ("name", "order", "size", "classes", "parameters", "licence"):
        table.add_column(heading, no_wrap=heading == "name")
    for preset in PRESETS.values():
        sizes = " + ".join(size(n) for n in preset.parameters)
        row = (preset.order, str(preset.image_size), str(preset.num_classes or "text"), sizes)
        table.add_row(preset.name, *row, preset.licence)
    console = Console()
    console.print(table)
    registries = (
        TOKENIZERS,
        QUANTIZERS,
        MODELS,
        ORDERS,
        SAMPLERS,
        SCHEDULES,
        METRICS,
        FEATURES,
        PAIR_METRICS,
    )
    for registry in registries:
        console.print(f"{registry.kind}: {', '.join(registry)}")
    console.print(f"protocol: {', '.join(PROTOCOLS)}")
    console.print(f"reference: {', '.join(KNOWN)}")


def main() -> None:
    """Runs a command; what the user can mend becomes one sentence on stderr and exit code 2."""
    # Threads that spin while they wait slow training tenfold on a busy machine; generation token by
    # token lives on them (docs/performance.md).
    if {"demo", "train", "finetune", "tokens", "compare"} & set(sys.argv[1:2]):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except (ValueError, TypeError, KeyError, OSError, FloatingPointError, MemoryError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.echo(f"arimage: {text}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        text = error.msg
        if text.lower().startswith(("no module named", "import of")):  # else a sentence of ours
            package = error.name if error.name in TRACKERS else "'arimage[demo]'"
            text = f"this command needs {error.name}; install it with pip install {package}"
        typer.echo(f"arimage: {text}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
