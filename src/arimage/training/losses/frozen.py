"""Networks that a loss or a critic looks through and that are never trained."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from arimage.eval.features.vision import IMAGENET_MEAN, IMAGENET_STD, load_model
from arimage.shapes import Float
from arimage.training.losses.base import exactly

SIDE = 224  # of the images that the classifiers and vision models here were trained on


class Frozen(nn.Module):
    """Holds a network that goes where this module goes, and that is left out of everything else.

    It is in eval mode, in float32 under autocast too, passes gradients to its input and has none.
    It is no sub-module, so state dicts, optimizers and DDP do not see it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._held = (network.eval().requires_grad_(False).float(),)

    @property
    def network(self) -> nn.Module:
        """What is held."""
        return self._held[0]

    def forward(self, *inputs: Tensor, **options: Any) -> Any:
        """What the network gives for float32 inputs."""
        with exactly(inputs[0]):
            return self.network(*(x.float() for x in inputs), **options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        """Follows to another device, never to another dtype."""
        here = next(self.network.parameters()).device
        self.network.to(fn(torch.empty(0, device=here)).device)
        return super()._apply(fn, recurse)


def load_frozen(
    model_class: Any, source: str, *, need: str, instead: str, **options: Any
) -> Frozen:
    """A model of transformers, from a folder or the hub.

    Args:
        model_class: of transformers.
        source: a folder with config.json and weights, or a hub id.
        need: what needs it: "... needs".
        instead: what else can be done: "or ...".

    Raises:
        FileNotFoundError: no such model here and no network.
        ValueError: weights of another kind of model.
    """
    return Frozen(load_model(model_class, source, need=need, instead=instead, **options))


def imagenet_normalised(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Images in [-1, 1] as networks trained on ImageNet take them, in float32."""
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None]
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((images.float() + 1) / 2 - mean) / std
