"""ImageGenerator: a tokenizer and a transformer that make images from class labels or text.

Start reading here: ``__call__`` -> ``sample`` -> ``sampling.loop.generate`` -> ``tokenizer``.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from arimage.ar.base import Backbone, Known, State
from arimage.ar.orders.base import Order
from arimage.ar.registry import MODELS
from arimage.convert import INDEX, TOKENIZER, TRANSFORMER
from arimage.editable import Editable
from arimage.files import read_json
from arimage.hub import Access
from arimage.images import to_pil, to_pixels
from arimage.outputs import GeneratorOutput, Origin, Preview, check_output_type, gathered, packed
from arimage.parts import (
    Resizable,
    check_fit,
    find_folder,
    load_part,
    make_order,
    own_tokenizer,
    save_parts,
)
from arimage.pretrained import check_device, default_dtype
from arimage.publish import Publishable
from arimage.sampling.autoguidance import Guidable
from arimage.sampling.batches import Arrival, Fit, arriving
from arimage.sampling.branches import branches_of
from arimage.sampling.compiling import Compilable
from arimage.sampling.conditions import Conditions, Labels, Prompts, Rows, asked, kind
from arimage.sampling.editing import check_known
from arimage.sampling.handover import HandsOver
from arimage.sampling.labels import count_images
from arimage.sampling.loop import generate
from arimage.sampling.noise import Seeds, make_seeds
from arimage.sampling.planner import check_batch_size, planned
from arimage.sampling.settings import Settings
from arimage.shapes import Float
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.registry import TOKENIZERS

if TYPE_CHECKING:
    from arimage.generated import GeneratedImages


class ImageGenerator(Compilable, Editable, Guidable, HandsOver, Resizable, Publishable):
    """A tokenizer, a transformer and sampling defaults; callable.

    Args:
        tokenizer: images <-> ids.
        transformer: predicts ids.
        settings: sampling defaults.
        class_names: one name per class, or None.
        text_encoder: for models of text: folder or hub id, in place of the config's.

    Raises:
        ValueError: a tokenizer and a transformer that do not fit.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        transformer: Backbone,
        settings: Settings | None = None,
        class_names: Sequence[str] | None = None,
        text_encoder: str | Path | None = None,
    ) -> None:
        self.tokenizer, self.transformer = tokenizer.eval(), transformer.eval()
        self.settings = settings or Settings()
        self.class_names = list(class_names) if class_names is not None else None
        check_fit(tokenizer, transformer)
        count = transformer.config.num_classes
        if self.class_names is not None and len(self.class_names) != count:
            raise ValueError(f"got {len(self.class_names)} class names for {count} classes")
        self.conditions = Conditions(transformer, text_encoder)
        self.origin = Origin()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        variant: str | None = None,
        tokenizer: str | Path | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        text_encoder: str | Path | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "ImageGenerator":
        """Loads a preset, a folder made by ``save_pretrained``, a hub id, or published files.

        Published files (a transformer's with ``tokenizer``, a trainer's that holds both, a folder
        with both, or a hub repository) are converted to safetensors in the cache at first.

        Args:
            name: preset, folder, hub id or file.
            variant: which model of a hub repository or of such a folder, for example "d16".
            tokenizer: another one: the folder of a fine-tuned one, a file, a hub id that has one.
            dtype, device: of the loaded models; dtype None is bfloat16 where the device computes in
                it, else float32. A seed makes the same image in the same dtype.
            revision, cache_dir, token, local_files_only: for a hub repository (``hub.Access``).
            text_encoder: folder or hub id of the text encoder, in place of the published one; it is
                loaded with the first prompt.

        Raises:
            FileNotFoundError: nothing of that name; the nearest presets are named.
            ValueError: a broken or incomplete folder, or files that do not fit.
            PermissionError, ConnectionError: as ``hub.locate``.
        """
        access = Access(
            revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        dtype = default_dtype(device) if dtype is None else dtype
        own = own_tokenizer(tokenizer, dtype)
        folder = find_folder(name, variant, tokenizer if own is None else None, access)
        check_device(device)
        index = read_json(folder / INDEX)
        parts = (
            load_part(folder, TOKENIZER, TOKENIZERS, dtype) if own is None else own,
            load_part(folder, TRANSFORMER, MODELS, dtype),
        )
        settings = Settings.from_json(index.get("sampling", {}))
        generator = cls(*parts, settings, index.get("class_names"), text_encoder).to(device)
        generator.origin = Origin(str(name), variant, revision)
        return generator

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Writes model_index.json, image_tokenizer/ and transformer/; each file appears whole.

        ``dtype``: of the stored weights. A text encoder is named by the config, not written.
        """
        parts = {TOKENIZER: self.tokenizer, TRANSFORMER: self.transformer}
        about = {"sampling": self.settings.to_json(), "class_names": self.class_names}
        save_parts(folder, type(self).__name__, parts, about, dtype)

    def to(self, device: torch.device | str) -> "ImageGenerator":
        """Moves both models, not compiled; returns self. ValueError: a device that is not there."""
        check_device(device)
        self.compile("off")
        for part in filter(None, (self.tokenizer, self.transformer, self.refiner)):
            part.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the transformer lives."""
        return self.transformer.device

    def __call__(
        self,
        class_labels: Labels = None,
        *,
        prompts: Prompts = None,
        count: int | None = None,
        seeds: Seeds = None,
        batch_size: int | None = None,
        memory_budget: float | int | None = None,
        output_type: str = "pil",
        **settings: Any,
    ) -> GeneratorOutput:
        """Generates one image per class label or prompt.

        Args:
            class_labels: 0..num_classes-1, or class names; num_classes itself is "no class".
            prompts: for models of text: texts, or ``TextFeatures`` of them.
            count: instead of labels: so many images, each with a label drawn from its seed (a list
                of seeds says it too).
            seeds: one per image; an integer s means s, s+1, ...; None draws fresh ones.
            batch_size, memory_budget: as in ``batches``; the images do not depend on them.
            output_type: "pil" or "pixels" (uint8 array (n, H, W, 3)).
            settings: fields of ``Settings`` that replace the defaults.

        Raises:
            ValueError: a label out of range, a prompt that is too long, labels for a model of text
                or the reverse, another number of seeds, a setting out of range.
            TypeError, KeyError: an unknown setting or name.
            FileNotFoundError: prompts, and the text encoder is not there.
        """
        check_output_type(output_type)
        rows = self.conditions.read(class_labels, prompts, self.class_names)
        seeds = self._seeds(rows, seeds, settings, count)
        fit = self._fit(batch_size, memory_budget, settings)
        pixels, ids = gathered(self._batches(rows, seeds, fit, None, settings))
        if rows is None:
            rows = self.random_labels(seeds, **settings)
        labels, texts = asked(rows)
        return GeneratorOutput(packed(pixels, output_type), ids, labels, seeds, texts)

    def batches(
        self,
        class_labels: Labels = None,
        seeds: Seeds = None,
        batch_size: int | None = None,
        *,
        prompts: Prompts = None,
        memory_budget: float | int | None = None,
        known: Known | None = None,
        **settings: Any,
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yields (pixels uint8 (b, H, W, 3), ids (b, num_slots)) batch by batch, in order.

        Args:
            class_labels, prompts, seeds, settings: as in ``__call__``.
            batch_size: images per call of the models; None is what fits into ``memory_budget``.
            memory_budget: GiB besides the weights, against an estimate (sampling/planner.py);
                None is 0.8 of the free memory on CUDA and 4 GiB elsewhere.
            known: tokens that are given, one row per image.
        """
        fit = self._fit(batch_size, memory_budget, settings)
        rows = self.conditions.read(class_labels, prompts, self.class_names)
        seeds = self._seeds(rows, seeds, settings)
        yield from self._batches(rows, seeds, fit, known, settings)

    def _batches(
        self, rows: Rows | None, seeds: list[int], fit: Fit, known: Known | None, settings: Any
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        check_batch_size(fit.size, len(seeds), self._shared(settings))

        def make(part: slice) -> Arrival:
            given = known and known.part(part)
            *_, state = self._states(rows and rows[part], seeds[part], given, settings)
            return Arrival(state, self.decode, captured=self.captures is not None)

        yield from arriving(fit.batches(make, len(seeds)))

    def stream_dataset(
        self,
        protocol: Any = None,
        *,
        batch_size: int | None = None,
        keep: float | int = 1,
        classifier: Any = None,
        **settings: Any,
    ) -> "GeneratedImages":
        """The images of an evaluation protocol, made when they are read; ``evaluate`` takes it.

        ``protocol``: an ``EvaluationProtocol``, a name of ``eval.protocols.PROTOCOLS`` or its
        beginning, or None for that of the model's authors. ``keep``: share of the images that is
        kept, those that ``classifier`` likes best (rejection.py). The rest as in ``batches``.

        Raises:
            KeyError, ValueError: as ``generated.stream``.
        """
        from arimage.generated import stream

        return stream(self, protocol, keep, classifier, batch_size, settings)

    def plan(self, memory_budget: float | int | None = None, **settings: Any) -> int:
        """How many images fit into ``memory_budget`` GiB at once, by estimate; at least one."""
        chosen = self.settings.updated(settings)
        return planned(self, self.guide_of(chosen), chosen, memory_budget)

    def _fit(self, batch_size: int | None, budget: float | int | None, settings: Any) -> Fit:
        return Fit.of(batch_size, partial(self.plan, budget, **settings), self._shared(settings))

    def stream(
        self,
        class_labels: Labels = None,
        *,
        prompts: Prompts = None,
        seeds: Seeds = None,
        known: Known | None = None,
        **settings: Any,
    ) -> Iterator[Preview]:
        """Yields a preview after every step: the canvas so far, decoded."""
        steps = self.order(**self.settings.updated(settings).order_options).num_steps
        for state in self.sample(class_labels, seeds, known, prompts=prompts, **settings):
            images = to_pil(to_pixels(self.decode(state)))
            yield Preview(state.step, steps, images, state.ids.cpu())

    def sample(
        self,
        class_labels: Labels,
        seeds: Seeds,
        known: Known | None = None,
        *,
        prompts: Prompts = None,
        **settings: Any,
    ) -> Iterator[State]:
        """The states of one batch, step by step; ``known`` tokens are kept (editing)."""
        rows = self.conditions.read(class_labels, prompts, self.class_names)
        return self._states(rows, self._seeds(rows, seeds, settings), known, settings)

    def _states(
        self, rows: Rows | None, seeds: list[int], known: Known | None, settings: dict[str, Any]
    ) -> Iterator[State]:
        chosen = self.settings.updated(settings)
        order, guide = self.order(**chosen.order_options), self.guide_of(chosen)
        chosen.check_fits(order.mixes, len(self.transformer.parts))
        noise = chosen.make_noise(seeds, self.device)
        if rows is None:
            rows = noise.labels(self.transformer.config.num_classes)
        if known is not None:
            check_known(known, self.tokenizer.config.vocab_size)
            known = known.to(self.device)
        run, parts = self.captured_run(chosen, order), (self, guide, order, rows, chosen, noise)
        branches = branches_of(*parts, allocate=run is None)
        return generate(branches, order, chosen.make_sampler(), noise, known, run)

    def order(self, num_steps: int | None = None, **options: Any) -> Order:
        """The transformer's order, bound to the tokenizer; options: ``Settings.order_options``."""
        return self.captured_order(make_order, {"num_steps": num_steps, **options})

    def labels(self, class_labels: Sequence[int | str] | int | str) -> list[int]:
        """Class labels as integers, names looked up; ``read_labels`` has the errors."""
        return self.conditions.labels(class_labels, self.class_names)

    def random_labels(self, seeds: Sequence[int], **settings: Any) -> list[int]:
        """A class label per seed, uniform; the same seed has the same label."""
        noise = self.settings.updated(settings).make_noise(seeds, self.device)
        return noise.labels(self.transformer.config.num_classes)

    def _seeds(
        self, rows: Rows | None, seeds: Seeds, settings: dict[str, Any], count: int | None = None
    ) -> list[int]:
        """One seed per image; with the reference's noise one for all of them."""
        images = count_images(None if rows is None else len(rows), count, seeds, kind(rows))
        return make_seeds(seeds, images, shared=self._shared(settings), of=kind(rows))

    def _shared(self, settings: dict[str, Any]) -> bool:
        return self.settings.updated(settings).rng == "reference"

    @torch.no_grad()
    def decode(self, state: State) -> Float[Tensor, "b 3 h w"]:
        """Float images of a state, nominally in [-1, 1]."""
        return self.decode_canvas(state.canvas)
