"""Gradient checkpointing: the same outputs and gradients from fewer kept tensors."""

import pytest
import torch
from tiny import make_images, make_tokenizer

from arimage.tokenizers.conv import NETWORKS

NAMES = ("vq", "multiscale_vq", "titok", *(f"vq {name}" for name in NETWORKS if name != "ldm"))


def step(tokenizer):
    """Output, gradients, and bytes of activations that the pass keeps for its gradient."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no place is used twice
        return tensor

    images = make_images(tokenizer, 4)
    tokenizer.zero_grad()
    weights = {p.untyped_storage().data_ptr() for p in tokenizer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output, encoding = tokenizer(images)
    bytes_kept = sum(
        tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights
    )
    ((output - images).square().mean() + encoding.loss).backward()
    gradients = [p.grad.clone() for p in tokenizer.parameters() if p.grad is not None]
    return output.detach(), gradients, bytes_kept


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_equal_and_less_is_kept(name):
    tokenizer = make_tokenizer(name, "vq_learned").train()
    output, gradients, size = step(tokenizer)
    tokenizer.gradient_checkpointing_enable()
    assert tokenizer.encoder.gradient_checkpointing
    assert tokenizer.decoder.gradient_checkpointing
    again, same_gradients, smaller = step(tokenizer)
    assert torch.equal(again, output)
    assert len(same_gradients) == len(gradients) == len(list(tokenizer.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(same_gradients, gradients, strict=True))
    assert smaller < size / 2
    tokenizer.gradient_checkpointing_disable()
    assert not tokenizer.encoder.gradient_checkpointing
    assert step(tokenizer)[2] == size


def test_a_trainer_may_call_it_by_its_newer_name():
    tokenizer = make_tokenizer("vq").train()
    if not hasattr(tokenizer, "activation_checkpointing_enable"):
        pytest.skip("transformers before 5.24")
    tokenizer.activation_checkpointing_enable()
    assert tokenizer.encoder.gradient_checkpointing
    tokenizer.activation_checkpointing_disable()
    assert not tokenizer.encoder.gradient_checkpointing


def test_nothing_is_run_twice_in_eval_mode():
    tokenizer = make_tokenizer("vq")
    size = step(tokenizer)[2]
    tokenizer.gradient_checkpointing_enable()
    assert step(tokenizer)[2] == size
