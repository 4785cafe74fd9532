"""Raster order by guessing ahead: what a pass draws for several tokens, the next one checks.

Every token is drawn with a random number of its own, so it is a function of the tokens before it.
A pass reads guesses of the next tokens and draws all of them anew; a token whose predecessors all
came out as they were guessed is the one that raster decoding draws, and stays. The others are the
next guesses (Jacobi iteration: Song et al. 2021, arXiv 2002.03629; for images Teng et al. 2024,
arXiv 2410.01699, where numbers are drawn anew and a test keeps the distribution). So the images
are raster's, up to rounding, in as many passes or fewer: how many depends on the images.

A batch goes on together, at the pace of its slowest image: one image alone gains most.
"""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from arimage.ar.base import Draw, Known, Noise, State, Step
from arimage.ar.orders.raster import RasterOrder
from arimage.slots import Fuser

WINDOW = 16  # tokens of a pass; of arXiv 2410.01699, section 4


@runtime_checkable
class Rewinding(Protocol):
    """Noise whose last draw can be made again."""

    def give_back(self, count: int) -> None:
        """Takes back the last ``count`` numbers of each image; ValueError where they are gone."""
        ...


@dataclass(frozen=True)
class GuessingState(State):
    """done: tokens of each image that stay; guesses (b, num_slots) of all, those included."""

    done: int = 0
    guesses: Any = None


class JacobiOrder(RasterOrder):
    """At most one pass per token. ``step`` and lessons are raster's; ``next_step`` is a window.

    Args:
        window: tokens that a pass predicts.
    """

    known_steps: ClassVar[bool] = False

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        window: int = WINDOW,
    ) -> None:
        super().__init__(fuser, prefix_length, device)
        self.window = window
        self._windows = lru_cache(None)(self._window)

    def start(self, noise: Noise, known: Known | None = None) -> GuessingState:
        """The state before the first step; given tokens are guessed right."""
        state = super().start(noise, known)
        guesses = torch.zeros_like(state.ids)
        if known is not None:
            guesses = torch.where(known.mask, known.ids, guesses)
        return GuessingState(state.ids, state.canvas, 0, known, guesses=guesses)

    def next_step(self, state: State) -> Step | None:
        """The first token alone, then windows from the first one that may still change."""
        assert isinstance(state, GuessingState)
        if state.done >= self.num_slots:
            return None
        return self._windows(state.done)

    def inputs(self, state: State, step: Step) -> Tensor | None:
        """The last token that stays, then guesses."""
        assert isinstance(state, GuessingState)
        if step.start == 0:
            return None
        return state.guesses[:, step.holds]

    def commit(self, state: State, step: Step, draw: Draw, noise: Noise) -> GuessingState:
        """Keeps the tokens that were drawn from right guesses; gives the others' numbers back."""
        assert isinstance(state, GuessingState)
        assert isinstance(noise, Rewinding)
        ids, slots = draw.ids, step.slots
        if state.known is not None:
            given = state.known.mask[:, slots]
            ids = torch.where(given, state.known.ids[:, slots], ids)
        right = (ids[:, :-1] == state.guesses[:, slots[:-1]]).all(0).long()
        kept = 1 + int(right.cumprod(0).sum())
        noise.give_back(len(slots) - kept)
        guesses = state.guesses.clone()
        guesses[:, slots] = ids
        free = (
            torch.ones_like(guesses, dtype=torch.bool) if state.known is None else ~state.known.mask
        )
        free[:, : int(slots[-1]) + 1] = False
        guesses = torch.where(free, ids[:, -1:], guesses)  # beyond the window, its last token
        part = dataclasses.replace(step, slots=slots[:kept])
        chosen = super().commit(state, part, Draw(ids[:, :kept], draw.log_probs[:, :kept]), noise)
        return dataclasses.replace(chosen, done=state.done + kept, guesses=guesses)

    def _window(self, done: int) -> Step:
        """The pass that predicts the tokens from number ``done`` on."""
        if done == 0:
            return dataclasses.replace(self.step(0), ahead=True)
        stop = min(done + self.window, self.num_slots)
        first, last = self.step(done), self.step(stop - 1)
        places = self.describe()
        return dataclasses.replace(
            first,
            slots=torch.arange(done, stop, device=self.device),
            positions=torch.arange(first.start, last.stop, device=self.device),
            stop=last.stop,
            mask=self._mask(places.part(first.start, last.stop), places.part(0, last.stop)),
            holds=self._held(first.start, last.stop),
            ahead=True,
        )
