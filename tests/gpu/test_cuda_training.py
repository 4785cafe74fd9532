"""Losses and gradients on a CUDA device are those of a CPU, and training runs there."""

import copy

import numpy as np
import pytest
import torch
from tiny import MODEL_CASES, TINY_MODELS, make_images, make_model, make_tokenizer

from arimage.ar.parts import token_losses
from arimage.generator import make_order
from arimage.training.ar_trainer import lesson_loss, train_transformer
from arimage.training.transformer_recipe import TransformerRecipe

pytestmark = pytest.mark.gpu


def parts(name, order):
    """A tiny tokenizer, transformer, and the tokens of eight images."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(TINY_MODELS[name].tokenizer, "vq_learned")
    ids = torch.randint(32, (8, tokenizer.slots.num_slots))
    return tokenizer, make_model(name, order), ids


def loss_and_gradients(name, order, device):
    """Of one lesson with the same draws."""
    tokenizer, model, ids = parts(name, order)
    bound = make_order(tokenizer.to(device), model.to(device))
    lesson = bound.lesson(ids.to(device), torch.Generator().manual_seed(5))
    context = model.prepare(torch.arange(8, device=device) % 3)
    hidden = model(lesson.inputs, context, lesson.step)
    total = lesson_loss(token_losses(model, hidden, lesson.targets), lesson, tokenizer.slots).total
    total.backward()
    gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
    return total.item(), gradients


@pytest.mark.parametrize(("name", "order"), MODEL_CASES)
def test_loss_and_gradients_are_those_of_a_cpu(name, order):
    there, here = (loss_and_gradients(name, order, device) for device in ("cuda", "cpu"))
    assert there[0] == pytest.approx(here[0], rel=1e-5)
    assert there[1].keys() == here[1].keys()
    for key, expected in here[1].items():
        size = expected.abs().max().item() + 1e-6
        # Canvases come from convolutions, which cuDNN rounds to TF32 by default.
        torch.testing.assert_close(there[1][key], expected, rtol=0, atol=5e-3 * size, msg=key)


@pytest.mark.parametrize("name", ["llama", "var"])
def test_a_transformer_learns(name):
    tokenizer, model, ids = parts(name, "raster" if name == "llama" else "next_scale")
    order = make_order(tokenizer.cuda(), model.cuda())
    recipe = TransformerRecipe(steps=40, batch_size=8, learning_rate=3e-3, progress=False)
    trained, history = train_transformer(model, order, ids, np.arange(8) % 3, recipe)
    assert next(trained.parameters()).is_cuda
    assert np.mean(history.losses[-5:]) < 0.9 * np.mean(history.losses[:5])


@pytest.mark.parametrize("name", ["vq", "multiscale_vq"])
def test_a_tokenizer_step_is_that_of_a_cpu(name):
    tokenizer = make_tokenizer(name, "vq_learned").train()
    images, other = make_images(tokenizer, 4), copy.deepcopy(tokenizer).cuda()
    losses = []
    for model in (tokenizer, other):
        batch = images.to(model.device)
        made, encoding = model(batch)
        loss = (made - batch).square().mean() + encoding.loss
        loss.backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    for a, b in zip(tokenizer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=0, atol=5e-3)
