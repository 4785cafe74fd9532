"""A report as one HTML file: scores, warnings, protocol, pictures; opens without a network."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from arimage.eval.gallery import Gallery
from arimage.eval.report import SCALE, SCALES, Report
from arimage.files import write_text
from arimage.images import grid

CLASS = "class_"  # details of this name are of one class
INFLUENCES = ("fid", "sfid", "fd_dinov2")  # where that is how far its images move the score
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: #1b1f24; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem; text-align: left;
  border-bottom: 1px solid #d8dee4; font-variant-numeric: tabular-nums; }
td.number { text-align: right; }
.warning { background: #fff8e1; border-left: 4px solid #d9a400; padding: .4rem .8rem; }
.scroll { max-height: 24rem; overflow: auto; display: inline-block; }
img { image-rendering: auto; max-width: 100%; } code { word-break: break-all; }
"""


def write_page(report: Report, path: str | Path, gallery: Gallery | None = None) -> Path:
    """Writes ``path``; pictures are inside the file."""
    protocol = report.protocol
    title = protocol.name or "Evaluation"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(protocol.source or 'images')}, {protocol.count} images</p>",
        _table(report.headings, report.rows()),
        *(f'<p class="warning">{_text(sentence)}</p>' for sentence in protocol.warnings),
    ]
    if protocol.deviations:
        parts += ["<h2>Not as the protocol or the authors have it</h2>", _list(protocol.deviations)]
    if gallery is not None:
        parts += _pictures(gallery) if len(gallery.samples) else []
        for name, picture in gallery.sheets.items():
            parts += [f"<h2>{_text(name.capitalize())}</h2>", _image(picture, name)]
    parts += _details(report, SCALE, "Scales", SCALES) + _details(report, CLASS, "Classes")
    parts += ["<h2>Protocol</h2>", _list(report.protocol_lines())]
    if protocol.skipped:
        parts += ["<h2>Images that could not be read</h2>", _list(protocol.skipped)]
    body = "\n".join(parts)
    return write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}'
        f"</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n",
    )


def _details(report: Report, prefix: str, title: str, said: str = "") -> list[str]:
    """A row per class, or per scale, for metrics that say something of each."""
    names, rows = report.by_detail(prefix)
    if not rows:
        return []
    moves = INFLUENCES if prefix == CLASS else ()
    headings = [f"moves {name} by" if name in moves else name for name in names]
    word = prefix.rstrip("_")
    table = _table((word, *headings), rows)
    return [
        f"<h2>{title}</h2>",
        f"<p>{said}</p>" * bool(said),
        f'<div class="scroll">{table}</div>',
    ]


def _pictures(gallery: Gallery) -> list[str]:
    count = len(gallery.samples)
    columns = min(count, 10 if count >= 10 else count)
    parts = ["<h2>Samples</h2>", _image(_sheet(gallery.samples, columns), "the first samples")]
    if gallery.nearest is not None and gallery.distances is not None:
        made = gallery.samples[: len(gallery.nearest)]
        real = _sized(gallery.nearest, made.shape[1:3])
        far = ", ".join(f"{d:.3g}" for d in gallery.distances)
        parts += [
            "<h2>Nearest real images</h2>",
            "<p>Above: generated; below: the real image nearest to it by "
            f"{_text(gallery.features)}, at distances {far}.</p>",
            _image(_sheet(np.concatenate([made, real]), len(made)), "generated above, real below"),
        ]
    if gallery.curve:
        parts += ["<h2>Precision and recall</h2>", curve(gallery.curve)]
    return parts


def curve(points: Sequence[tuple[int, float, float]]) -> str:
    """Precision against recall, a point for each number of neighbours, as SVG."""
    side, left = 320, 40

    def place(p: float, r: float) -> tuple[float, float]:
        return left + r * side, 10 + (1 - p) * side

    line = " ".join("{:.1f},{:.1f}".format(*place(p, r)) for _, p, r in points)
    dots = "".join(
        '<circle cx="{:.1f}" cy="{:.1f}" r="3.5" fill="#30638e"/>'
        '<text x="{:.1f}" y="{:.1f}" font-size="11">k = {}</text>'.format(
            *place(p, r), place(p, r)[0] + 6, place(p, r)[1] + 4, k
        )
        for k, p, r in points
    )
    ticks = "".join(
        f'<text x="{left - 6}" y="{10 + (1 - t) * side + 4:.0f}" font-size="11" text-anchor="end">'
        f'{t:g}</text><text x="{left + t * side:.0f}" y="{side + 26}" font-size="11" '
        f'text-anchor="middle">{t:g}</text>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<svg width="{side + left + 60}" height="{side + 50}" role="img" '
        'aria-label="precision against recall">'
        f'<rect x="{left}" y="10" width="{side}" height="{side}" fill="none" stroke="#d8dee4"/>'
        f'{ticks}<polyline points="{line}" fill="none" stroke="#30638e"/>{dots}'
        f'<text x="{left + side / 2}" y="{side + 44}" font-size="13" text-anchor="middle">recall'
        f'</text><text x="12" y="{10 + side / 2}" font-size="13" text-anchor="middle" '
        f'transform="rotate(-90 12 {10 + side / 2})">precision</text></svg>'
    )


def _sheet(pixels: np.ndarray, columns: int) -> np.ndarray:
    """A grid of tiles that are large enough to see."""
    return grid(pixels, columns, zoom=max(1, 80 // pixels.shape[1]), gap=4)


def _sized(pixels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if pixels.shape[1:3] == size:
        return pixels
    height, width = size
    return np.stack([np.asarray(Image.fromarray(p).resize((width, height))) for p in pixels])


def _image(pixels: np.ndarray, title: str) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    text = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{_text(title)}" src="data:image/png;base64,{text}">'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(h)}</th>" for h in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: str) -> str:
    number = value.lstrip("±- ").replace(".", "").replace("e-", "").isdigit()
    return f"<td{' class=number' * number}>{_text(value)}</td>"


def _list(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li><code>{_text(s)}</code></li>" for s in sentences) + "</ul>"


def _text(value: str) -> str:
    return html.escape(str(value))
