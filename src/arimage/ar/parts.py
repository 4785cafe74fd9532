"""Tokens in parts: a large vocabulary as a product of small ones (arXiv 2409.04410).

With sizes (a, b) a token is the id ``first + a * second``; the first part is chosen first.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.shapes import Float, Int


class InParts(nn.Module):
    """Mix-in of models: a token has one part unless they say otherwise."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the vocabularies that a token is chosen from, one after the other."""
        return (self.num_choices,)

    @property
    def heads(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """For each part, hidden states to logits; affine."""
        return (self.head,)

    def within(
        self, hidden: Float[Tensor, "r n width"], chosen: Sequence[Int[Tensor, "r n"]]
    ) -> Float[Tensor, "r n width"]:
        """Hidden states of the tokens' next part, given the parts ``chosen``."""
        return hidden


def split_ids(ids: Int[Tensor, "*b n"], sizes: Sequence[int]) -> list[Int[Tensor, "*b n"]]:
    """The parts of each token."""
    parts = []
    for size in sizes[:-1]:
        parts.append(ids % size)
        ids = ids // size
    return [*parts, ids]


def join_ids(parts: Sequence[Int[Tensor, "*b n"]], sizes: Sequence[int]) -> Int[Tensor, "*b n"]:
    """The inverse of ``split_ids``."""
    ids = parts[-1]
    for part, size in zip(reversed(parts[:-1]), reversed(sizes[:-1]), strict=True):
        ids = ids * size + part
    return ids


def token_losses(
    model: InParts, hidden: Float[Tensor, "b n width"], targets: Int[Tensor, "b m"]
) -> Float[Tensor, "b m"]:
    """Cross-entropy (nats) of every token: of its parts, each given those before it, together."""
    parts, losses = split_ids(targets, model.parts), []
    for index, (head, target) in enumerate(zip(model.heads, parts, strict=True)):
        losses.append(cross_entropy(head(model.within(hidden, parts[:index])), target))
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)


def cross_entropy(
    logits: Float[Tensor, "b n v"], targets: Int[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    """Of every target, in nats."""
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
