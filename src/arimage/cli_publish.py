"""The commands that publish: push, card. Heavy imports wait until they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()

Text = str | None
Folder = Annotated[Path, typer.Argument(help="Of a generator, a tokenizer, or a finished run.")]
Licence = Annotated[Text, typer.Option(help="Of the weights: apache-2.0, mit, cc-by-nc-4.0, ...")]
Base = Annotated[Text, typer.Option(help="Preset or hub id that it was made from.")]
Data = Annotated[Text, typer.Option(help="Hub id of the data set, or words.")]
Reports = Annotated[list[Path] | None, typer.Option(help="Of arimage evaluate; again for more.")]
Benchmarks = Annotated[
    list[str] | None,
    typer.Option("--benchmark", help="METRIC=OWNER/DATASET:TASK, of a report; again for more."),
]


@app.command()
def push(
    folder: Folder,
    repo: Annotated[str, typer.Argument(help="OWNER/NAME; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made.")] = False,
    revision: Annotated[Text, typer.Option(help="Branch; made if it is not there.")] = None,
    commit_message: Annotated[Text, typer.Option(help="In place of 'Upload ...'.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="As a pull request.")] = False,
    token: Annotated[Text, typer.Option(help="Else of hf auth login or HF_TOKEN.")] = None,
    licence: Licence = None,
    base_model: Base = None,
    data: Data = None,
    report: Reports = None,
    benchmark: Benchmarks = None,
) -> None:
    """Upload a model with its card to the hub; the same call again goes on after a break."""
    from arimage.model_card import CardFacts
    from arimage.publish import Target
    from arimage.publish import push as run

    target = Target(
        repo_id=repo,
        private=private or None,
        revision=revision,
        commit_message=commit_message,
        create_pr=create_pr,
        token=token,
    )
    facts = CardFacts(
        licence=licence,
        base_model=base_model,
        data=data,
        reports=tuple(report or ()),
        benchmarks=tuple(benchmark or ()),
    )
    done = run(folder, target, facts, drawer(folder))
    typer.echo(f"pushed: {done.pr_url or done.commit_url}")


@app.command()
def card(
    folder: Folder,
    repo: Annotated[Text, typer.Argument(help="OWNER/NAME that it will have.")] = None,
    licence: Licence = None,
    base_model: Base = None,
    data: Data = None,
    report: Reports = None,
    benchmark: Benchmarks = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a README.md.")] = False,
) -> None:
    """Write a model's card, README.md, into its folder; push uploads it as it is then."""
    from arimage.model_card import CardFacts
    from arimage.publish import write_card

    facts = CardFacts(
        licence=licence,
        base_model=base_model,
        data=data,
        reports=tuple(report or ()),
        benchmarks=tuple(benchmark or ()),
    )
    name = repo or f"OWNER/{folder.resolve().name}"
    typer.echo(f"card: {write_card(folder, name, facts, drawer(folder), force)}")


def drawer(folder: Path) -> Any:
    """What draws a generator's sample grid when there is none; None for a tokenizer."""
    if not (folder / "model_index.json").is_file():
        return None

    def draw(path: Path) -> None:
        from arimage.generator import ImageGenerator
        from arimage.publish import draw_samples

        draw_samples(ImageGenerator.from_pretrained(folder), path)

    return draw
