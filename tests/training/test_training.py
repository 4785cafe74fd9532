"""Both trainers learn, repeat exactly, and refuse what does not fit."""

import numpy as np
import pytest
import torch
from tiny import sentence, stripes

from arimage.ar.parts import cross_entropy
from arimage.generator import make_order
from arimage.training.ar_trainer import mean_of, train_transformer
from arimage.training.augment import Jitter, jitter_images, with_jittered_copies
from arimage.training.common import Loss, Recipe
from arimage.training.data import load_folder
from arimage.training.fit import fit, index_batches
from arimage.training.generator_trainer import train_generator, train_on_tokens
from arimage.training.recipes import find_recipe
from arimage.training.small import SMALL_ORDERS, scales_to, small_tokenizer, small_transformer
from arimage.training.tokenizer_trainer import encode_all, train_tokenizer
from arimage.training.tokens import make_tokens
from arimage.training.transformer_recipe import TransformerRecipe

pytestmark = pytest.mark.untyped


def train(order, seed, tokenizer_steps, transformer_steps):
    steps = {"tokenizer_steps": tokenizer_steps, "transformer_steps": transformer_steps}
    return train_generator(*stripes(), order=order, seed=seed, progress=False, **steps)


@pytest.mark.parametrize("order", [o for o in SMALL_ORDERS if o != "within_scale"])  # as next_scale
def test_losses_fall(order):
    generator, histories = train(order, 0, 30, 40)
    for history in histories:
        assert np.mean(history.losses[-5:]) < 0.8 * np.mean(history.losses[:5])
    assert generator([0, 1], seeds=[0, 1]).ids.shape[0] == 2


@pytest.mark.parametrize("order", ["next_scale", "raster", "masked", "random"])
def test_a_repeat_is_bit_identical(order):
    generator, (_, second) = train(order, 0, 5, 8)
    again, (_, repeated) = train(order, 0, 5, 8)
    assert repeated.losses == second.losses
    for a, b in zip(
        generator.transformer.parameters(), again.transformer.parameters(), strict=True
    ):
        assert torch.equal(a, b)
    assert train(order, 1, 5, 8)[1][1].losses != second.losses


@pytest.mark.parametrize("family", ["llama", "rar"])
def test_a_recipe_names_the_family_and_its_order_is_raster(family):
    pixels, labels = stripes()
    recipe = find_recipe({"llama": "llamagen"}.get(family, family), steps=3, progress=False)
    tokenizer = small_tokenizer("raster", 16, 0)
    tokens = make_tokens(tokenizer, pixels, labels)
    generator, _ = train_on_tokens(tokenizer, tokens, recipe)
    config = generator.transformer.config
    assert (config.model_type, config.order) == (f"arimage_{family}", "raster")


def test_progress_and_what_is_watched():
    seen, watched = [], []
    model = torch.nn.Linear(1, 1)

    def loss_of(model, batch):
        assert model.training
        seen.append(batch.progress)
        return Loss(model.weight.square().sum())

    def watch(step, averaged):
        watched.append((step, averaged.weight.item(), averaged is model))
        averaged.eval()

    fit("toy", model, loss_of, 4, Recipe(steps=4, progress=False), watch)
    assert seen == [0, 0.25, 0.5, 0.75]
    assert [(step, same) for step, _, same in watched] == [(i, True) for i in (1, 2, 3, 4)]
    recipe = Recipe(steps=4, ema_decay=0.5, progress=False)
    result, _ = fit("toy", model, loss_of, 4, recipe, watch)
    assert watched[-1] == (4, result.weight.item(), False)


@pytest.fixture
def rar_setting():
    """A small RAR with its order and the tokens of stripes."""
    pixels, labels = stripes()
    tokenizer = small_tokenizer("raster", 16, 0)
    model = small_transformer("raster", tokenizer, 2, 0, "rar")
    return model, make_order(tokenizer, model), encode_all(tokenizer, pixels), labels


def test_orders_are_random_at_first_and_the_models_own_at_the_end(rar_setting):
    model, order, ids, labels = rar_setting
    model.config.dropout = 0.0
    shares = []

    def note(module, arguments):
        slots = arguments[2].slots
        shares.append((slots != torch.arange(4)).any(1).float().mean().item())

    model.register_forward_pre_hook(note)
    recipe = find_recipe("rar", steps=16, batch_size=64, progress=False)
    train_transformer(model, order, ids, labels, recipe)
    expected = [recipe.random_share(i / 16) * 23 / 24 for i in range(16)]  # 1 of 4! is raster
    assert shares == pytest.approx(expected, abs=0.2)
    assert not any(shares[12:])
    assert min(shares[:8]) > 0.8


def test_without_annealing_there_are_no_random_orders(rar_setting):
    model, order, ids, labels = rar_setting
    slots = []
    model.register_forward_pre_hook(lambda module, arguments: slots.append(arguments[2].slots))
    recipe = find_recipe("rar", ["anneal_start=0", "anneal_end=0"], steps=2, progress=False)
    train_transformer(model, order, ids, labels, recipe)
    assert all(torch.equal(row, torch.arange(4)) for row in slots)


def test_random_orders_are_refused_by_models_that_know_none():
    pixels, labels = stripes(8)
    tokenizer = small_tokenizer("raster", 16, 0)
    transformer = small_transformer("raster", tokenizer, 2, 0)
    ids, recipe = encode_all(tokenizer, pixels), find_recipe("rar", steps=1, progress=False)
    with pytest.raises(ValueError) as caught:
        train_transformer(transformer, make_order(tokenizer, transformer), ids, labels, recipe)
    assert "teaches random orders and LlamaModel knows raster, masked" in sentence(caught)


