"""ImageGenerator: a tokenizer and a transformer that make images from class labels.

Start reading here: ``__call__`` -> ``sample`` -> ``sampling.loop.generate`` -> ``tokenizer``.
"""

import copy
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arimage import __version__
from arimage.ar.base import Backbone, Known, State
from arimage.ar.orders.base import Order
from arimage.ar.registry import MODELS, ORDERS
from arimage.convert import INDEX, TOKENIZER, TRANSFORMER, locate
from arimage.files import new_files, read_json, write_json
from arimage.images import to_pil, to_pixels
from arimage.pretrained import ArimageModel
from arimage.registry import unknown_name
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import Seeds, make_seeds
from arimage.sampling.settings import Settings
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.registry import TOKENIZERS

BATCH_SIZE = 64
Labels = Sequence[int | str] | int | str | None


@dataclass(frozen=True)
class GeneratorOutput:
    """images: PIL images (or uint8 (n, H, W, 3)); ids (n, num_slots); what made them."""

    images: Any
    ids: Tensor
    class_labels: list[int]
    seeds: list[int]


@dataclass(frozen=True)
class Preview:
    """What is known after step ``step`` of ``num_steps``: PIL images and ids (-1 = open)."""

    step: int
    num_steps: int
    images: list[Image.Image]
    ids: Tensor


