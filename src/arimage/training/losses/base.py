"""What a loss of tokenizer training sees and gives.

Everything that is a mean over the batch is one over all processes too: averaged over processes that
hold equal parts of a batch, value and gradient are those of one process with all of it.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arimage.shapes import Float
from arimage.tokenizers.base import Encoding, ImageTokenizer


@dataclass(frozen=True)
class Seen:
    """One pass of a tokenizer.

    Attributes:
        tokenizer: not wrapped by anything.
        images: (b, 3, h, w) in [-1, 1].
        output: what became of them, (b, 3, h, w), not clamped.
        latents: (b, c, h2, w2) before quantization, with gradient.
        encoding: codes, ids and the quantizer's own loss.
        seed: of this step's draws, equal on all processes.
    """

    tokenizer: ImageTokenizer
    images: Tensor
    output: Tensor
    latents: Tensor
    encoding: Encoding
    seed: int


@dataclass(frozen=True)
class Balance:
    """A weight that is multiplied with a ratio of gradients (``adversarial.adaptive_weight``).

    Attributes:
        parameter: where the gradients are taken.
        limit: of the ratio.
    """

    parameter: nn.Parameter
    limit: float


class TokenizerLoss(nn.Module, ABC):
    """A term of the loss; its keyword arguments are its settings in a recipe.

    Its parameters, if it has any, are trained with the tokenizer; frozen networks inside are no
    parameters (``frozen.Frozen``).
    """

    def prepare(self, tokenizer: ImageTokenizer) -> None:
        """Called once, before optimizers are made: parameters whose size the tokenizer decides.

        Raises:
            ValueError: a tokenizer that this term cannot be had of.
        """

    def balance(self, tokenizer: ImageTokenizer) -> Balance | None:
        """Where this term's gradient is compared with the reconstruction's; None: fixed weight."""
        return None

    @abstractmethod
    def forward(self, seen: Seen) -> Float[Tensor, ""]:
        """The unweighted mean over the batch, in float32."""


def precise(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def exactly(tensor: Tensor) -> AbstractContextManager[None]:
    """Switches autocast off where ``tensor`` lives."""
    return torch.autocast(tensor.device.type, enabled=False)