def test_an_order_that_the_family_of_a_recipe_does_not_know_is_told():
    pixels, labels = stripes(8)
    for order in ("masked", "next_scale"):
        with pytest.raises(ValueError) as caught:
            train_generator(
                pixels,
                labels,
                order=order,
                tokenizer_steps=1,
                transformer_steps=1,
                recipe=find_recipe("rar"),
            )
        assert f"got order {order!r} for a transformer of the family 'rar'" in sentence(caught)


def test_a_trained_class_is_the_asked_class():
    pixels, labels = stripes(64)
    generator, _ = train_generator(
        pixels,
        labels,
        order="next_scale",
        tokenizer_steps=120,
        transformer_steps=150,
        progress=False,
    )
    images = generator([0] * 10 + [1] * 10, seeds=0, output_type="pixels").images.astype(float)
    down = np.abs(np.diff(images, axis=1)).mean((1, 2, 3))
    across = np.abs(np.diff(images, axis=2)).mean((1, 2, 3))
    assert ((down > across) == np.repeat([False, True], 10)).mean() >= 0.9


def test_index_batches_see_each_image_once_per_epoch():
    batches = index_batches(10, 4, torch.Generator().manual_seed(0))
    seen = torch.cat([next(batches) for _ in range(5)])
    assert seen[:10].sort().values.tolist() == list(range(10))
    assert seen[10:].sort().values.tolist() == list(range(10))
    assert seen[:10].tolist() != list(range(10))


def test_token_loss_counts_only_what_counts():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 1, 2], [3, 4, 0]])
    counts = torch.tensor([[True, False, True], [False, False, True]])
    picked = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    losses = cross_entropy(logits, targets)
    assert mean_of(losses, counts).item() == pytest.approx(picked[counts].mean().item(), rel=1e-6)
    assert mean_of(losses, ~counts).item() != pytest.approx(picked[counts].mean().item(), rel=1e-3)


def test_a_loss_that_is_not_finite_stops_with_its_step():
    model = torch.nn.Linear(1, 1)

    def loss_of(model, batch):
        return Loss(model(torch.full((1, 1), float("nan"))).sum())

    with pytest.raises(FloatingPointError, match="step 1"):
        fit("toy", model, loss_of, 4, Recipe(steps=2, progress=False))


def test_the_average_is_what_is_returned_and_it_lags():
    model = torch.nn.Linear(1, 1)
    start = model.weight.item()

    def loss_of(model, batch):
        return Loss((model.weight - 5).square().sum())

    recipe = Recipe(steps=20, learning_rate=0.1, ema_decay=0.9, progress=False)
    average, _ = fit("toy", model, loss_of, 4, recipe)
    assert abs(start - average.weight.item()) < abs(start - model.weight.item())


def test_labels_and_images_that_do_not_fit_are_told():
    pixels, labels = stripes(8)
    tokenizer = small_tokenizer("raster", 16, 0)
    transformer = small_transformer("raster", tokenizer, 2, 0)
    order, ids = make_order(tokenizer, transformer), encode_all(tokenizer, pixels)
    recipe = Recipe(steps=1, progress=False)
    lessons = TransformerRecipe(steps=1, progress=False)
    with pytest.raises(ValueError, match="7 class labels for 8 images"):
        train_transformer(transformer, order, ids, labels[:7], lessons)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        train_transformer(transformer, order, ids, labels + 1, lessons)
    with pytest.raises(ValueError, match="16 x 16"):
        train_tokenizer(tokenizer, np.zeros((2, 8, 8, 3), np.uint8), recipe)
    with pytest.raises(ValueError, match="at least 1"):
        Recipe(steps=0)
    with pytest.raises(KeyError, match="next_scale"):
        small_tokenizer("next_scal", 16, 0)


def test_scales_follow_var():
    assert scales_to(16) == [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
    assert scales_to(4) == [1, 2, 3, 4]
    assert scales_to(7) == [1, 2, 3, 4, 5, 6, 7]


def test_load_folder_reads_classes_in_sorted_order(tmp_path):
    from PIL import Image

    for name, level in (("b", 10), ("a", 200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (12, 8), (level,) * 3).save(tmp_path / name / "x.png")
    pixels, labels, names = load_folder(tmp_path, 8, progress=False)
    assert names == ["a", "b"]
    assert labels.tolist() == [0, 1]
    assert pixels[:, 0, 0, 0].tolist() == [200, 10]


def test_jitter_is_small_seeded_and_zero_when_asked():
    images = -torch.ones(50, 1, 32, 32)
    images[:, :, 12:20, 12:20] = 1
    jitter = Jitter(rotation=0.25, scale=0.12, shift=0.08)
    moved = jitter_images(images, jitter, torch.Generator().manual_seed(0))
    assert not torch.equal(moved[0], moved[1])
    assert moved[:, :, 15:17, 15:17].min() > 0.9  # a blob in the middle stays in the middle
    assert torch.allclose(moved[:, :, :4], torch.tensor(-1.0), atol=1e-5)
    again = jitter_images(images, jitter, torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)
    still = jitter_images(images, Jitter(0.0, 0.0, 0.0), torch.Generator())
    assert torch.allclose(still, images, atol=1e-5)


def test_jittered_copies_follow_their_labels():
    pixels, labels = stripes(6)
    more, names = with_jittered_copies(pixels, labels, Jitter(0.0, 0.0, 0.0), 2, 0)
    assert np.array_equal(more, np.concatenate([pixels] * 3))
    assert np.array_equal(names, np.concatenate([labels] * 3))
