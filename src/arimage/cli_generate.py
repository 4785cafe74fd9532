"""The command that generates. Heavy imports wait until it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from arimage.generator import ImageGenerator

app = typer.Typer()

Model = Annotated[str, typer.Option("--model", "-m", help="Preset, folder or hub id.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]


@app.command()
def generate(
    out: Annotated[Path, typer.Option(help="A .png for one sheet, or a folder for one PNG each.")],
    model: Model = "digits-var",
    asked: Annotated[
        list[str] | None,
        typer.Option("--classes", "--prompt", help='"0-9", "3,1,4", names, drawn; or a prompt.'),
    ] = None,
    per_class: Annotated[int, typer.Option(help="Images per class or prompt.", min=1)] = 1,
    count: Annotated[int | None, typer.Option(help="Images, classes in turn; resumes.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Those of imagenet256-50k, ...")] = None,
    files: Annotated[str | None, typer.Option("--format", help="png or npz; resumes.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="At once; resumes.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first image; the others count up.")] = 0,
    guidance_scale: Annotated[float | None, typer.Option(help="u + s (c - u); 1 is off.")] = None,
    guidance_schedule: Annotated[str | None, typer.Option(help="constant, linear, ...")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is argmax.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k most probable tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the nucleus of this mass.")] = None,
    num_steps: Annotated[int | None, typer.Option(help="Passes, where one may choose.")] = None,
    device: Device = "cpu",
) -> None:
    """Generate images from class labels (0 if left out), or prompts, each its own --prompt.

    With --count, --protocol, --format or --batch-size a folder of any number of images: run again
    after a kill, it goes on. Several GPUs: torchrun --nproc-per-node 8 -m arimage.cli generate ...
    """
    options = {
        "guidance_scale": guidance_scale,
        "guidance_schedule": guidance_schedule,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "num_steps": num_steps,
    }
    settings = {name: value for name, value in options.items() if value is not None}
    from arimage.generator import ImageGenerator
    from arimage.shares import own_gpu

    many = {"count": count, "protocol": protocol, "files": files, "batch_size": batch_size}
    many = {name: value for name, value in many.items() if value is not None}
    if many:
        check_folder(out, count or protocol, per_class)
    generator = ImageGenerator.from_pretrained(model, device=own_gpu(device) if many else device)
    text = generator.transformer.takes_text
    if many:
        given = rows_of(asked, text, per_class)
        made = generate_many(generator, out, given, seed=seed, **many, **settings)
        typer.echo(made)
        return
    rows = (asked or []) if text else parse_classes(",".join(asked or ["0"]))
    rows = [row for row in rows for _ in range(per_class)]
    condition = {"prompts" if text else "class_labels": rows}
    save_generated(generator, model, condition, seed, settings, out, per_class)


def check_folder(out: Path, total: int | str | None, per_class: int) -> None:
    """Whether options for many images fit together, before a model is loaded.

    Raises:
        ValueError: a file instead of a folder, or two numbers of images.
    """
    if out.suffix.lower() in (".png", ".npz"):
        raise ValueError(
            f"got --out {out} for many images; give a folder: PNG files or samples.npz are "
            "written in it"
        )
    if total is not None and per_class > 1:
        raise ValueError(f"got --per-class {per_class} and {total}; give one of them")


def rows_of(asked: list[str] | None, text: bool, per_class: int) -> dict[str, Any]:
    """Labels or prompts as ``generate_to`` takes them."""
    if asked is None:
        return {}
    if not text and asked == ["drawn"]:
        return {"labels": "drawn"}
    rows = asked if text else parse_classes(",".join(asked))
    return {"prompts" if text else "labels": [row for row in rows for _ in range(per_class)]}


def generate_many(generator: ImageGenerator, out: Path, given: dict[str, Any], **more: Any) -> str:
    """Fills a folder (``generation.generate_to``); what to say of it."""
    from arimage.generation import generate_to
    from arimage.shares import own_share

    made = generate_to(generator, out, progress=own_share()[0] == 0, **given, **more)
    if made is None:
        return f"{out}/: this share is done, those of other processes are not"
    return f"images: {made}{'/' if made.is_dir() else ''}"


def save_generated(
    generator: ImageGenerator,
    model: str,
    condition: dict[str, Any],
    seed: int,
    settings: dict[str, Any],
    out: Path,
    per_class: int,
) -> None:
    """One sheet (a .png) or one PNG per image (a folder), with the settings in the PNG."""
    from arimage import __version__
    from arimage.generation_files import ImageInfo
    from arimage.images import grid, write_png

    output = generator(**condition, seeds=seed, output_type="pixels", **settings)
    labels, count = output.class_labels, len(output.seeds)
    record = {
        "arimage": __version__,
        "model": model,
        **generator.settings.updated(settings).to_json(),
    }
    if out.suffix.lower() == ".png":
        columns = per_class if per_class > 1 else min(count, 10)
        record |= {"class_labels": labels} if labels else {"prompts": output.prompts}
        record |= {"seeds": output.seeds}
        write_png(out, grid(output.images, columns, zoom=2), {"arimage": json.dumps(record)})
        typer.echo(f"{count} images: {out}")
        return
    info = ImageInfo(labels, output.prompts, output.seeds)
    for i, pixels in enumerate(output.images):
        write_png(out / info.png_name(i), pixels, info.png_text(i, record))
    typer.echo(f"{count} images: {out}/")


def parse_classes(text: str) -> list[int | str]:
    """ "0-9" or "3,1,4" or names, to labels.

    Raises:
        ValueError: an empty list or a range that runs backwards.
    """
    labels: list[int | str] = []
    for part in (p.strip() for p in text.split(",")):
        low, dash, high = part.partition("-")
        if dash and low.isdigit() and high.isdigit():
            if int(low) > int(high):
                raise ValueError(f"got the class range {part!r}; write it upwards, for example 0-9")
            labels += range(int(low), int(high) + 1)
        elif part:
            labels.append(int(part) if part.isdigit() else part)
    if not labels:
        raise ValueError(f"got classes {text!r}; give labels, for example 0-9 or 3,1,4")
    return labels
