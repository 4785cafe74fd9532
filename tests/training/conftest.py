"""Tiny passes of a tokenizer and tiny vision models for the losses."""

import pytest
import torch
from tiny import make_images, make_tokenizer
from transformers import Dinov2Config, Dinov2Model

from arimage.training.losses.base import Seen


@pytest.fixture(scope="session")
def pass_of():
    """A training pass of a tiny tokenizer, with gradients, as a loss sees it."""

    def build(name="vq", quantizer="vq_learned", count=4, seed=0):
        torch.manual_seed(0)
        tokenizer = make_tokenizer(name, quantizer).train()
        images = make_images(tokenizer, count, seed=3)
        latents = tokenizer.encode_latents(images)
        encoding = tokenizer.quantize(latents)
        output = tokenizer.decode_canvas(encoding.codes)
        return Seen(tokenizer, images, output, latents, encoding, seed)

    return build


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory):
    """A Dinov2Model with random weights that all matter."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "mlp_ratio": 2}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Dinov2Model(Dinov2Config(**sizes, patch_size=14, image_size=518)).eval()
        for name, parameter in model.named_parameters():
            mean = 1.0 if "lambda" in name or "norm" in name else 0.0
            torch.nn.init.normal_(parameter, mean, 0.3)
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    return str(folder)
