"""What in-painting and out-painting of digits look like and reach in every order.

    arimage compare orders --flops 5e11 --out compare-out
    OMP_NUM_THREADS=1 python benchmarks/zero_shot.py \\
        --models compare-out/models --sheet docs/images/zero_shot.png

- In-painting: the upper or lower half of held-out digits is drawn anew without a class; label
  accuracy is the share whose digit, by the packaged classifier, is still the original's. An order
  that sees all that is kept has much the same for both halves.
- The sheet has two rows for each model: six in-paintings as before, after; then canvases of 64 x 32
  that continue six digits to the left and right, with the digit's class. Where a model refuses
  that, there is one row.

The last line is one JSON object.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch

from arimage import ImageGenerator
from arimage.demo.digits import load_digits
from arimage.eval.runner import evaluate

ASKED = {"features": "digits", "reference": "digits", "metrics": ("fid", "accuracy")}
UPPER = np.arange(32)[:, None].repeat(32, axis=1) < 16
PAPER = 128


def in_painting(generator, digits, labels):
    """Accuracy and FID of both halves."""
    found = {}
    for name, mask in (("upper", UPPER), ("lower", ~UPPER)):
        made = generator.edit(digits, mask, seeds=0, output_type="pixels").images
        report = evaluate(made, labels=labels, **ASKED)
        found[name] = {key: round(float(report[key].value), 4) for key in ASKED["metrics"]}
    return found


def rows(generator, digits, labels):
    """One or two rows of 384 x 32 pixels, one above the other."""
    shown = digits[:6]
    after = generator.edit(shown, UPPER, labels[:6], seeds=0, output_type="pixels").images
    pairs = np.stack([shown, after], axis=1).reshape(12, 32, 32, 3)
    first = np.concatenate(pairs, axis=1)
    try:
        options = {"left": 16, "right": 16, "seeds": 0, "output_type": "pixels"}
        wide = generator.outpaint(digits[:6], labels[:6], **options).images
    except ValueError as error:
        print(error)
        return first
    gap = np.full((3, 384, 3), PAPER, np.uint8)
    return np.concatenate([first, gap, np.concatenate(wide, axis=1)])


def draw(sheet, path):
    """Two columns of models under their names."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines = -(-len(sheet) // 2)
    figure, panels = pyplot.subplots(lines, 2, figsize=(13, 1.35 * lines), squeeze=False)
    for panel, name in itertools.zip_longest(panels.T.flat, sheet):
        panel.axis("off")
        if name is not None:
            panel.imshow(sheet[name], interpolation="nearest")
            panel.set_title(name, fontsize=9, loc="left", pad=2)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main():
    """Measures each model of a comparison, draws, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="of arimage compare orders")
    parser.add_argument("--count", type=int, default=200, help="held-out digits")
    parser.add_argument("--sheet", type=Path, help="PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    held_out = load_digits()[1]
    digits, labels = held_out.pixels[: options.count], held_out.labels[: options.count]
    record, sheet = {}, {}
    for folder in sorted(options.models.iterdir()):
        generator = ImageGenerator.from_pretrained(folder, dtype=torch.float32)
        generator.settings = generator.settings.updated({"guidance_scale": 1.5})
        record[folder.name] = in_painting(generator, digits, labels)
        print(folder.name, record[folder.name], flush=True)
        sheet[folder.name.replace("-", "/")] = rows(generator, digits, labels.tolist())
    if options.sheet:
        draw(sheet, options.sheet)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
