"""Tensors that follow from weights: made once while these cannot change, never saved."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Derived(nn.Module):
    """Holds one tensor for a model in eval mode without gradients.

    A child of that model, so that ``train``, ``to`` and ``load_state_dict`` reach it and drop the
    tensor; a source that was changed in place is noticed by torch's version counter.
    """

    def __init__(self) -> None:
        super().__init__()
        self._forget()

    def get(self, make: Callable[[], Tensor], *sources: Tensor) -> Tensor:
        """``make()``, or what it gave before; ``sources`` are what it reads."""
        if self.training or torch.is_grad_enabled():
            return make()
        versions = [None if t.is_inference() else t._version for t in sources]
        if self._value is None or versions != self._versions:
            self._value, self._versions = make(), versions
        return self._value

    def _forget(self) -> None:
        self._value: Tensor | None = None
        self._versions: list[int | None] = []

    def train(self, mode: bool = True) -> "Derived":
        """As every module's."""
        self._forget()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> "Derived":
        self._forget()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)
