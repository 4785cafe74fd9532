"""The demo's table and its report.md and report.json."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from arimage.eval.report import Report
from arimage.files import write_json, write_text

PICTURES = ("samples", "stages", "reconstructions", "losses")


def rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, value, to compare with) of each line of the table."""

    def number(name: str, digits: int = 3) -> str:
        return f"{record[name]:.{digits}f}"

    def reached(name: str) -> str:
        return "reached" if record["reached"][name] else "NOT REACHED"

    return [
        ("tokenizer: held-out PSNR (dB)", number("psnr", 2), ""),
        ("tokenizer: held-out SSIM", number("ssim"), ""),
        ("tokenizer: codes in use (held-out)", number("codebook_use"), ""),
        (
            "classifier: held-out accuracy",
            number("classifier_accuracy"),
            f"at least 0.96: {reached('classifier')}",
        ),
        (
            "accuracy of the asked label",
            number("accuracy"),
            f"at least 0.90: {reached('accuracy')}",
        ),
        (
            "FID (64 classifier features)",
            number("fid"),
            f"real train digits {number('fid_floor')}, untrained {number('fid_ceiling')}",
        ),
        (
            "FID, share of floor to ceiling",
            number("fid_share", 4),
            f"at most 0.10: {reached('fid')}",
        ),
        ("Inception score (classifier)", number("inception_score"), "10 would be perfect"),
        ("precision, recall", f"{number('precision')}, {number('recall')}", ""),
        (
            "copies of training images",
            number("copies", 4),
            f"held-out images {number('copies_held_out', 4)}; at most twice that: "
            f"{reached('copies')}",
        ),
    ]


def table(record: dict[str, Any]) -> Table:
    """For the terminal."""
    drawn = Table(title=f"arimage demo, order {record['order']}, seed {record['seed']}")
    for heading, justify in (("what", "left"), ("value", "right"), ("compare with", "left")):
        drawn.add_column(heading, justify=justify)
    for row in rows(record):
        drawn.add_row(*row)
    return drawn


def write_report(out: Path, record: dict[str, Any], report: Report) -> None:
    """report.json: the record and the scores with their protocol; report.md: the same to read."""
    write_json(out / "report.json", {"demo": record, **report.to_json()})
    lines = [
        f"# arimage demo: order {record['order']}, seed {record['seed']}",
        "",
        f"Made by `arimage demo --order {record['order']} --seed {record['seed']}` in "
        f"{record['seconds']['total']:.0f} s. FID and IS are on the features of a classifier "
        "trained on the train digits; the reference is the 360 held-out digits, on which nothing "
        "was trained. These numbers are not comparable with ImageNet scores.",
        "",
        "| what | value | compare with |",
        "|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows(record)),
        "",
        *(f"![{name}]({name}.png)" for name in PICTURES),
        "",
        report.to_markdown().replace("# Evaluation", "## Scores of the generated images"),
        "## Seconds",
        "",
        *(f"- {name}: {seconds}" for name, seconds in record["seconds"].items()),
        "",
        "```json",
        json.dumps(record),
        "```",
        "",
    ]
    write_text(out / "report.md", "\n".join(lines))
