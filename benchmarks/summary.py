"""What a folder of records says beside what we want to reach on an H200, as a table.

    python benchmarks/summary.py benchmarks/results

Reads the records that ``generate.py --save`` wrote; those of other scripts are passed over. A line
per row of each: time or rate, the aim and whether it is met, the ratio to the roofline, to the
official code (the aim there is in the same run), to other loops. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# At 256 px in bfloat16 on an H200: ms per image at batch 1, images per second at batch 64.
AIMS = {
    "var-d16": (4, 450),
    "var-d30": (16, 110),
    "llamagen-b": (22, 600),
    "llamagen-xl": (125, 140),
    "rar-b": (35, 350),
}
OFFICIAL = {1: 10, 64: 2}  # times as fast as the official code, by batch
COLUMNS = (
    "model", "batch", "dtype", "mode", "ms/image", "p95", "images/s", "aim", "met",
    "x roofline", "x official", "aim ", "met ", "tokens x gpt-fast", "tokens x transformers",
    "launches/image", "peak GB",
)  # fmt: skip


def records_in(folder: Path) -> list[dict[str, Any]]:
    """The records of ``generate.py`` in a folder, by name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [record for record in found if is_ours(record)]


def is_ours(record: Any) -> bool:
    """Whether a record has the rows of ``generate.py`` with their roofline."""
    rows = record.get("rows") if isinstance(record, dict) else None
    return bool(rows) and all(isinstance(row, dict) and "roofline" in row for row in rows)


def aim_of(model: str, batch: int, row: dict[str, Any]) -> tuple[str, bool | None]:
    """The aim in words, and whether a row meets it; None where there is none."""
    latency, rate = AIMS.get(model.lower(), (None, None))
    if batch == 1 and latency is not None:
        return f"<= {latency} ms", row["ms_per_image"] <= latency
    if batch == 64 and rate is not None:
        return f">= {rate}/s", row["images_per_second"] >= rate
    return "", None


def official_aim(batch: int, row: dict[str, Any]) -> tuple[str, bool | None]:
    """The same for the ratio to the official code."""
    if "ratio" not in row or batch not in OFFICIAL:
        return "", None
    return f">= {OFFICIAL[batch]}", row["ratio"] >= OFFICIAL[batch]


def lines_of(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line per row of each record, by ``COLUMNS``; ``None`` where something was not measured."""
    lines = []
    for record in records:
        for row in record["rows"]:
            aim, met = aim_of(record["model"], row["batch"], row)
            beside, as_fast = official_aim(row["batch"], row)
            tokens, counts = row.get("tokens per second, ratio", {}), row.get("per_image", {})
            values = (
                record["model"], row["batch"], row["dtype"], row["mode"], row["ms_per_image"],
                row["p95_ms_per_image"], row["images_per_second"], aim, met,
                row["roofline"]["ratio"], row.get("ratio"), beside, as_fast,
                tokens.get("gpt-fast"), tokens.get("transformers"),
                counts.get("launches", counts.get("operator_calls")),
                row.get("peak_gb", {}).get("arimage"),
            )  # fmt: skip
            lines.append(dict(zip(COLUMNS, values, strict=True)))
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """In Markdown; columns that nothing fills are left out."""
    used = [name for name in COLUMNS if any(line[name] not in (None, "") for line in lines)]
    rows = [[cell(line[name]) for name in used] for line in lines]
    head = [[name.strip() for name in used], ["---"] * len(used)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [*head, *rows])


def cell(value: Any) -> str:
    """A value in words."""
    if value is None:
        return ""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def main() -> None:
    """Prints the table of a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    records = records_in(folder)
    if not records:
        raise SystemExit(f"no record of generate.py --save in {folder}; run that first")
    lines = lines_of(records)
    first = records[0]
    print(f"{first['device_name']}, torch {first['versions']['torch']}, commit {first['commit']}\n")
    print(table(lines), end="\n\n")
    met = [line[key] for line in lines for key in ("met", "met ") if line[key] is not None]
    print(json.dumps({"aims": len(met), "met": sum(met), "lines": lines}))


if __name__ == "__main__":
    main()
