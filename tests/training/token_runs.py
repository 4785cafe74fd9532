"""Tiny data sets and tokenizers, and runs of ``arimage tokens`` on them."""

from pathlib import Path

import numpy as np
from tiny import make_tokenizer, stripes

from arimage.images import write_png
from arimage.training.token_run import TokenRun, run_tokens
from arimage.training.variants import Augmentation

CLASSES = ("across", "down")


def write_tokenizer(folder: Path, name: str = "multiscale_vq") -> Path:
    """A tokenizer of 16 px with random weights."""
    make_tokenizer(name).save_pretrained(folder)
    return folder


def write_classes(folder: Path, count: int = 10, classes: tuple[str, ...] = CLASSES) -> Path:
    """Striped images, a little wider than the tokenizer's, in a sub-folder per class."""
    pixels, labels = stripes(count)
    for i, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        wide = np.concatenate([image, image[:, :3]], axis=1)
        write_png(folder / classes[label % len(classes)] / f"{i:02d}.png", wide)
    return folder


def go(tokenizer, data, out, augment="none", share=(0, 1), **fields):
    """A run with shards of three images, two of them encoded together."""
    asked = {"batch_size": 2, "shard_size": 3, "progress": False, **fields}
    run = TokenRun(
        tokenizer=str(tokenizer),
        data=str(data),
        out=Path(out),
        augmentation=Augmentation(name=augment),
        **asked,
    )
    return run_tokens(run, share)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
