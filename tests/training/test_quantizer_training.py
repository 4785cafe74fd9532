"""Every quantizer trains for 120 steps on photographs without collapse, some in several maps."""

import pytest
import torch

from arimage.demo.photographs import halves, random_crops
from arimage.eval.codebook import CodeCounter
from arimage.images import from_pixels
from arimage.tokenizers.registry import TOKENIZERS
from arimage.training.common import Recipe
from arimage.training.tokenizer_trainer import decode_all, encode_all, train_tokenizer

pytestmark = pytest.mark.untyped

SIZE, CODES = 8, 64
FIELDS = {
    "image_size": SIZE,
    "downsample_factor": 2,
    "channels": 16,
    "channel_multipliers": [1, 1],
    "latent_channels": 16,
    "norm_groups": 8,
    "vocab_size": CODES,
    "code_dim": 8,
}
KINDS = {
    "vq_ema": {},
    "vq_cosine": {},
    "vq_rotation": {},
    "vq_learned": {},
    "vq_learned_cosine": {},
    "simvq": {},
    "lfq": {"code_dim": 6},
    "bsq": {"code_dim": 6},
    "fsq": {"code_dim": 3, "levels": [4, 4, 4]},
    "residual_vq": {"depth": 2},
}
SCALES = {"vq": {}, "multiscale_vq": {"scales": [1, 2, 4]}}
# One of each kind in both: averaged, learned, of signs, of residuals.
BOTH = ("vq_ema", "simvq", "lfq", "residual_vq")
CASES = [*((name, "vq") for name in KINDS), *((name, "multiscale_vq") for name in BOTH)]
RECIPE = Recipe(steps=120, batch_size=16, learning_rate=6e-3, betas=(0.9, 0.99), progress=False)


@pytest.fixture(scope="module")
def pixels():
    """Crops to train on, and crops of other photographs."""
    first, second = halves()
    sets = (first.train, 400), (second.test, 192)
    return [random_crops(names, SIZE, count, seed=0) for names, count in sets]


def error(tokenizer, ids, pixels):
    return (decode_all(tokenizer, ids) - from_pixels(pixels)).square().mean().item()


@pytest.mark.parametrize(("name", "family"), CASES)
def test_no_codebook_collapses(name, family, pixels):
    train, other = pixels
    cls = TOKENIZERS[family]
    torch.manual_seed(0)
    fields = {**FIELDS, **KINDS[name], **SCALES[family], "quantizer": name}
    tokenizer, _ = train_tokenizer(cls(cls.config_class(**fields)), train, RECIPE)
    ids, counter = encode_all(tokenizer, other), CodeCounter(CODES)
    counter.add(ids)
    assert counter.counts.sum() >= 20 * CODES
    assert counter.use.share > 0.5
    assert error(tokenizer, ids, other) < 0.6 * from_pixels(other).var().item()
    assert error(tokenizer, ids.flip(0), other) > 2 * error(tokenizer, ids, other)
