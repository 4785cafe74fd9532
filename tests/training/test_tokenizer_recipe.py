"""Recipes of tokenizers: names, files, changes, and what is wrong with them."""

import pytest
from tiny import sentence

from arimage.training.schedules import Cosine
from arimage.training.tokenizer_recipe import TokenizerRecipe, read_recipe, recipe_names

SMALL = {
    "steps": 10,
    "batch_size": 4,
    "optimizer": {"learning_rate": 0.1},
    "losses": {"l1": {"weight": 1.0}},
}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_is_read_and_survives_a_round_trip(name):
    recipe = read_recipe(name)
    assert TokenizerRecipe.of(recipe.to_dict()) == recipe
    assert recipe.losses["perceptual"]["weight"] > 0
    assert recipe.optimizer.recipe(10, 2, 7).learning_rate == recipe.optimizer.learning_rate


def test_the_names_of_the_issue_are_there():
    named = {"vqgan", "llamagen", "maskbit", "multiscale-vq", "robusttok", "finetune"}
    assert named <= set(recipe_names())


def test_a_name_may_choose_the_downsample_factor():
    assert read_recipe("multiscale-vq-f16") == read_recipe("multiscale-vq")
    fields = read_recipe("multiscale-vq-f8").tokenizer
    assert fields["channel_multipliers"] == [1, 2, 2, 4]


def test_a_file_is_a_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("steps: 3\nbatch_size: 2\noptimizer: {learning_rate: 1.0e-3}\nlosses: {}\n")
    assert read_recipe(path).steps == 3
    for text, message in (
        ("steps: [", "is no YAML"),
        ("7", "expected fields and values"),
        ("steps: 3", "the recipe lacks batch_size, optimizer, losses"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError) as caught:
            read_recipe(path)
        assert message in sentence(caught)
    with pytest.raises(FileNotFoundError):
        read_recipe(tmp_path / "other.yaml")


def test_changes():
    changes = ["steps=7", "losses.l1.weight=2", "losses.perceptual=null", "adversarial=null"]
    recipe = read_recipe("vqgan", [*changes, "optimizer.learning_rate=1e-4", "parts=[decoder]"])
    assert recipe.steps == 7
    assert recipe.losses == {"l1": {"weight": 2}, "codebook": {"weight": 1.0}}
    assert recipe.adversarial is None
    assert recipe.optimizer.learning_rate == 1e-4
    assert list(recipe.parts) == ["decoder"]
    added = read_recipe("llamagen", ["perturbation.alpha=0.3", "perturbation.delta=5"])
    assert (added.perturbation.alpha, added.perturbation.delta) == (0.3, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stepz=3", "unknown recipe field 'stepz'. Did you mean 'steps'?"),
        ("losses.lpips.weight=1", "unknown loss 'lpips'"),
        ("losses.l1.weight.x=1", "'weight' has no fields of its own"),
        ("losses.codebook=3", "the loss 'codebook' has no weight"),
        ("adversarial.critic=patchgam", "Did you mean 'patchgan'"),
        ("adversarial.loss=hing", "Did you mean 'hinge'?"),
        ("optimizer.scedule=cosine", "unknown recipe field of optimizer 'scedule'"),
        ("optimizer.schedule=linear", "expected one of constant, cosine"),
        ("optimizer.warmup=500", "got warmup 500.0; expected a share"),
        ("steps=0", "got steps 0; expected at least 1"),
        ("steps=many", "got 'many' for the recipe field steps; expected int"),
        ("data.flip=often", "got 'often' for the recipe field data.flip; expected float"),
        ("precision=fp8", "expected no, bf16 or fp16"),
        ("optimizer.betas=[0.5]", "got betas [0.5]; expected two numbers"),
        ("adversarial.betas=[0.5, 1.0]", "got betas [0.5, 1.0]; expected two numbers"),
        ("losses.l1.weight=much", "got 'much' for the recipe field losses.l1.weight"),
        ("steps", "write a field and its value"),
    ],
)
def test_what_does_not_fit_is_told(change, message):
    with pytest.raises((KeyError, ValueError)) as caught:
        read_recipe("vqgan", [change])
    assert message in sentence(caught)


def test_an_unknown_recipe_is_told_with_the_nearest():
    with pytest.raises(KeyError) as caught:
        read_recipe("multiscale-vg")
    assert "Did you mean 'multiscale-vq'?" in sentence(caught)


def test_a_start_below_one_is_a_share_of_the_steps():
    fields = {**SMALL, "adversarial": {"start": 0.25}}
    assert TokenizerRecipe.of(fields).adversarial.start_step(100) == 25
    fields = {**SMALL, "adversarial": {"start": 70}}
    assert TokenizerRecipe.of(fields).adversarial.start_step(100) == 70


def test_schedules():
    fields = {"learning_rate": 2.0, "warmup": 0.5, "schedule": "constant"}
    recipe = TokenizerRecipe.of({**SMALL, "optimizer": fields}).optimizer.recipe(10, 2, 0)
    assert [recipe.rate_at(step) for step in (0, 1, 5, 9)] == pytest.approx([0, 0.4, 2, 2])
    fields = {"learning_rate": 2.0, "schedule": "cosine", "final": 0.5}
    recipe = TokenizerRecipe.of({**SMALL, "optimizer": fields}).optimizer.recipe(10, 2, 0)
    assert recipe.schedule == Cosine(warmup=0.0, final=0.5)
    assert recipe.rate_at(5) == pytest.approx(1.5)
