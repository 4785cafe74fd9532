"""Names of the classes of published models, text files in ``presets/``, a name per line."""

from __future__ import annotations

from importlib.resources import files

IMAGENET_CLASSES = 1000


def imagenet() -> list[str]:
    """The 1,000 classes of ImageNet-1k (ILSVRC 2012) in the order of their labels.

    The first WordNet 3.0 lemma of each class, as in Keras' imagenet_class_index.json (Apache-2.0);
    three that would repeat carry more: crane (bird), crane (machine) and maillot, tank suit.
    """
    text = (files("arimage") / "presets" / "imagenet.txt").read_text(encoding="utf-8")
    return text.splitlines()


def of(num_classes: int) -> list[str] | None:
    """ImageNet's names for a published model of 1,000 classes; None for others."""
    return imagenet() if num_classes == IMAGENET_CLASSES else None
