"""Watch an image grow: a preview after every step, written as one strip."""

import numpy as np

from arimage import ImageGenerator
from arimage.images import grid, write_png

generator = ImageGenerator.from_pretrained("digits-var")
previews = []
for preview in generator.stream([8], seeds=[3]):
    print(f"step {preview.step} of {preview.num_steps}: {(preview.ids >= 0).sum()} tokens")
    previews.append(np.asarray(preview.images[0]))
write_png("stages.png", grid(np.stack(previews), len(previews), zoom=4))
