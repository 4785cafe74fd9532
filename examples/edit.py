"""In-painting, class-conditional editing and out-painting: before, mask, after, three a row."""

import numpy as np

from arimage import ImageGenerator
from arimage.demo.digits import load_digits
from arimage.images import grid, write_png
from arimage.sampling.editing import mask_pixels

generator = ImageGenerator.from_pretrained("digits-var")
digits = load_digits()[1].pixels
top, middle = np.zeros((2, 32, 32), dtype=bool)
top[:16] = True  # white, True: drawn anew
middle[8:24, 8:24] = True

edits = [  # digits (which is in the comment), mask, labels to draw, first seed
    ([1, 7, 13], top, None, 20),  # 6, 8, 4: in-painting without a class
    ([1, 3, 2], top, [8, 9, 5], 10),  # 6, 7, 3: another class
    ([1, 7, 13], ~middle, [6, 8, 4], 0),  # 6, 8, 4: out-painting, the inverse mask
]
triples = []
for rows, mask, labels, seed in edits:
    before = digits[rows]
    after = generator.edit(before, mask, labels, seeds=seed, output_type="pixels").images
    triples += zip(before, mask_pixels([mask] * 3, 32), after, strict=True)
write_png("editing.png", grid(np.concatenate(triples), 9, zoom=3, paper=128))
print(f"{len(triples)} edits: editing.png")
