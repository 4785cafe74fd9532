"""Masked order over bit tokens: groups of an id's bits are masked and chosen apart (2409.16211).

Behaviour of markweberdev/maskbit@5ea3d73 modeling/modules/sampling.py: a token of 14 bits is two
entries of 7, and each is kept or masked on its own.
"""

import dataclasses
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from arimage.ar.base import Step
from arimage.ar.orders.masked import MaskedOrder
from arimage.ar.subtokens import join_open, split_open
from arimage.shapes import Int
from arimage.slots import Fuser


class BitOrder(MaskedOrder):
    """64 steps over ``splits`` entries per slot; ids below zero in the state are partly known.

    Args:
        num_steps, choice_temperature, schedule: as for the masked order.
        splits: entries of a slot.
        size: values of an entry.
    """

    masks = False
    default_steps: ClassVar[int] = 64  # configs/generator/*.yaml of the same repository
    default_choice: ClassVar[float] = 7.8  # maskbit_generator_14bit.yaml there
    teaches_all: ClassVar[bool] = True  # modeling/modules/losses.py MLMLoss there
    counts_in: ClassVar[torch.dtype] = torch.float32  # modeling/modules/masking.py there

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        num_steps: int | None = None,
        choice_temperature: float | int | None = None,
        *,
        schedule: str = "arccos",
        splits: int = 2,
        size: int = 128,
    ) -> None:
        self.splits, self.size = splits, size
        super().__init__(
            fuser, prefix_length, device, num_steps, choice_temperature, schedule=schedule
        )

    @property
    def num_entries(self) -> int:
        """``splits`` for each slot."""
        return self.num_slots * self.splits

    def entries(self, ids: Int[Tensor, "b slots"]) -> Int[Tensor, "b n"]:
        """Slot by slot, the lowest bits first."""
        return split_open(ids, self.splits, self.size).flatten(1)

    def joined(self, entries: Int[Tensor, "b n"]) -> Int[Tensor, "b slots"]:
        """The ids of entries; below zero where one is open."""
        return join_open(entries.unflatten(1, (-1, self.splits)), self.size)

    def full_step(self) -> Step:
        """One position per slot is read and gives the logits of its entries."""
        return self._entry_step

    @cached_property
    def _entry_step(self) -> Step:
        step = super().full_step()
        entries = torch.arange(self.num_entries, device=self.device)
        return dataclasses.replace(step, slots=entries, reads=step.slots + self.prefix_length)
