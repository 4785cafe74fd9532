"""Tiny models for the tests: one entry per registered name, in one place.

Whatever is registered is tested by being registered: a name without an entry here fails, with a
sentence that says so.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_relatives import RELATIVES

from arimage.ar.base import Draw
from arimage.ar.registry import MODELS, ORDERS
from arimage.generator import ImageGenerator
from arimage.sampling.samplers.base import Sampler
from arimage.sampling.settings import Settings
from arimage.slots import SlotTable
from arimage.text import TextFeatures
from arimage.tokenizers.conv import NETWORKS
from arimage.tokenizers.registry import QUANTIZERS, TOKENIZERS


@dataclass(frozen=True)
class TinyModel:
    """Sizes of a transformer, several of them; the first fits ``tokenizer`` with vq_ema."""

    tokenizer: str
    sizes: tuple[dict[str, Any], ...]


TINY_QUANTIZERS = {
    "vq_ema": {"vocab_size": 32, "code_dim": 6},
    "vq_cosine": {"vocab_size": 32, "code_dim": 6},
    "vq_rotation": {"vocab_size": 32, "code_dim": 6},
    "residual_vq": {"vocab_size": 32, "code_dim": 6, "depth": 3},
    "vq_learned": {"vocab_size": 32, "code_dim": 6},
    "vq_learned_cosine": {"vocab_size": 32, "code_dim": 6},
    "gumbel": {"vocab_size": 32, "code_dim": 6},
    "simvq": {"vocab_size": 32, "code_dim": 6},
    "ibq": {"vocab_size": 32, "code_dim": 6},
    "lfq": {"vocab_size": 32, "code_dim": 5},
    "bsq": {"vocab_size": 32, "code_dim": 5},
    "fsq": {"vocab_size": 60, "code_dim": 3, "levels": [3, 4, 5]},
}

CONVOLUTIONS = {
    "image_size": 16,
    "downsample_factor": 4,
    "channels": 8,
    "channel_multipliers": (1, 2, 2),
    "latent_channels": 8,
    "norm_groups": 4,
}
TINY_TOKENIZERS = {
    "vq": CONVOLUTIONS,
    "multiscale_vq": {**CONVOLUTIONS, "scales": (1, 2, 4), "num_phi": 2},
    "flexible_vq": {**CONVOLUTIONS, "scales": (1, 2, 4)},
    "titok": {
        **{"image_size": 16, "downsample_factor": 4, "num_tokens": 12, "encoder_width": 16},
        **{"encoder_heads": 2, "decoder_width": 24, "decoder_layers": 1, "decoder_heads": 3},
    },
}
TINY_NETWORKS = {
    name: {"latent_channels": 6} for name in ("maskgit", "maskbit", "magvit2")
}  # fields of the networks besides "ldm"

SMALL = {"grid": (4, 4), "vocab_size": 32, "depth": 2, "width": 32, "mlp_hidden": 48}
OBLONG = {"grid": (3, 5), "vocab_size": 17, "depth": 1, "width": 24, "num_heads": 2}
DEEP = {"grid": (2, 3), "vocab_size": 9, "depth": 4, "width": 8, "num_heads": 1}
ODD = {"grid": (3, 5), "depth": 1, "num_heads": 2}
LINE = {**SMALL, "grid": (1, 12), "width": 16}
TEXT = {"text_tokens": 7, "text_width": 10}
SCALED = {"scales": (1, 2, 4), "vocab_size": 32, "code_dim": 6, "depth": 2, "width": 32}
SIZES = (SMALL, OBLONG, DEEP)
TINY_MODELS = {
    "llama": TinyModel("vq", SIZES),
    "llama_text": TinyModel("vq", tuple({**size, **TEXT} for size in SIZES)),
    "rar": TinyModel("vq", (SMALL, {**OBLONG, "width": 27, "num_heads": 3}, DEEP)),
    "par": TinyModel(
        "vq", (SMALL, {**OBLONG, "grid": (2, 6)}, {**DEEP, "grid": (3, 6), "regions": 9})
    ),
    "randar": TinyModel("vq", SIZES),
    "ibq": TinyModel("vq", (SMALL, OBLONG)),
    "open_magvit2": TinyModel(
        "vq", (SMALL, {**OBLONG, "vocab_size": 12, "first_part": 4, "inner_depth": 1})
    ),
    "arpg": TinyModel("vq", (SMALL, {**OBLONG, "depth": 4})),
    "lpd": TinyModel("vq", (SMALL, {**OBLONG, "width": 27, "num_heads": 3})),
    "mvar": TinyModel("multiscale_vq", ({**SCALED, "window": 3, "window_from": 2},)),
    "m_var": TinyModel(
        "multiscale_vq", (SCALED, {**SCALED, "depth": 1, "width": 64, "qk_norm": False})
    ),
    "halton": TinyModel("vq", (SMALL, {**ODD, "vocab_size": 17, "width": 23})),
    "titok_vit": TinyModel("titok", (LINE, SIZES[1])),
    "titok_uvit": TinyModel("titok", ({**LINE, "depth": 3}, SIZES[1])),
    "maskbit": TinyModel("vq", ({**SMALL, "splits": 5}, {**ODD, "vocab_size": 64, "width": 24})),
    "var": TinyModel(
        "multiscale_vq",
        (
            SCALED,
            {
                "scales": (1, 2, 3),
                "vocab_size": 17,
                "code_dim": 5,
                "depth": 3,
                "width": 24,
                "num_heads": 3,
                "qk_norm": False,
            },
            {
                "scales": (1, 3, 4, 5),
                "vocab_size": 9,
                "code_dim": 3,
                "depth": 1,
                "width": 16,
                "mlp_ratio": 2.0,
                "shared_adaln": True,
            },
        ),
    ),
}
TINY_MODELS |= {name: TinyModel(*made) for name, made in RELATIVES.items()}
NUM_CLASSES = 3


def softmax64(logits, temperature=1.0, top_k=None, top_p=None):
    """The reference in float64: truncate, renormalise; (v,) to (v,)."""
    values = np.asarray(logits, dtype=np.float64)
    if temperature == 0:
        return np.eye(len(values))[values.argmax()]
    values = values / temperature
    if top_k is not None:
        values = np.where(values >= np.sort(values)[-min(top_k, len(values))], values, -np.inf)
    weights = np.exp(values - values.max())
    weights /= weights.sum()
    if top_p is not None:
        best = np.argsort(-weights, kind="stable")
        count = int((np.cumsum(weights[best]) - weights[best] < top_p).sum())
        weights = np.where(weights >= weights[best[count - 1]], weights, 0)
    return weights / weights.sum()


# Settings of a sampler, and the distribution of its draws as a function of the logits.
TINY_SAMPLERS = {
    "categorical": [
        (options, partial(softmax64, **options))
        for options in (
            {},
            {"temperature": 0.5},
            {"temperature": 2.0},
            {"top_k": 1},
            {"top_k": 3},
            {"top_p": 1e-6},
            {"top_p": 0.6},
            {"top_p": 1.0},
            {"temperature": 1.5, "top_k": 5, "top_p": 0.8},
        )
    ],
    "argmax": [({}, partial(softmax64, temperature=0))],
    "annealed": [({"choice_temperature": 0}, partial(softmax64, temperature=0))],
    "familiar": [({"largest": 400}, softmax64), ({"top_k": 1}, partial(softmax64, top_k=1))],
}

# Options of a schedule, and s at each of 5 steps when the user asks for 3.
TINY_SCHEDULES = {
    "constant": [({}, [3, 3, 3, 3, 3])],
    "linear": [({}, [1, 1.5, 2, 2.5, 3]), ({"last": 2}, [1, 1.5, 2, 1, 1])],
    "power_cosine": [({"power": 2.0}, [1, 1.0078853, 1.1236935, 1.5742207, 2.4257793])],
    "linear_after": [({}, [1.4, 1.8, 2.2, 2.6, 3])],
    "linear_before": [({}, [1, 1.4, 1.8, 2.2, 2.6]), ({"first": 2.0}, [2, 2.2, 2.4, 2.6, 2.8])],
    "linear_by_map": [({}, [1, 1.5, 2, 2.5, 3]), ({"steps": 2, "cells": 256}, [1, 2, 3, 4, 5])],
    "linear_per_token": [({}, [1, 1.4, 1.8, 2.2, 2.6])],
    "interval": [({"first": 1, "last": 3}, [1, 3, 3, 3, 1]), ({"first": 4}, [1, 1, 1, 1, 3])],
    "per_step": [({"shares": [0, 0.5, 1.5, 0.25, 0]}, [1, 2, 4, 1.5, 1])],
}


def entry(kind: str, table: dict[str, Any], name: str) -> Any:
    """The tiny entry of a registered name; the test fails where there is none."""
    if name not in table:
        pytest.fail(f"the registered {kind} {name!r} has no tiny entry; add one to tests/tiny.py")
    return table[name]


REFUSED = {"multiscale_vq": ("gumbel", "ibq"), "flexible_vq": ("residual_vq",)}
TOKENIZER_CASES = [
    *(
        (name, quantizer)
        for name in TOKENIZERS
        for quantizer in QUANTIZERS
        if quantizer not in REFUSED.get(name, ())
    ),
    *((f"vq {network}", "vq_learned") for network in NETWORKS if network != "ldm"),
]
KNOWN = {n: [o for o in MODELS[n].config_class.orders if o != "jacobi"] for n in MODELS}
EVERY_MODEL = [(n, order) for n, orders in KNOWN.items() for order in orders]  # test_jacobi.py
MODEL_CASES = [case for case in EVERY_MODEL if not MODELS[case[0]].takes_text]  # of classes
SIZED_MODEL_CASES = [
    (name, order, size)
    for name, order in EVERY_MODEL
    for size in range(len(TINY_MODELS[name].sizes) if name in TINY_MODELS else 1)
]


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int = 0) -> None:
    """Random weights that all matter: many families start with heads or gates near zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            parameter.add_(0.3 * noise)
        else:
            parameter.copy_(noise * parameter[0].numel() ** -0.5)


