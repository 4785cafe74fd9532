"""Random order in groups (ARPG, arXiv 2503.10568).

Behaviour of hp-l33/ARPG@1a1758c models/arpg.py: queries see tokens alone, not each other. In
decoding the tokens of a group see each other; in training each sees only those before it in the
path, which is decoding in groups of one.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from arimage.ar.base import Noise, Step
from arimage.ar.block_mask import make_block_mask
from arimage.ar.orders.base import check_steps
from arimage.ar.orders.grouped import GroupedOrder
from arimage.registry import unknown_name
from arimage.shapes import Int
from arimage.slots import Fuser

NUM_STEPS = 64  # hp-l33/ARPG@1a1758c models/arpg.py generate, for 256 slots

# Share of the slots that are open after step i of n. In the order of operations of the same file:
# one digit more or less in the last place is one token more or less in a group.
OPEN: dict[str, Callable[[int, int], float]] = {
    "arccos": lambda i, n: math.acos(i / n) / (math.pi * 0.5),
    "cosine": lambda i, n: math.cos(math.pi / 2 * i / n),
}


def group_sizes(num_slots: int, num_steps: int, schedule: str = "arccos") -> list[int]:
    """Tokens of each step: what the schedule says, but at least one, and the rest at the last step.

    Raises:
        ValueError: more steps than slots, or none. KeyError: an unknown schedule.
    """
    if schedule not in OPEN:
        raise KeyError(unknown_name("schedule", schedule, OPEN))
    check_steps(num_steps, num_slots)
    sizes, left = [], num_slots
    for step in range(1, num_steps):
        after = max(1, min(left - 1, int(num_slots * OPEN[schedule](step, num_steps))))
        sizes.append(left - after)
        left = after
    return [*sizes, left]


class RandomGroupsOrder(GroupedOrder):
    """64 steps for 256 slots, along a random path.

    Args:
        path, num_steps, sizes: as for every order of groups; 64 steps, or one per slot where there
            are fewer.
        schedule: "arccos" or "cosine", which sets the sizes of groups.
    """

    def __init__(
        self,
        fuser: Fuser,
        prefix_length: int,
        device: torch.device | str,
        path: Tensor | None = None,
        num_steps: int | None = None,
        sizes: Sequence[int] | None = None,
        schedule: str = "arccos",
    ) -> None:
        self.schedule = schedule
        super().__init__(fuser, prefix_length, device, path, num_steps, sizes)

    def choose_sizes(self, num_slots: int, num_steps: int | None) -> list[int]:
        """As the schedule says."""
        steps = min(NUM_STEPS, num_slots) if num_steps is None else num_steps
        return group_sizes(num_slots, steps, self.schedule)

    def draw_paths(self, noise: Noise) -> Int[Tensor, "b slots"]:
        """Each image's own; one for all where published code draws one."""
        return noise.permutations(self.num_slots, shared=True)

    @cached_property
    def _full_step(self) -> Step:
        return self._full([1] * self.num_slots)

    @cached_property
    def block_mask(self) -> BlockMask | None:
        """The training rule of tokens, and of queries: both are causal over tokens."""
        tokens = self.length - 1
        rule = self._full_step.mask
        assert isinstance(rule, Tensor)
        return make_block_mask(rule[:tokens, :tokens])
