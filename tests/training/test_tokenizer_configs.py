"""Recipe files of tokenizers say what the rest of the package can do, in plain values."""

import inspect
from pathlib import Path

import pytest
import yaml

import arimage.training.losses.registry as registry
from arimage.tokenizers.registry import TOKENIZERS
from arimage.training.crops import CROPS
from arimage.training.losses.adversarial import check_kind
from arimage.training.losses.perturbation import PerturbationSchedule

FOLDER = Path(registry.__file__).parents[1] / "configs" / "tokenizers"
NAMES = ("vqgan", "llamagen", "maskbit", "multiscale-vq", "robusttok")
KEYS = {
    *("paper", "steps", "batch_size", "tokenizer", "optimizer"),
    *("losses", "adversarial", "perturbation", "data"),
}
OPTIMIZER = {
    *("learning_rate", "betas", "weight_decay", "warmup", "schedule", "final"),
    *("gradient_clip", "ema_decay"),
}
ADVERSARIAL = {
    *("critic", "loss", "weight", "adaptive", "start", "lecam"),
    *("learning_rate", "betas", "weight_decay", "settings"),
}


@pytest.fixture(params=NAMES)
def recipe(request):
    return yaml.safe_load((FOLDER / f"{request.param}.yaml").read_text())


def is_plain(value):
    """Numbers are numbers: YAML reads ``1e-4`` as text."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(v) for key, v in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, str):
        return not value[0].isdigit()
    return value is None or isinstance(value, bool | int | float)


def test_the_folder_has_them_all():
    assert {path.stem for path in FOLDER.glob("*")} == {*NAMES, "finetune"}


def test_keys_and_values(recipe):
    assert set(recipe) == KEYS
    assert set(recipe["optimizer"]) == OPTIMIZER
    assert set(recipe["adversarial"]) == ADVERSARIAL
    assert set(recipe["data"]) == {"crop", "flip"}
    assert is_plain(recipe)
    assert recipe["paper"].startswith("arXiv ")
    assert recipe["optimizer"]["schedule"] in ("constant", "cosine")
    assert recipe["data"]["crop"] in CROPS
    assert recipe["data"]["flip"] in (0.0, 0.5)
    for part in (recipe["optimizer"], recipe["adversarial"]):
        assert all(isinstance(part[k], float) for k in ("learning_rate", "weight_decay"))
        assert all(isinstance(beta, float) and 0 < beta < 1 for beta in part["betas"])
    assert 0 <= recipe["optimizer"]["warmup"] < 1
    assert recipe["adversarial"]["start"] < recipe["steps"]


def test_the_tokenizer_can_be_made(recipe):
    fields = dict(recipe["tokenizer"])
    config = TOKENIZERS[fields.pop("family")].config_class(**fields)
    assert config.image_size == 256
    assert config.side == 16


def test_terms_take_their_settings(recipe):
    for name, settings in recipe["losses"].items():
        settings = dict(settings)
        assert isinstance(settings.pop("weight"), float)
        inspect.signature(registry.LOSSES[name]).bind(**settings)
    adversarial = recipe["adversarial"]
    check_kind(adversarial["loss"])
    inspect.signature(registry.CRITICS[adversarial["critic"]]).bind(**adversarial["settings"])
    if recipe["perturbation"]:
        PerturbationSchedule(**recipe["perturbation"])


def test_a_number_that_yaml_reads_as_text_is_seen():
    assert is_plain(yaml.safe_load("{a: 1.0e-4, b: [1, null, true], c: lpips}"))
    assert not is_plain(yaml.safe_load("{a: 1e-4}"))
