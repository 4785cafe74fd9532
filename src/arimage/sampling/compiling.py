"""``compile``: what a generator gains by it, apart from the generator."""

import shutil
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._inductor import config

from arimage.ar.base import Backbone
from arimage.ar.orders.base import Order
from arimage.registry import unknown_name
from arimage.sampling.compiled import Captures, Run
from arimage.sampling.registry import CAPTURES
from arimage.sampling.settings import Settings

G = TypeVar("G", bound="Compilable")
OFF = "off"


class Compilable:
    """Gives a generator ``compile``; ``captures`` is None while it is off."""

    transformer: Backbone
    tokenizer: Any
    captures: Captures | None = None

    def compile(self: G, mode: str | None = None) -> G:
        """Captures each kind of step, and the decoder, when it first comes, and replays it.

        The first call with another batch size, sampler or kind of guidance takes longer; the
        captures of the last four are kept, with their caches. Seeds, labels, scales and schedules
        of guidance do not matter. Ids are those of the plain path up to rounding. With
        ``rng="reference"`` and with ``annealing`` steps stay plain. A guide's steps are captured
        with those of the model.

        Args:
            mode: "graphs", CUDA graphs; "compile", torch.compile, on a CPU too; "off", which frees
                all memory that captures hold. None is "graphs" on CUDA, else "off".
                "trace" is graphs' stand-in for tests on a CPU and makes nothing faster.

        Returns:
            The generator itself. Moving it turns compilation off.

        Raises:
            KeyError: an unknown mode. ValueError: "graphs" without CUDA; "compile" on a CPU without
                a C++ compiler.
        """
        device = self.transformer.device
        if mode is None:
            mode = "graphs" if device.type == "cuda" else OFF
        check_mode(mode, device)
        made = None if mode == OFF else Captures(CAPTURES[mode](device))
        if self.captures is not None:
            self.captures.free()
        self.captures = made
        if device.type == "cuda":  # else every convolution would reorder its weights again
            layout = torch.contiguous_format if made is None else torch.channels_last
            self.tokenizer.decoder.to(memory_format=layout)
        return self

    @property
    def held_bytes(self) -> int:
        """Memory of the caches that captures keep."""
        return 0 if self.captures is None else self.captures.size

    def captured_run(self, settings: Settings, order: Order) -> Run | None:
        """What makes the steps of one call; None where they are plain.

        Raises:
            ValueError: an order whose steps depend on what is drawn.
        """
        if self.captures is None:
            return None
        if not order.known_steps:
            raise ValueError(
                f"the steps of {type(order).__name__} depend on what is drawn, so they cannot be "
                "captured; use compile('off'), or the order 'raster', whose images are the same"
            )
        if settings.rng != "per_image" or settings.annealing is not None:
            reason = f"rng={settings.rng!r} draws on the device in an order that cannot be captured"
            if settings.annealing is not None:
                reason = "annealing makes another context at every step, which cannot be captured"
            warnings.warn(f"{reason}; these images are made without compilation", stacklevel=3)
            return None
        return self.captures.run()

    def captured_order(self, make: Callable[..., Order], options: dict[str, Any]) -> Order:
        """``make(tokenizer, transformer, **options)``, made once while compiled."""
        parts = self.tokenizer, self.transformer
        if self.captures is None:
            return make(*parts, **options)
        where = self.transformer.device, self.transformer.config.order
        key = (*map(id, parts), *where, *sorted(options.items()))
        return self.captures.order(key, lambda: make(*parts, **options))

    def decode_canvas(self, canvas: Tensor) -> Tensor:
        """The tokenizer's ``decode_canvas``, captured where compilation is on."""
        decode = self.tokenizer.decode_canvas
        if self.captures is None or not self.captures.capture.whole:
            return decode(canvas)
        return self.captures.decode(self.tokenizer, decode, canvas)


def check_mode(mode: str, device: torch.device) -> None:
    """Raises what ``Compilable.compile`` says."""
    if mode != OFF and mode not in CAPTURES:
        raise KeyError(unknown_name("compile mode", mode, [OFF, *CAPTURES]))
    if mode == "graphs" and device.type != "cuda":
        raise ValueError(
            f"compile mode 'graphs' needs CUDA and the models are on {device}; move them with "
            "to('cuda'), or use 'compile' or 'off'"
        )
    if mode == "compile" and device.type == "cpu":
        names = [name for name in config.cpp.cxx if name]
        if not any(shutil.which(name) for name in names):
            raise ValueError(
                f"compile mode 'compile' needs a C++ compiler on a CPU and there is no "
                f"{' or '.join(names)}; install one or name another in CXX, or use 'off'"
            )
