"""Fine-tuning: what is kept, what is new, and that new classes are drawn."""

import numpy as np
import pytest
import torch
from tiny import sentence

from arimage import ImageGenerator, evaluate
from arimage.demo.digits import load_digits
from arimage.training.fine_tune import fine_tune, with_classes
from arimage.training.recipes import find_recipe
from arimage.training.tokens import make_tokens
from arimage.zoo import packaged

pytestmark = pytest.mark.untyped


def swapped(digits=(7, 0), names=("zero", "seven")):
    """Train digits of two classes, each under the name of the other."""
    train, _ = load_digits()
    rows = np.flatnonzero(np.isin(train.labels, digits))
    labels = (train.labels[rows] == digits[1]).astype(np.int64)
    return train.pixels[rows], labels, list(names)


def tuned(name, steps, seed=0, **fields):
    generator = ImageGenerator.from_pretrained(name)
    pixels, labels, names = swapped()
    tokens = make_tokens(generator.tokenizer, pixels, labels, class_names=names)
    recipe = find_recipe("small", steps=steps, seed=seed, progress=False, **fields)
    return generator, *fine_tune(generator, tokens, recipe)


@pytest.mark.parametrize("name", packaged())
def test_everything_but_the_classes_is_equal_at_step_zero(name):
    old = ImageGenerator.from_pretrained(name).transformer
    new = with_classes(old, 2, seed=0)
    assert new.config.num_classes == 2
    before, after = old.state_dict(), new.state_dict()
    assert list(before) == list(after)
    changed = [
        key for key in before if not torch.equal(before[key], after[key][: len(before[key])])
    ]
    assert changed == ["class_embedding.weight"]
    rows = after["class_embedding.weight"]
    assert rows.shape[0] == 3
    assert torch.equal(rows[2], before["class_embedding.weight"][10])
    for row in rows[:2]:
        assert not (before["class_embedding.weight"] == row).all(1).any()
    again = with_classes(old, 2, seed=0).state_dict()["class_embedding.weight"]
    other = with_classes(old, 2, seed=1).state_dict()["class_embedding.weight"]
    assert torch.equal(rows, again)
    assert not torch.equal(rows[:2], other[:2])


def test_half_precision_weights_are_tuned_in_float32():
    old = ImageGenerator.from_pretrained("digits-var", dtype=torch.bfloat16).transformer
    new = with_classes(old, 12, seed=0)
    assert {p.dtype for p in new.parameters()} == {torch.float32}
    assert torch.equal(new.output.weight, old.output.weight.float())
    assert torch.equal(new.class_embedding.weight[12], old.class_embedding.weight[10].float())


def test_two_classes_with_swapped_names_are_drawn():
    generator, new, history = tuned("digits-var", 40, ema_decay=None)
    assert np.mean(history.losses[-5:]) < 0.8 * history.losses[0]
    assert new.class_names == ["zero", "seven"]
    assert new.settings == generator.settings
    images = new(["zero"] * 20 + ["seven"] * 20, seeds=0, output_type="pixels").images
    call = {"metrics": ["accuracy"], "features": "digits"}
    drawn = evaluate(images, labels=[7] * 20 + [0] * 20, **call)
    named = evaluate(images, labels=[0] * 20 + [7] * 20, **call)
    assert drawn["accuracy"].value >= 0.9
    assert named["accuracy"].value <= 0.1


def test_a_repeat_is_bit_identical_and_the_first_model_stays():
    generator, new, history = tuned("digits-llamagen", 3)
    _, again, record = tuned("digits-llamagen", 3)
    assert record.losses == history.losses
    for a, b in zip(new.transformer.parameters(), again.transformer.parameters(), strict=True):
        assert torch.equal(a, b)
    untouched = ImageGenerator.from_pretrained("digits-llamagen")
    for part in ("tokenizer", "transformer"):
        left, right = getattr(generator, part).state_dict(), getattr(untouched, part).state_dict()
        assert all(torch.equal(left[key], right[key]) for key in right)
    for a, b in zip(new.tokenizer.parameters(), untouched.tokenizer.parameters(), strict=True):
        assert torch.equal(a, b)
    assert tuned("digits-llamagen", 3, seed=1)[2].losses != history.losses


def test_tokens_of_another_tokenizer_are_refused():
    pixels, labels, names = swapped()
    other = ImageGenerator.from_pretrained("digits-llamagen").tokenizer
    tokens = make_tokens(other, pixels[:4], labels[:4], class_names=names)
    with pytest.raises(ValueError, match="made by the tokenizer") as caught:
        fine_tune(ImageGenerator.from_pretrained("digits-var"), tokens, find_recipe("small"))
    sentence(caught)
