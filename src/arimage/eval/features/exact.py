"""Float32 that is float32: what the devices round away by default is switched off for a while."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


def _switches() -> list[tuple[Any, str, Any]]:
    """Object, attribute, value: what a score must not depend on."""
    backends = torch.backends
    fixed = [(backends.cudnn, "benchmark", False), (backends.cudnn, "deterministic", True)]
    if not hasattr(backends, "fp32_precision"):  # torch before 2.9
        places = (backends.cuda.matmul, backends.cudnn)
        return [*fixed, *((place, "allow_tf32", False) for place in places)]
    places = (
        *(backends.cuda.matmul, backends.cudnn.conv),
        *(backends.mkldnn.matmul, backends.mkldnn.conv),
    )
    return [*fixed, *((place, "fp32_precision", "ieee") for place in places)]


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """No TF32, no bfloat16, no autocast, no gradients, one algorithm; all as it was afterwards.

    TF32 convolutions are cuDNN's default and move features by 1e-3 of their size.
    """
    with ExitStack() as stack:
        for place, name, value in _switches():
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, value)
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.inference_mode())
        yield
