"""Registers every tokenizer and transformer with transformers' Auto classes (import this module)."""

from transformers import AutoConfig, AutoModel

from arimage.ar.registry import MODELS
from arimage.pretrained import ArimageModel
from arimage.tokenizers.registry import TOKENIZERS

PREFIX = "arimage_"  # model_type of the family registered as "var" is "arimage_var"


def family(model_type: str) -> type[ArimageModel]:
    """The class behind a config's ``model_type``.

    Raises:
        KeyError: an unknown type, with the nearest known names.
    """
    name = model_type.removeprefix(PREFIX)
    return TOKENIZERS[name] if name in TOKENIZERS else MODELS[name]


def register() -> None:
    """Makes ``AutoModel.from_pretrained`` load our folders."""
    for registry in (TOKENIZERS, MODELS):
        for name in registry:
            cls = registry[name]
            AutoConfig.register(f"{PREFIX}{name}", cls.config_class, exist_ok=True)
            AutoModel.register(cls.config_class, cls, exist_ok=True)


register()
