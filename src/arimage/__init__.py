"""arimage: autoregressive image generation. Public names are imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from arimage.ar.registry import MODELS, ORDERS
    from arimage.eval.registry import FEATURES, METRICS
    from arimage.eval.runner import evaluate
    from arimage.generator import ImageGenerator
    from arimage.outputs import GeneratorOutput, Preview
    from arimage.sampling.registry import SAMPLERS, SCHEDULES
    from arimage.text import TextFeatures
    from arimage.tokenizers.base import ImageTokenizer
    from arimage.tokenizers.registry import QUANTIZERS, TOKENIZERS
    from arimage.zoo import PRESETS

_HOMES = {
    "FEATURES": "arimage.eval.registry",
    "GeneratorOutput": "arimage.outputs",
    "ImageGenerator": "arimage.generator",
    "ImageTokenizer": "arimage.tokenizers.base",
    "METRICS": "arimage.eval.registry",
    "MODELS": "arimage.ar.registry",
    "ORDERS": "arimage.ar.registry",
    "PRESETS": "arimage.zoo",
    "Preview": "arimage.outputs",
    "QUANTIZERS": "arimage.tokenizers.registry",
    "SAMPLERS": "arimage.sampling.registry",
    "SCHEDULES": "arimage.sampling.registry",
    "TOKENIZERS": "arimage.tokenizers.registry",
    "TextFeatures": "arimage.text",
    "evaluate": "arimage.eval.runner",
}

__all__ = [
    "FEATURES",
    "METRICS",
    "MODELS",
    "ORDERS",
    "PRESETS",
    "QUANTIZERS",
    "SAMPLERS",
    "SCHEDULES",
    "TOKENIZERS",
    "GeneratorOutput",
    "ImageGenerator",
    "ImageTokenizer",
    "Preview",
    "TextFeatures",
    "__version__",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'arimage' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
