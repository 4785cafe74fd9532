"""Random order: one token at a time, along a path of its own for each image (RAR, RandAR, ARPG).

A *path* is a permutation of the slots, (b, slots): the slot that is predicted first, second, ...
Steps count places in the path; ``along`` names the slots that are there. The model must be told
them (``Step.slots``, ``Step.holds``), since neither follows from the sequence position any more.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from arimage.ar.base import NO_SLOT, Known, Lesson, Noise, State, Step
from arimage.ar.draws import Draws, uniform
from arimage.ar.orders.base import check_sizes
from arimage.ar.orders.raster import RasterOrder
from arimage.shapes import Int
from arimage.slots import Fuser


class RandomOrder(RasterOrder):
    """Raster's steps and rule, on paths; an image's path is drawn from its seed.

    Given tokens (editing) come first in the path that is drawn, so that all others see them.

    Args:
        path: (slots,) or (b, slots), to give paths instead.

    Raises:
        ValueError: a path that is no permutation of the slots; another number of them than images.
    """

    given_first = True

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        path: Tensor | None = None,
    ) -> None:
        super().__init__(fuser, prefix_length, device)
        if path is not None:
            check_path(path, self.num_slots)
            path = path.to(self.device)
        self.path = path

    def start(self, noise: Noise, known: Known | None = None) -> State:
        """The state before the first step, with the paths."""
        state = super().start(noise, known)
        if self.path is not None:
            return dataclasses.replace(state, path=paths_for(self.path, noise.batch))
        return dataclasses.replace(state, path=with_given_first(self.draw_paths(noise), known))

    def draw_paths(self, noise: Noise) -> Int[Tensor, "b slots"]:
        """A path of each image."""
        return noise.gumbel(self.num_slots).argsort(-1)

    def placed(self, step: Step, state: State) -> Step:
        """Raster's step at the slots of each image's path."""
        return step if state.path is None else along(step, state.path)

    def taught_paths(
        self, ids: Int[Tensor, "b slots"], draws: Draws, share: float
    ) -> Int[Tensor, "b slots"]:
        """A path of each image of a lesson: as given, or drawn."""
        if self.path is None:
            return random_paths(*ids.shape, share, draws).to(ids.device)
        return paths_for(self.path, len(ids))

    def lesson(self, ids: Int[Tensor, "b slots"], draws: Draws, share: float = 1.0) -> Lesson:
        """Raster's lesson on paths: targets stand in the order of ``Lesson.step.slots``.

        Args:
            share: probability that an image has a random path; the others are in raster order.
        """
        path = self.taught_paths(ids, draws, share)
        taught = super().lesson(ids.gather(1, path), draws)
        return dataclasses.replace(taught, step=along(taught.step, path))


class SizedOrder(RandomOrder):
    """Base of random orders whose steps predict several tokens, as many as ``sizes`` say.

    Args:
        path: as for every random order.
        num_steps: how many steps; None for what the models were published with.
        sizes: tokens of each step, to give them instead.

    Raises:
        ValueError: sizes that do not sum to the slots, steps that are none or too many.
    """

    free_steps = True

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        path: Tensor | None = None,
        num_steps: int | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        slots = fuser.slots.num_slots
        self.sizes = list(self.choose_sizes(slots, num_steps) if sizes is None else sizes)
        check_sizes(self.sizes, slots)
        super().__init__(fuser, prefix_length, device, path)

    @abstractmethod
    def choose_sizes(self, num_slots: int, num_steps: int | None) -> list[int]:
        """Tokens of each step."""

    def groups(self) -> list[tuple[int, int]]:
        """Places in the path."""
        return list(pairwise((0, *accumulate(self.sizes))))


def with_given_first(path: Int[Tensor, "b slots"], known: Known | None) -> Int[Tensor, "b slots"]:
    """The path with the slots of given tokens first; both parts stay as they were."""
    if known is None:
        return path
    drawn = ~known.mask.gather(1, path)
    return path.gather(1, drawn.to(torch.uint8).argsort(dim=1, stable=True))


def along(step: Step, path: Int[Tensor, "b slots"]) -> Step:
    """``step`` with places in the path replaced by the slots that are there."""
    held = path[:, step.holds.clamp_min(0)].masked_fill(step.holds == NO_SLOT, NO_SLOT)
    return dataclasses.replace(step, slots=path[:, step.slots], holds=held)


def random_paths(batch: int, num_slots: int, share: float, draws: Draws) -> Int[Tensor, "b slots"]:
    """Paths, each random with probability ``share`` and raster otherwise."""
    drawn = uniform(draws, batch, num_slots).argsort(1)
    chosen = uniform(draws, batch, 1) < share
    return torch.where(chosen, drawn, torch.arange(num_slots))


def paths_for(path: Tensor, batch: int) -> Int[Tensor, "b slots"]:
    """One path per image: as given, or the one given for all.

    Raises:
        ValueError: another number of paths than images.
    """
    if path.ndim == 2 and len(path) not in (1, batch):
        raise ValueError(
            f"got {len(path)} paths for {batch} images; give one per image or one for all"
        )
    return path.expand(batch, -1)


def check_path(path: Tensor, num_slots: int) -> None:
    """Raises ValueError unless every row of ``path`` has every slot once."""
    slots = torch.arange(num_slots, device=path.device)
    if path.shape[-1] != num_slots or not bool((path.sort(-1).values == slots).all()):
        raise ValueError(
            f"got a path of shape {tuple(path.shape)} that is no permutation of the {num_slots} "
            "slots; give every slot from 0 on once per image"
        )
