"""What in-painting and out-painting of digits look like and reach in every order.

    arimage compare orders --flops 5e11 --out compare-out
    OMP_NUM_THREADS=1 python benchmarks/zero_shot.py \\
        --models compare-out/models --sheet docs/images/zero_shot.png

- In-painting: the upper or lower half of held-out digits is drawn anew without a class; label
  accuracy is the share whose digit, by the packaged classifier, is still the original's. An order
  that sees all that is kept has much the same for both halves.
- The sheet has two rows for each model: six in-paintings as before, after; then canvases of 64 x 32
  that continue three digits to the left and right, with the digit's class. An empty place is a
  refusal.

The last line is one JSON object.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from arimage import ImageGenerator
from arimage.demo.digits import load_digits
from arimage.eval.runner import evaluate
from arimage.images import write_png

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
    """Two rows of 384 x 32 pixels."""
    shown = digits[:6]
    after = generator.edit(shown, UPPER, labels[:6], seeds=0, output_type="pixels").images
    pairs = np.stack([shown, after], axis=1).reshape(12, 32, 32, 3)
    first, second = np.concatenate(pairs, axis=1), np.full((32, 384, 3), PAPER, np.uint8)
    try:
        options = {"left": 16, "right": 16, "seeds": 0, "output_type": "pixels"}
        wide = generator.outpaint(digits[:6], labels[:6], **options).images
        second = np.concatenate(wide, axis=1)
    except ValueError as error:
        print(error)
    gap = np.full((4, 384, 3), PAPER, np.uint8)
    return [first, gap[:2], second, gap]


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
    record, sheet = {}, []
    for folder in sorted(options.models.iterdir()):
        generator = ImageGenerator.from_pretrained(folder, dtype=torch.float32)
        generator.settings = generator.settings.updated({"guidance_scale": 1.5})
        record[folder.name] = in_painting(generator, digits, labels)
        print(folder.name, record[folder.name], flush=True)
        sheet += rows(generator, digits, labels.tolist())
    if options.sheet:
        write_png(options.sheet, np.concatenate(sheet).repeat(2, axis=0).repeat(2, axis=1))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
