"""What a generator makes of given images: ``edit``, ``outpaint``."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from arimage.ar.base import Backbone, Known
from arimage.images import from_pixels, native_pixels, to_pixels
from arimage.outputs import GeneratorOutput, check_output_type, gathered, packed
from arimage.sampling.batches import Fit
from arimage.sampling.conditions import Labels, Prompts, Rows, asked, rows_for
from arimage.sampling.editing import known_tokens, paste_kept, read_masks
from arimage.sampling.noise import Seeds
from arimage.sampling.planner import check_batch_size
from arimage.sampling.windows import Slide, window_seeds
from arimage.shapes import Int, UInt8
from arimage.tokenizers.base import ImageTokenizer


class Editable:
    """Gives a generator ``edit`` and ``outpaint``: no second loop, given tokens."""

    tokenizer: ImageTokenizer
    transformer: Backbone
    image_size: Any
    class_names: list[str] | None
    captures: Any
    settings: Any
    conditions: Any
    order: Any  # the methods of ImageGenerator that are needed
    plan: Any
    _seeds: Any
    _fit: Any
    _shared: Any
    _batches: Any
    _states: Any

    def edit(
        self,
        images: Any,
        masks: Any,
        class_labels: Labels = None,
        *,
        prompts: Prompts = None,
        seeds: Seeds = None,
        paste: bool = False,
        batch_size: int | None = None,
        memory_budget: float | int | None = None,
        output_type: str = "pil",
        **settings: Any,
    ) -> GeneratorOutput:
        """Draws the masked part of each image anew: in-painting; the inverse mask out-paints.

        Args:
            images: PIL images and files (centred square, resized), or arrays of the model's size.
            masks: one per image or one for all, any resolution; white (True, 255) is drawn anew.
            class_labels, prompts: one per image or one for all; neither is "no class", no prompt.
            seeds: as in ``__call__``.
            paste: put the original's pixels back where the mask is black. Without it the tokens
                there are kept, and decoding them changes the pixels.
            batch_size, memory_budget, output_type, settings: as in ``__call__``.

        Raises:
            ValueError: an image or mask that ``known`` refuses, and what ``__call__`` raises.
        """
        check_output_type(output_type)
        self.tokenizer.check_placed()
        pixels, sizes = native_pixels(images, self.image_size)
        draws = read_masks(masks, sizes)
        rows = self._rows(class_labels, prompts, len(pixels))
        seeds = self._seeds(rows, seeds, settings)
        fit = self._fit(batch_size, memory_budget, settings)
        known = self.known(pixels, draws, fit.size)
        edited, ids = gathered(self._batches(rows, seeds, fit, known, settings))
        if paste:
            edited = paste_kept(edited, pixels, draws)
        labels, texts = asked(rows)
        return GeneratorOutput(packed(edited, output_type), ids, labels, seeds, texts)

    @torch.no_grad()
    def known(self, images: Any, masks: Any, batch_size: int | None = None) -> Known:
        """The tokens that masks keep of images, for ``stream``, ``batches`` and ``sample``.

        Takes what ``edit`` takes; docs/editing.md has the rule.

        Raises:
            ValueError: an array of another size, a mask of another shape than its image or with
                grey values, not one mask per image, tokens on a line. TypeError, FileNotFoundError.
        """
        self.tokenizer.check_placed()
        pixels, sizes = native_pixels(images, self.image_size)
        draws = read_masks(masks, sizes)
        size = self.plan() if batch_size is None else check_batch_size(batch_size)
        return known_tokens(self._encoded(pixels, size), draws, self.tokenizer.slots)

    def outpaint(
        self,
        images: Any,
        class_labels: Labels = None,
        *,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        prompts: Prompts = None,
        seeds: Seeds = None,
        paste: bool = False,
        batch_size: int | None = None,
        memory_budget: float | int | None = None,
        output_type: str = "pil",
        **settings: Any,
    ) -> GeneratorOutput:
        """Draws what lies around each image, on a canvas larger than the model's.

        A window of the model's size slides outwards by half of its side; the tokens that it finds
        are given (sampling/windows.py). Every window is asked for the image's label or prompt.

        Args:
            images: as in ``edit``.
            class_labels, prompts: one per image or one for all; neither is "no class", no prompt.
            left, right, top, bottom: pixels to add; multiples of a token's side.
            seeds: as in ``__call__``; each window draws from a stream that follows from the seed.
            paste, batch_size, memory_budget, output_type, settings: as in ``edit``.

        Returns:
            Images of the canvas' size; its ids row by row, (n, rows * columns).

        Raises:
            ValueError: no margin, or no multiple; a model with several token maps or with tokens
                that have no place; a margin that its order draws before it sees the image; and as
                ``edit``.
        """
        check_output_type(output_type)
        slide = self._slide(left=left, right=right, top=top, bottom=bottom)
        slide.check(self.order(**self.settings.updated(settings).order_options))
        pixels, _ = native_pixels(images, self.image_size)
        rows = self._rows(class_labels, prompts, len(pixels))
        seeds = self._seeds(rows, seeds, settings)
        fit = self._fit(batch_size, memory_budget, settings)
        check_batch_size(fit.size, len(seeds), self._shared(settings))
        cells = slide.blank(self._encoded(pixels, fit.size))
        for number, place in enumerate(slide.places):
            known, streams = slide.known(cells, place), window_seeds(seeds, number)
            slide.put(cells, place, self._drawn(rows, streams, fit, known, settings))
        made = self._pictures(cells, fit.size)
        if paste:
            made[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels
        labels, texts = asked(rows)
        ids = cells.flatten(1).cpu()
        return GeneratorOutput(packed(made, output_type), ids, labels, seeds, texts)

    def _slide(self, **margins: int) -> Slide:
        """Where windows go; errors as in ``outpaint``."""
        self.tokenizer.check_placed()
        slots, factor = self.tokenizer.slots, self.tokenizer.config.downsample_factor
        if slots.num_scales > 1:
            raise ValueError(
                f"got a model of {slots.num_scales} token maps; the coarse ones cover the whole "
                "image, so no window of given tokens can slide over it: use edit with a mask, or a "
                "model of one token map"
            )
        for name, pixels in margins.items():
            if pixels < 0 or pixels % factor:
                raise ValueError(
                    f"got {name} {pixels}; expected a multiple of {factor} pixels, the side of a "
                    "token"
                )
        if not any(margins.values()):
            raise ValueError("got no margin; give left, right, top or bottom in pixels")
        cells = {name: pixels // factor for name, pixels in margins.items()}
        return Slide.around(slots.grids[-1], **cells)

    def _rows(self, class_labels: Labels, prompts: Prompts, count: int) -> Rows:
        """What each of ``count`` images is asked for; nothing where nothing is said."""
        if class_labels is None and prompts is None:
            return rows_for(self.conditions.nothing(), count)
        return rows_for(self.conditions.read(class_labels, prompts, self.class_names), count)

    @torch.no_grad()
    def _encoded(self, pixels: UInt8[np.ndarray, "b h w 3"], size: int) -> Int[Tensor, "b slots"]:
        """Ids, ``size`` images at once."""
        parts = (pixels[i : i + size] for i in range(0, len(pixels), size))
        images = (from_pixels(p).to(self.tokenizer.device, self.tokenizer.dtype) for p in parts)
        return torch.cat([self.tokenizer.encode(batch) for batch in images])

    def _drawn(
        self, rows: Rows, seeds: list[int], fit: Fit, known: Known, settings: dict[str, Any]
    ) -> Int[Tensor, "b slots"]:
        """Ids of a window of every image."""

        def make(part: slice) -> Tensor:
            *_, state = self._states(rows[part], seeds[part], known.part(part), settings)
            return state.ids

        return torch.cat(list(fit.batches(make, len(seeds))))

    @torch.no_grad()
    def _pictures(self, cells: Int[Tensor, "b h w"], size: int) -> UInt8[np.ndarray, "b y x 3"]:
        """Canvases decoded, as many cells at once as ``size`` images have."""
        tokenizer = self.tokenizer.at([cells.shape[1:]])
        count = max(1, size * self.tokenizer.slots.num_slots // cells[0].numel())
        parts = cells.flatten(1).to(tokenizer.device).split(count)
        return np.concatenate([to_pixels(tokenizer.decode(part)) for part in parts])
