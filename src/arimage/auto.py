"""Importing this module registers every tokenizer and transformer with transformers' Auto."""

from transformers import AutoConfig, AutoModel

from arimage.ar.registry import MODELS
from arimage.tokenizers.registry import TOKENIZERS

PREFIX = "arimage_"  # model_type of the family registered as "var" is "arimage_var"


def register() -> None:
    """Makes ``AutoModel.from_pretrained`` load our folders."""
    for registry in (TOKENIZERS, MODELS):
        for name in registry:
            cls = registry[name]
            AutoConfig.register(f"{PREFIX}{name}", cls.config_class, exist_ok=True)
            AutoModel.register(cls.config_class, cls, exist_ok=True)


register()
