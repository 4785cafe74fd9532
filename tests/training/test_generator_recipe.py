"""Recipes of generators: names, files, bases, changes, and what is wrong with them."""

import pytest
import torch
from generator_runs import FIELDS, recipe, tokenizer_of
from tiny import sentence

from arimage.ar.registry import MODELS
from arimage.training.generator_build import new_transformer
from arimage.training.generator_recipe import (
    GeneratorRecipe,
    generator_recipe_names,
    read_generator_recipe,
)
from arimage.training.schedules import Constant, Cosine, FlatThenLinear
from arimage.training.transformer_recipe import RAR_UNDECAYED, UNDECAYED

# Published figures: VAR README.md (bs, ep, tblr, alng, wpe, twde), LlamaGen train_c2i.py, rar.yaml.
# Parameters of the published files, with the tokenizers and 1000 classes that they are for.
PUBLISHED = {
    "var-d16": (310_283_520, 333_800, 768, 1e-4, 1e-3, FlatThenLinear(final=0.1)),
    "var-d20": (600_917_136, 417_250, 768, 1e-4, 1e-3, FlatThenLinear(final=0.1)),
    "var-d24": (1_033_399_360, 584_150, 768, 8e-5, 1e-4, FlatThenLinear(final=0.01)),
    "var-d30": (2_010_020_356, 438_200, 1024, 8e-5, 1e-5, FlatThenLinear(final=0.01)),
    "mvar-d16": (310_283_520, 858_000, 448, 1e-4, 1e-3, FlatThenLinear(final=0.1)),
    "m-var-d16": (464_157_184, 333_800, 768, 1e-4, 1e-3, FlatThenLinear(final=0.1)),
    "llamagen-B": (110_888_000, 1_501_200, 256, 1e-4, None, Constant()),
    "llamagen-L": (342_911_000, 1_501_200, 256, 1e-4, None, Constant()),
    "llamagen-XL": (774_700_000, 1_501_200, 256, 1e-4, None, Constant()),
    "llamagen-XXL": (1_410_973_000, 1_501_200, 256, 1e-4, None, Constant()),
    "llamagen-3B": (3_096_659_000, 1_501_200, 256, 1e-4, None, Constant()),
    "rar-B": (260_900_000, 250_000, 2048, 4e-4, None, Cosine(warmup=0.25, final=0.025)),
    "rar-L": (461_670_000, 250_000, 2048, 4e-4, None, Cosine(warmup=0.25, final=0.025)),
    "rar-XL": (955_425_000, 250_000, 2048, 4e-4, None, Cosine(warmup=0.25, final=0.025)),
    "arpg-L": (319_844_000, 500_400, 1024, 4e-4, None, Cosine(warmup=0.25, final=0.025)),
    "arpg-XL": (718_996_000, 500_400, 1024, 4e-4, None, Cosine(warmup=0.25, final=0.025)),
    "arpg-XXL": (1_302_448_000, 500_400, 1024, 4e-4, None, Cosine(warmup=0.25, final=0.025)),
    "rar-XXL": (1_498_521_000, 250_000, 2048, 4e-4, None, Cosine(warmup=0.25, final=0.025)),
}
# VAR --fp16=1, LlamaGen --mixed-precision bf16, RAR mixed_precision "bf16".
PRECISIONS = {"var": "fp16", "llamagen": "bf16", "rar": "bf16", "arpg": "bf16", "finetune": None}
PRECISIONS |= {"mvar": "fp16", "m": "fp16"}  # --fp16=1, too
RAR_ROWS = 2146  # of the published tables that no sequence of 256 tokens reaches, and a mask row
TABLES = {  # what the tokenizers say
    "var": {"scales": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), "code_dim": 32, "vocab_size": 4096},
    "mvar": {"scales": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), "code_dim": 32, "vocab_size": 4096},
    "m_var": {"scales": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), "code_dim": 32, "vocab_size": 4096},
    "llama": {"grid": (16, 16), "vocab_size": 16384},
    "arpg": {"grid": (16, 16), "vocab_size": 16384},
    "rar": {"grid": (16, 16), "vocab_size": 1024},
}


@pytest.mark.parametrize("name", generator_recipe_names())
def test_every_recipe_of_the_package_is_read_and_survives_a_round_trip(name):
    read = read_generator_recipe(name)
    assert GeneratorRecipe.of(read.to_dict()) == read
    assert read.label_dropout == 0.1


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_figures(name):
    parameters, steps, batch, rate, gates, schedule = PUBLISHED[name]
    read = read_generator_recipe(name)
    training = read.training()
    assert (read.steps, read.batch_size) == (steps, batch)
    assert (training.learning_rate, training.gate_init) == (rate, gates)
    assert training.schedule == schedule
    fields = dict(read.model)
    family = fields.pop("family")
    with torch.device("meta"):
        config = MODELS[family].config_class(num_classes=1000, **TABLES[family], **fields)
        model = MODELS[family](config)
    unused = RAR_ROWS * config.width if family == "rar" else 0
    assert model.num_parameters() + unused == pytest.approx(parameters, rel=2e-4)