class ImageGenerator:
    """A tokenizer, a transformer and sampling defaults; callable.

    Args:
        tokenizer: images <-> ids.
        transformer: predicts ids.
        settings: sampling defaults.
        class_names: one name per class, or None.

    Raises:
        ValueError: a tokenizer and a transformer that do not fit.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        transformer: Backbone,
        settings: Settings | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.tokenizer, self.transformer = tokenizer.eval(), transformer.eval()
        self.settings = settings or Settings()
        self.class_names = list(class_names) if class_names is not None else None
        check_fit(tokenizer, transformer)
        count = transformer.config.num_classes
        if self.class_names is not None and len(self.class_names) != count:
            raise ValueError(f"got {len(self.class_names)} class names for {count} classes")

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        variant: str | None = None,
        tokenizer: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> "ImageGenerator":
        """Loads a preset, a folder made by ``save_pretrained``, a hub id, or published files.

        Published files (a transformer's with ``tokenizer``, a trainer's that holds both, a folder
        with both, or a hub repository) are converted to safetensors in the cache at first.

        Args:
            name: preset, folder, hub id or file.
            variant: which model of a hub repository or of such a folder, for example "d16".
            tokenizer: the tokenizer's file, or a hub id that has one.
            dtype, device: of the loaded models.
            revision: branch, tag or commit of a hub repository.

        Raises:
            FileNotFoundError: nothing of that name; the nearest presets are named.
            ValueError: a broken or incomplete folder, or files that do not fit.
        """
        folder = locate(name, variant, tokenizer, revision)
        if not (folder / INDEX).is_file():
            raise FileNotFoundError(
                f"no {INDEX} in {folder}; give a folder made by ImageGenerator.save_pretrained"
            )
        index = read_json(folder / INDEX)
        parts = (
            load_part(folder, TOKENIZER, TOKENIZERS, dtype),
            load_part(folder, TRANSFORMER, MODELS, dtype),
        )
        settings = Settings.from_json(index.get("sampling", {}))
        return cls(*parts, settings, index.get("class_names")).to(device)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Writes model_index.json, image_tokenizer/ and transformer/; each file appears whole.

        ``dtype`` is what the weights are stored in (as they are by default).
        """
        index = {
            "_class_name": type(self).__name__,
            "_arimage_version": __version__,
            TOKENIZER: ["arimage", type(self.tokenizer).__name__],
            TRANSFORMER: ["arimage", type(self.transformer).__name__],
            "sampling": self.settings.to_json(),
            "class_names": self.class_names,
        }
        with new_files(folder) as temporary:
            for part, model in ((TOKENIZER, self.tokenizer), (TRANSFORMER, self.transformer)):
                stored = model if dtype is None else copy.deepcopy(model).to(dtype)
                stored.save_pretrained(temporary / part)
            write_json(temporary / INDEX, index)

    def to(self, device: torch.device | str) -> "ImageGenerator":
        """Moves both models; returns self."""
        self.tokenizer.to(device)
        self.transformer.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the transformer lives."""
        return self.transformer.device

    def __call__(
        self,
        class_labels: Labels,
        *,
        seeds: Seeds = None,
        batch_size: int = BATCH_SIZE,
        output_type: str = "pil",
        **settings: Any,
    ) -> GeneratorOutput:
        """Generates one image per class label.

        Args:
            class_labels: 0..num_classes-1, or class names; num_classes itself is "no class"; None
                draws one for each of ``seeds``.
            seeds: one per image; an integer s means s, s+1, ...; None draws fresh ones.
            batch_size: images per call of the models; the images do not depend on it.
            output_type: "pil" or "pixels" (uint8 array (n, H, W, 3)).
            settings: fields of ``Settings`` that replace the defaults.

        Raises:
            ValueError: a label out of range, seeds and labels of different length, a setting out
                of range. TypeError, KeyError: an unknown setting or name.
        """
        if output_type not in ("pil", "pixels"):
            raise ValueError(f"got output_type {output_type!r}; expected 'pil' or 'pixels'")
        seeds = self._seeds(class_labels, seeds, settings)
        pixels, ids = [], []
        for batch_pixels, batch_ids in self.batches(class_labels, seeds, batch_size, **settings):
            pixels.append(batch_pixels)
            ids.append(batch_ids)
        images: Any = np.concatenate(pixels)
        images = to_pil(images) if output_type == "pil" else images
        if class_labels is None:
            noise = self.settings.updated(settings).make_noise(seeds, self.device)
            labels = noise.labels(self.transformer.config.num_classes)
        else:
            labels = self.labels(class_labels)
        return GeneratorOutput(images, torch.cat(ids), labels, seeds)

    def batches(
        self,
        class_labels: Labels,
        seeds: Seeds,
        batch_size: int = BATCH_SIZE,
        **settings: Any,
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yields (pixels uint8 (b, H, W, 3), ids (b, num_slots)) batch by batch, in order."""
        if batch_size < 1:
            raise ValueError(f"got batch_size {batch_size}; expected an integer >= 1")
        seeds = self._seeds(class_labels, seeds, settings)
        labels = None if class_labels is None else self.labels(class_labels)
        if self.settings.updated(settings).rng == "reference" and len(seeds) > batch_size:
            raise ValueError(
                f"got {len(seeds)} images and batch_size {batch_size}; rng='reference' draws for "
                "all images together: raise batch_size, or call once per batch"
            )
        for i in range(0, len(seeds), batch_size):
            part = slice(i, i + batch_size)
            *_, state = self.sample(labels and labels[part], seeds[part], **settings)
            yield to_pixels(self._decode(state)), state.ids.cpu()

    def stream(
        self,
        class_labels: Labels,
        *,
        seeds: Seeds = None,
        **settings: Any,
    ) -> Iterator[Preview]:
        """Yields a preview after every step: the canvas so far, decoded."""
        seeds = self._seeds(class_labels, seeds, settings)
        order = self.order(self.settings.updated(settings).num_steps)
        for state in self.sample(class_labels, seeds, **settings):
            images = to_pil(to_pixels(self._decode(state)))
            yield Preview(state.step, order.num_steps, images, state.ids.cpu())

    def sample(
        self,
        class_labels: Labels,
        seeds: Seeds,
        known: Known | None = None,
        **settings: Any,
    ) -> Iterator[State]:
        """The states of one batch, step by step; ``known`` tokens are kept (editing)."""
        chosen = self.settings.updated(settings)
        order = self.order(chosen.num_steps)
        if chosen.more_smooth and not order.mixes:
            raise ValueError(
                "more_smooth mixes codes and this transformer reads ids; it is for next-scale "
                "models"
            )
        seeds = self._seeds(class_labels, seeds, settings)
        noise = chosen.make_noise(seeds, self.device)
        count = self.transformer.config.num_classes
        labels = noise.labels(count) if class_labels is None else self.labels(class_labels)
        if known is not None:
            check_known(known, self.tokenizer.config.vocab_size)
        with torch.no_grad():
            rows = torch.tensor(labels, device=self.device)
            branch = Branch.of(self.transformer, order, rows, chosen.guidance())
        return generate([branch], order, chosen.make_sampler(), noise, known)

    def order(self, num_steps: int | None = None) -> Order:
        """The order that the transformer was trained for, bound to the tokenizer."""
        return make_order(self.tokenizer, self.transformer, num_steps)

    def labels(self, class_labels: Sequence[int | str] | int | str) -> list[int]:
        """Class labels as integers; names are looked up.

        Raises:
            ValueError: no label, or one out of range. KeyError: an unknown class name.
        """
        if isinstance(class_labels, int | str | np.integer):
            class_labels = [class_labels]
        labels = [self._label(label) for label in class_labels]
        if not labels:
            raise ValueError("got no class label; give at least one")
        return labels

    def _seeds(self, class_labels: Labels, seeds: Seeds, settings: dict[str, Any]) -> list[int]:
        count = None if class_labels is None else len(self.labels(class_labels))
        shared = self.settings.updated(settings).rng == "reference"
        return make_seeds(seeds, count, shared=shared)

    def _label(self, label: int | str) -> int:
        count = self.transformer.config.num_classes
        if isinstance(label, str):
            names = self.class_names or []
            if label not in names:
                raise KeyError(unknown_name("class name", label, names))
            return names.index(label)
        index = operator.index(label)
        if not 0 <= index <= count:
            raise ValueError(
                f"got class label {label}; expected 0 to {count - 1}, or {count} for no class"
            )
        return index

    @torch.no_grad()
    def _decode(self, state: State) -> Tensor:
        return self.tokenizer.decode_canvas(state.canvas)


