"""Tiny runs of tokenizer training: photographs, recipes, weights of frozen networks."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTModel,
)

from arimage.eval.features.vgg import BLOCKS, VGG16
from arimage.training.tokenizer_recipe import TokenizerRecipe, read_recipe
from arimage.training.tokenizer_run import TokenizerRun, run_tokenizer

SIZE = 32
TOKENIZER = {
    "family": "vq",
    "image_size": SIZE,
    "channels": 8,
    "channel_multipliers": [1, 1, 2],
    "num_res_blocks": 1,
    "latent_channels": 8,
    "norm_groups": 4,
    "quantizer": "vq_ema",
    "vocab_size": 32,
    "code_dim": 8,
}
FIELDS = {
    "steps": 6,
    "batch_size": 4,
    "tokenizer": TOKENIZER,
    "optimizer": {"learning_rate": 1e-3, "warmup": 0.2, "gradient_clip": 1.0, "ema_decay": 0.9},
    "losses": {"l1": {"weight": 1.0}, "l2": {"weight": 1.0}, "codebook": {"weight": 1.0}},
    "adversarial": {"start": 2, "weight": 0.1, "lecam": 0.01, "settings": {"channels": 4}},
    "perturbation": {"alpha": 1.0, "delta": 4, "beta": 0.5},
    "data": {"crop": "random", "flip": 0.5},
    "save_every": 2,
    "sample_every": 4,
}


def write_photographs(folder: Path, count: int = 12) -> Path:
    """Small cuts of real photographs, as JPEG files."""
    folder.mkdir(parents=True, exist_ok=True)
    photographs, rng = load_sample_images().images, np.random.default_rng(0)
    for i in range(count):
        y, x = rng.integers(0, 340), rng.integers(0, 560)
        cut = photographs[i % 2][y : y + 60, x : x + 50]
        Image.fromarray(cut).save(folder / f"{i:03d}.jpg", quality=95)
    return folder


def recipe(**fields) -> TokenizerRecipe:
    """The tiny recipe, changed."""
    return TokenizerRecipe.of({**FIELDS, **fields})


def go(data, out, given=None, **fields):
    """A run without a tracker or a bar."""
    asked = {"tracker": "none", "progress": False, "data": str(data), "out": Path(out)}
    return run_tokenizer(TokenizerRun(recipe=given or recipe(), **{**asked, **fields}))


def write_weights(folder: Path) -> dict[str, str]:
    """Random weights of the networks that the named recipes look through, by name."""
    torch.manual_seed(0)
    vgg = VGG16()
    torch.save(vgg.state_dict(), folder / "vgg.pth")
    lin = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, (c, _) in enumerate(BLOCKS)}
    torch.save(lin, folder / "lin.pth")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(**sizes)).save_pretrained(folder / "resnet")
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    vit = ViTModel(ViTConfig(**sizes, intermediate_size=32, patch_size=32), add_pooling_layer=False)
    for parameter in vit.parameters():
        nn.init.normal_(parameter, 0.0, 0.2)
    vit.save_pretrained(folder / "vit")
    return {name: str(folder / name) for name in ("vgg.pth", "lin.pth", "resnet", "vit")}


def named(name: str, weights: dict[str, str], steps: int = 1, batch_size: int = 4):
    """A named recipe on a tiny tokenizer of its kind, its critic from the first step on."""
    whole = read_recipe(name)
    kept = {"channels", "norm_groups", "num_res_blocks", "image_size", "channel_multipliers"}
    small = {**whole.tokenizer, **{k: TOKENIZER[k] for k in kept}} or dict(TOKENIZER)
    if name == "finetune":
        small = dict(TOKENIZER)
    small.pop("downsample_factor", None)
    if whole.tokenizer.get("quantizer") == "lfq":
        small |= {"vocab_size": 32, "code_dim": 5, "latent_channels": 5}
    else:
        small |= {"vocab_size": 32, "code_dim": 8, "latent_channels": 8}
    fields = whole.to_dict() | {"tokenizer": small, "steps": steps, "batch_size": batch_size}
    perceptual = fields["losses"]["perceptual"]
    if perceptual["features"] == "lpips":
        perceptual |= {"vgg": weights["vgg.pth"], "lin": weights["lin.pth"]}
    else:
        perceptual |= {"model": weights["resnet"]}
    adversarial = fields["adversarial"]
    adversarial["start"] = 0
    if adversarial["critic"] == "frozen_features":
        adversarial["settings"] = {"model": weights["vit"], "kernel": 3}
    else:
        channels = 32 if adversarial["critic"] == "patchgan_blur" else 4
        adversarial["settings"] = {"layers": 2, "channels": channels}
    if fields["perturbation"]:
        fields["perturbation"] |= {"delta": 4, "beta": 0.5}
    return TokenizerRecipe.of(fields)