@pytest.mark.parametrize("name", generator_recipe_names())
def test_the_published_precision_is_the_default_and_no_is_float32(name):
    assert read_generator_recipe(name).precision == PRECISIONS[name.partition("-")[0]]
    assert read_generator_recipe(name, ["precision=no"]).precision == "no"


def test_yaml_takes_no_for_false_and_a_text_field_takes_it_back(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: var-d16\nprecision: no\ncompile: no\n")
    mine = read_generator_recipe(path)
    assert (mine.precision, mine.compile) == ("no", False)


def test_what_is_not_decayed_follows_from_the_family():
    assert read_generator_recipe("var-d30").training().undecayed == UNDECAYED
    assert read_generator_recipe("rar-L").training().undecayed == RAR_UNDECAYED
    assert read_generator_recipe("llamagen-B").training().undecayed == ()
    assert read_generator_recipe("finetune").training("var").undecayed == UNDECAYED


def test_a_recipe_is_another_one_but_for_what_it_says(tmp_path):
    d24, d30 = read_generator_recipe("var-d24"), read_generator_recipe("var-d30")
    assert d30.optimizer.final == d24.optimizer.final == 0.01
    assert (d24.optimizer.final_weight_decay, d30.optimizer.final_weight_decay) == (0.05, 0.08)
    path = tmp_path / "mine.yaml"
    path.write_text("base: rar-B\nmodel: {depth: 3}\nsteps: 5\n")
    mine = read_generator_recipe(path, ["optimizer.learning_rate=1e-3", "lora.rank=4"])
    assert mine.model == {**read_generator_recipe("rar-B").model, "depth": 3}
    assert (mine.optimizer.learning_rate, mine.lora.rank, mine.steps) == (1e-3, 4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model=3"], "got 3 for the recipe field model; expected dict"),
        (["optimizer.learning_rat=1"], "Did you mean 'learning_rate'?"),
        (["optimizer.schedule=cosin"], "expected one of constant, cosine, flat_then_linear"),
        (["optimizer.schedule=constant"], "got warmup 0.02 with the schedule constant"),
        (["optimizer.betas=[0.9]"], "expected two numbers"),
        (["optimizer.learning_rate=-1"], "got learning_rate -1.0"),
        (["lable_dropout=0.2"], "Did you mean 'label_dropout'?"),
        (["label_dropout=1.0"], "got label_dropout 1.0"),
        (["anneal_start=0.8", "anneal_end=0.2"], "0 <= anneal_start <= anneal_end"),
        (["lora.rank=0"], "got lora.rank 0"),
        (["lora.targets=[]"], "got no lora.targets"),
        (["validate_every=0"], "got validate_every 0"),
        (["validation=1"], "got validation 1.0"),
        (["precision=int8"], "expected no, bf16 or fp16"),
    ],
)
def test_what_is_wrong_is_told(changes, message):
    with pytest.raises((ValueError, KeyError)) as caught:
        read_generator_recipe("var-d16", changes)
    assert message in sentence(caught)


def test_an_unknown_name_is_told():
    with pytest.raises(KeyError) as caught:
        read_generator_recipe("var-d61")
    assert "unknown recipe 'var-d61'. Did you mean 'var-d36'" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        GeneratorRecipe.of({"steps": 1, "batch_size": 1})
    assert "the recipe lacks optimizer" in sentence(caught)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "the recipe says nothing of a new transformer"),
        ({"family": "vra"}, "Did you mean 'var'"),
        ({"family": "llama_text"}, "unknown transformer 'llama_text'"),
        ({"family": "var", "dept": 2}, "Did you mean 'depth'"),
        ({"family": "var", "vocab_size": 2}, "model.vocab_size, which follows from the tokenizer"),
        ({"family": "llama"}, "got order 'raster' for a tokenizer with 3 token maps"),
    ],
)
def test_a_model_that_does_not_fit_is_told(model, message):
    with pytest.raises((ValueError, KeyError)) as caught:
        new_transformer(model, tokenizer_of("multiscale_vq"), 3, 0)
    assert message in sentence(caught)


def test_the_tiny_recipe_is_one():
    assert recipe("rar").training().anneal_end == 0.8
    assert recipe().steps == FIELDS["steps"]