def make_order(
    tokenizer: ImageTokenizer, transformer: Backbone, num_steps: int | None = None
) -> Order:
    """The transformer's order over the tokenizer's slots.

    Raises:
        ValueError: ``num_steps`` for an order that has a fixed number.
    """
    name = transformer.config.order
    cls = ORDERS[name]
    if num_steps is not None and not cls.free_steps:
        raise ValueError(
            f"got num_steps {num_steps}; the order {name!r} has a fixed number of steps: "
            "leave it out"
        )
    options = {} if num_steps is None else {"num_steps": num_steps}
    return cls(tokenizer, transformer.prefix_length, transformer.device, **options)


def check_fit(tokenizer: ImageTokenizer, transformer: Backbone) -> None:
    """Raises ValueError unless both agree on token maps, vocabulary and, if read, codes."""
    theirs: dict[str, Any] = {
        "grids": tokenizer.slots.grids,
        "vocab_size": tokenizer.config.vocab_size,
        "code_dim": tokenizer.config.code_dim,
    }
    ours = {
        "grids": transformer.slots.grids,
        "vocab_size": transformer.config.vocab_size,
        "code_dim": transformer.code_dim,
    }
    for name, value in ours.items():
        if value is not None and value != theirs[name]:
            raise ValueError(
                f"the transformer was built for {name} {value} and the tokenizer has "
                f"{theirs[name]}; use the pair that was trained together"
            )


def check_known(known: Known, vocab_size: int) -> None:
    """Raises ValueError unless the given ids are inside the vocabulary."""
    given = known.ids[known.mask]
    if len(given) and not 0 <= int(given.min()) <= int(given.max()) < vocab_size:
        raise ValueError(
            f"got known ids from {int(given.min())} to {int(given.max())}; expected 0 to "
            f"{vocab_size - 1}"
        )


def load_part(folder: Path, part: str, registry: Any, dtype: torch.dtype) -> Any:
    """One component folder, by the ``model_type`` in its config.json."""
    path = folder / part
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"no {part}/config.json in {folder}; the folder is incomplete")
    model_type = str(read_json(path / "config.json").get("model_type", ""))
    name = model_type.removeprefix("arimage_")
    if name not in registry:
        raise ValueError(f"{path / 'config.json'}: {unknown_name(part, name, registry)}")
    cls: type[ArimageModel] = registry[name]
    return cls.from_pretrained(path, dtype=dtype)