def make_quantizer(name: str) -> Any:
    """In eval mode, after one training batch (which starts and updates a codebook)."""
    fields = entry("quantizer", TINY_QUANTIZERS, name)
    quantizer = QUANTIZERS[name](fields["vocab_size"], fields["code_dim"], fields.get("levels"))
    rows = torch.randn(400, fields["code_dim"])
    quantizer.start(rows)
    quantizer.update(rows)
    return quantizer.eval()


@torch.no_grad()
def score_by_distance(quantizer: Any) -> None:
    """The nearest code wins, as after training; random scores use a few codes alone."""
    codes, projection = quantizer.inner["embedding"].weight, quantizer.inner["projection"]
    projection.weight.copy_(2 * codes)
    projection.bias.copy_(-codes.square().sum(-1))


def make_tokenizer(name: str, quantizer: str = "vq_ema") -> Any:
    """In eval mode, with random weights, after one training batch.

    ``name`` is registered; a network other than the first follows a space.
    """
    name, _, network = name.partition(" ")
    fields = {
        **entry("tokenizer", TINY_TOKENIZERS, name),
        **entry("quantizer", TINY_QUANTIZERS, quantizer),
    }
    if network:
        fields |= {"network": network, **entry("network", TINY_NETWORKS, network)}
    cls = TOKENIZERS[name]
    tokenizer = cls(cls.config_class(quantizer=quantizer, **fields))
    fill(tokenizer)
    if quantizer == "gumbel":
        score_by_distance(tokenizer.quantizer)
    images = make_images(tokenizer, 8, seed=1)
    if quantizer == "ibq":
        centre(tokenizer, images)
    train_codebook(tokenizer, images)
    return tokenizer.eval()


