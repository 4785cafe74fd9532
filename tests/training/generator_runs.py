"""Tiny runs of generator training: tokens of random images, recipes of each family."""

from pathlib import Path

import numpy as np
import torch
from tiny import TINY_TOKENIZERS

from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.registry import TOKENIZERS
from arimage.training.generator_recipe import GeneratorRecipe
from arimage.training.generator_run import GeneratorRun, run_generator
from arimage.training.tokens import make_tokens, save_tokens

FAMILIES = {
    "var": ("multiscale_vq", {}),
    "llama": ("vq", {"mlp_hidden": 48}),
    "rar": ("vq", {"mlp_hidden": 48}),
}
NAMES = ["apple", "bread", "cup"]
FIELDS = {
    "steps": 6,
    "batch_size": 4,
    "optimizer": {"learning_rate": 3e-3, "warmup": 0.2, "ema_decay": 0.9},
    "drop_path": 0.05,
    "save_every": 2,
    "sample_every": 4,
    "validate_every": 3,
    "validation": 0.25,
}


def tokenizer_of(name: str, seed: int = 0) -> ImageTokenizer:
    """A tiny untrained one."""
    torch.manual_seed(seed)
    cls = TOKENIZERS[name]
    return cls(cls.config_class(**TINY_TOKENIZERS[name], vocab_size=32, code_dim=6)).eval()


def write_tokens(folder: Path, name: str, count: int = 16, seed: int = 0, tokenizer_seed: int = 0):
    """Tokens of noisy stripes, whose class is their direction."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(NAMES)
    pixels = rng.integers(0, 120, (count, 16, 16, 3))
    pixels[labels == 0, ::4] += 120
    pixels[labels == 1, :, ::4] += 120
    tokenizer = tokenizer_of(name, tokenizer_seed)
    made = make_tokens(tokenizer, pixels.astype(np.uint8), labels, class_names=NAMES)
    save_tokens(folder, made, tokenizer)
    return folder


def recipe(family: str = "var", **fields) -> GeneratorRecipe:
    """The tiny recipe of a family, changed."""
    model = {"family": family, "depth": 2, "width": 32, "num_heads": 2, "dropout": 0.1}
    model |= FAMILIES[family][1]
    if family == "rar":
        fields = {"anneal_start": 0.3, "anneal_end": 0.8, **fields}
    return GeneratorRecipe.of({**FIELDS, "model": model, **fields})


def go(data, out, given=None, **fields):
    """A run without a tracker or a bar."""
    asked = {"tracker": "none", "progress": False, "data": Path(data), "out": Path(out)}
    return run_generator(GeneratorRun(recipe=given or recipe(), **{**asked, **fields}))
