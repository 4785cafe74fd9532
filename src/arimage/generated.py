"""The images of an evaluation protocol as a source that can be read from any index.

Image i has a seed and a label of its own, so a run can stop, go on and be shared among processes;
no image file is written and no more than one batch is held.
"""

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from arimage import __version__
from arimage.eval.protocols import EvaluationProtocol, find_protocol, published_protocol
from arimage.eval.sources import Chunk, digest
from arimage.images import resized, to_pixels
from arimage.pretrained import identity
from arimage.sampling.planner import check_batch_size
from arimage.sampling.settings import Settings
from arimage.shapes import Int, UInt8
from arimage.zoo import Preset, find_loaded

if TYPE_CHECKING:
    from arimage.generator import ImageGenerator


class GeneratedImages:
    """A generator's images under a protocol: an ``ImageSource`` (eval/sources.py).

    Args:
        generator: makes them.
        protocol: a name or its beginning, a protocol, or None for that of the model's authors.
        batch_size: images per call of the models; None is what fits.
        settings: sampling settings, over those of the protocol, over the generator's.

    Raises:
        KeyError, TypeError, ValueError: as ``ImageGenerator.stream_dataset`` says.
    """

    def __init__(
        self,
        generator: "ImageGenerator",
        protocol: EvaluationProtocol | str | None = None,
        *,
        batch_size: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.generator, origin = generator, generator.origin
        self.preset = find_loaded(origin.name, origin.variant)
        if protocol is None:
            side = generator.tokenizer.config.image_size
            protocol = published_protocol(self.preset.name if self.preset else origin.name, side)
        self.protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
        self.settings = {**self.protocol.settings, **(settings or {})}
        self.sampling = generator.settings.updated(self.settings)
        self._check()
        fits = generator.plan(**self.settings) if batch_size is None else batch_size
        self.batch_size = check_batch_size(fits)
        self.labels = self.protocol.class_labels()
        self.name = f"{origin.name} {origin.variant or ''}".strip()

    def _check(self) -> None:
        classes = self.generator.transformer.config.num_classes
        if self.generator.transformer.takes_text or classes != self.protocol.num_classes:
            has = "text" if self.generator.transformer.takes_text else f"{classes} classes"
            raise ValueError(
                f"the protocol {self.protocol.name!r} asks for {self.protocol.num_classes} classes "
                f"and this generator draws from {has}; choose another protocol"
            )
        check_alone(self.sampling)

    def __len__(self) -> int:
        return self.protocol.count

    @property
    def identity(self) -> str:
        """Of the weights, protocol, settings and whatever else rounding may depend on."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        return digest(
            self.weights,
            self.generator.transformer.dtype,
            self.generator.device.type,
            self.batch_size,
            __version__,
            self.protocol.to_json(),
            self.sampling.to_json(),
        )

    def sha256(self) -> str:
        """The identity: the images follow from it, up to rounding."""
        return self.identity

    def read(self, start: int, stop: int) -> Chunk:
        """Images start..stop-1, made now."""
        stop = min(stop, len(self))
        edges = [*range(start, stop, self.batch_size), stop]
        parts = [self._make(a, b) for a, b in pairwise(edges)]
        return Chunk(np.concatenate(parts), np.arange(start, stop))

    def _make(self, start: int, stop: int) -> UInt8[np.ndarray, "b h w 3"]:
        seeds = [self.protocol.first_seed + i for i in range(start, stop)]
        return self._pixels(self.labels[start:stop], seeds)

    @torch.no_grad()
    def _pixels(
        self, labels: Int[np.ndarray, " b"], seeds: list[int]
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Images of some labels and seeds."""
        with torch.device("cpu"):  # torch's default, whatever extractors run on
            *_, state = self.generator.sample(labels.tolist(), seeds, **self.settings)
            images = resized(self.generator.decode(state), self.protocol.image_size)
            return to_pixels(images, self.protocol.rounding)

    @property
    def record(self) -> dict[str, Any]:
        """What a report remembers of the model and its settings."""
        origin, protocol = self.generator.origin, self.protocol
        return {
            "model": origin.name,
            "variant": origin.variant,
            "revision": origin.revision,
            "weights": self.weights,
            "dtype": str(self.generator.transformer.dtype).removeprefix("torch."),
            "quantized": self.generator.transformer.quantized,
            "device": self.generator.device.type,
            "sampling": self.sampling.to_json(),
            "labels": protocol.labels,
            "seeds": f"{protocol.first_seed}-{protocol.first_seed + protocol.count - 1}",
            "rounding": protocol.rounding,
            "batch_size": self.batch_size,
            "native_size": self.generator.tokenizer.config.image_size,
            "deviations": self.deviations,
        }

    @cached_property
    def weights(self) -> dict[str, str]:
        """Hashes of both models, and of the guide where there is one."""
        return weights_of(self.generator, self.sampling)

    @property
    def deviations(self) -> list[str]:
        """In what these images are not those that the model's authors scored."""
        native, scored = self.generator.tokenizer.config.image_size, self.protocol.image_size
        found = [f"resized from {native} to {scored} pixels"] if native != scored else []
        kept = self.generator.transformer.quantized
        changed = [] if kept is None else [f"transformer weights in {kept}"]
        if self.generator.refiner is not None:
            changed.append(f"steps from {self.generator.handover} on by another transformer")
        if self.preset is None:
            return changed + found
        published = published_protocol(self.preset.name, self.preset.image_size)
        return changed + not_published(self.preset, self) + found * (self.protocol != published)


def stream(
    generator: "ImageGenerator",
    protocol: EvaluationProtocol | str | None,
    keep: float | int,
    classifier: Any,
    batch_size: int | None,
    settings: dict[str, Any],
) -> GeneratedImages:
    """What ``ImageGenerator.stream_dataset`` returns: plain images, or the best of several.

    Raises:
        KeyError: an unknown protocol. ValueError: one for another number of classes; a share
            without a classifier, or none (rejection.py).
    """
    how: dict[str, Any] = {"batch_size": batch_size, "settings": settings}
    if keep == 1 and classifier is None:
        return GeneratedImages(generator, protocol, **how)
    if classifier is None:
        raise ValueError(
            f"got keep {keep} and no classifier; give one with probabilities of the classes, for "
            "example classifier='digits'"
        )
    from arimage.rejection import BestOf

    return BestOf(generator, protocol, keep=keep, classifier=classifier, **how)


def check_alone(sampling: Settings) -> None:
    """Raises ValueError unless an image can be made without the others."""
    if sampling.rng == "reference":
        raise ValueError(
            "rng='reference' draws for a whole batch, so that no image can be made alone; leave it "
            "out"
        )


def weights_of(generator: "ImageGenerator", sampling: Settings) -> dict[str, str]:
    """Hashes of both models, of a refiner with the step that it comes in at, and of a guide."""
    found = {
        "image_tokenizer": identity(generator.tokenizer),
        "transformer": identity(generator.transformer),
    }
    if generator.refiner is not None:
        refiner = identity(generator.refiner.transformer)
        found |= {"refiner": refiner, "handover": str(generator.handover)}
    guide = generator.guide_of(sampling)
    return found if guide is None else found | {"guide": identity(guide.transformer)}


def not_published(preset: Preset, images: GeneratedImages) -> list[str]:
    """The settings, and parts of the protocol, that are not those of a preset's published score."""
    published, used = Settings.from_json(preset.sampling).to_json(), images.sampling.to_json()
    if preset.folder:  # ours: its defaults are what was scored
        published = images.generator.settings.to_json()
    found = [
        f"{name} {used[name]} instead of {value}"
        for name, value in published.items()
        if used[name] != value
    ]
    theirs = published_protocol(preset.name, preset.image_size)
    for name in ("labels", "count", "image_size", "rounding", "reference"):
        mine, their = getattr(images.protocol, name), getattr(theirs, name)
        if mine != their:
            found.append(f"{name} {mine} instead of {their}")
    return found