@torch.no_grad()
def centre(tokenizer: Any, images: torch.Tensor) -> None:
    """Latents around zero, as after training; elsewhere few codes have the largest products."""
    latents = tokenizer.encode_latents(images)
    tokenizer.pre_quant.bias.sub_(latents.mean((0, 2, 3)))


@torch.no_grad()
def train_codebook(tokenizer: Any, images: torch.Tensor) -> None:
    """What a trainer does beside gradients in its first step."""
    for change in (tokenizer.quantizer.start, tokenizer.quantizer.update):
        change(tokenizer.train()(images)[1].rows.flatten(0, 1))


def make_images(tokenizer: Any, count: int, seed: int = 0) -> torch.Tensor:
    """Smooth random images in [-1, 1] of the tokenizer's size."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 6, 6, generator=generator)
    size = tokenizer.config.image_size
    return F.interpolate(coarse, (size, size), mode="bilinear").tanh()


def make_model(name: str, order: str, size: int = 0) -> Any:
    """In eval mode, with random weights."""
    fields = entry("model", TINY_MODELS, name).sizes[size]
    cls = MODELS[name]
    classes = {} if cls.takes_text else {"num_classes": NUM_CLASSES}
    model = cls(cls.config_class(order=order, **classes, **fields)).eval()
    fill(model)
    return model


def make_condition(model: Any, rows: Any) -> Any:
    """What a model is asked for: labels, or features of text that belong to the numbers in rows."""
    if not model.takes_text:
        return torch.as_tensor(rows)
    tokens, width = model.config.text_tokens, model.config.text_width
    stream = [torch.Generator().manual_seed(100 + int(row)) for row in rows]
    features = torch.stack([torch.randn(tokens, width, generator=g) for g in stream])
    counts = torch.tensor([1 + int(row) * 2 % tokens for row in rows])
    return TextFeatures(features, torch.arange(tokens) < counts[:, None])


def make_generator(name: str, order: str, **settings: Any) -> ImageGenerator:
    """The first size of a model with its tokenizer."""
    tokenizer = make_tokenizer(entry("model", TINY_MODELS, name).tokenizer)
    return ImageGenerator(tokenizer, make_model(name, order), Settings(**settings))


def stripes(count=24, seed=0):
    """Two classes of 16 x 16 images: horizontal and vertical stripes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    wave = np.where(np.arange(16) // 4 % 2, 220, 30)
    across = np.tile(wave, (16, 1))
    images = np.stack([across.T if label else across for label in labels])
    images = images[..., None].repeat(3, -1) + rng.integers(-20, 20, (count, 16, 16, 1))
    return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


class ToyFuser:
    """A fuser over any grids: look-up where there is one, accumulate-and-upsample elsewhere."""

    def __init__(self, grids: tuple[tuple[int, int], ...], vocab_size: int, code_dim: int) -> None:
        self.slots = SlotTable(grids)
        generator = torch.Generator().manual_seed(7)
        self.codebook = torch.randn(vocab_size, code_dim, generator=generator)

    def blank(self, batch):
        return torch.zeros(batch, self.codebook.shape[1], *self.slots.grids[-1])

    def lookup(self, ids):
        return self.codebook[ids]

    def fuse(self, canvas, scale, slots, codes):
        batch, channels, height, width = canvas.shape
        if self.slots.num_scales == 1:
            index = slots.expand(codes.shape[:2]).unsqueeze(1).expand(-1, channels, -1)
            flat = canvas.flatten(2).scatter(2, index, codes.transpose(1, 2))
            return flat.reshape(canvas.shape)
        small = codes.transpose(1, 2).reshape(batch, channels, *self.slots.grids[scale])
        return canvas + F.interpolate(small, (height, width), mode="bilinear")

    def view(self, canvas, scale):
        return F.adaptive_avg_pool2d(canvas, self.slots.grids[scale]).flatten(2).transpose(1, 2)


def make_order(model: Any, **options: Any) -> Any:
    """The model's order over a toy fuser with the model's slots."""
    fuser = ToyFuser(model.slots.grids, model.config.vocab_size, model.code_dim or 4)
    options = model.order_options | options
    return ORDERS[model.config.order](fuser, model.prefix_length, "cpu", **options)


def make_encoder(folder: Any, width: int) -> Any:
    """A folder with a T5 of a dozen words, random weights and features of ``width``."""
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", "a", "corgi", "on", "beach", "red", "cat", "the", "moon"]
    table = {word: i for i, word in enumerate(words)}
    splitter = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    splitter.pre_tokenizer = pre_tokenizers.Whitespace()
    end = ("</s>", table["</s>"])
    splitter.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[end])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=splitter, **marks).save_pretrained(folder)
    sizes = {"d_model": width, "d_kv": 4, "num_heads": 2, "d_ff": 16, "num_layers": 2}
    encoder = T5EncoderModel(T5Config(vocab_size=len(table), **sizes)).eval()
    fill(encoder)
    encoder.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Recorder(Sampler):
    """Keeps logits and slots of every step, and takes the largest logit."""

    logits: list = field(default_factory=list)
    slots: list = field(default_factory=list)

    def __call__(self, logits, step, noise):
        self.logits.append(logits)
        self.slots.append(step.slots.expand(logits.shape[:2]))
        return Draw(logits.argmax(-1), logits.new_zeros(logits.shape[:2]))


def sentence(caught: pytest.ExceptionInfo) -> str:
    """The message of an error, which must be one line that says something."""
    text = str(caught.value.args[0])
    assert "\n" not in text
    assert 20 < len(text) < 500
    return text
