"""Fine-tuning a generator: other classes, adapters, compiled blocks."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from generator_runs import FAMILIES, go, recipe, tokenizer_of, write_tokens
from tiny import sentence

from arimage.ar.layers import ResidualDropout
from arimage.generator import ImageGenerator, make_order
from arimage.training import lora
from arimage.training.generator_build import build_transformer, new_transformer
from arimage.training.generator_recipe import LoraFields
from arimage.training.generator_task import Teaching
from arimage.training.loop import Loop
from arimage.training.lora import add_adapters, has_adapters, merged
from arimage.training.run_folder import LOSSES, read_lines

pytestmark = pytest.mark.untyped

NOTHING = {"learning_rate": 1e-30, "weight_decay": 0.0}
LORA = {"rank": 2, "alpha": 8.0, "targets": ["qkv", "project"]}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    return write_tokens(folder / "tokens", "multiscale_vq")


@pytest.fixture(scope="module")
def start(tokens, tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / "run"
    go(tokens, out, recipe(steps=2))
    return out


def weights_of(folder):
    return ImageGenerator.from_pretrained(folder, dtype=torch.float32).transformer.state_dict()


def test_it_starts_from_the_weights_but_those_of_the_classes(tokens, start, tmp_path):
    go(tokens, tmp_path / "run", recipe(steps=1, optimizer=NOTHING), start=str(start))
    before, after = weights_of(start), weights_of(tmp_path / "run")
    classes = "class_embedding.weight"
    for name in before.keys() - {classes}:
        assert torch.allclose(before[name], after[name], atol=1e-20, rtol=0), name
    assert torch.allclose(before[classes][-1], after[classes][-1], atol=1e-20, rtol=0)
    assert not torch.allclose(before[classes][:-1], after[classes][:-1])
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["from"] == "run"
    assert len(record["start"]) == 64


@pytest.mark.parametrize(("model", "dropout"), [({}, 0.1), ({"dropout": 0.3}, 0.3)])
def test_a_recipes_dropout_wins_over_the_starts(tokens, start, tmp_path, model, dropout):
    go(tokens, tmp_path / "run", recipe(steps=1, model=model), start=str(start))
    assert ImageGenerator.from_pretrained(start).transformer.config.dropout == 0.1
    assert ImageGenerator.from_pretrained(tmp_path / "run").transformer.config.dropout == dropout


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dropout", [0, 0.3, None])
def test_every_layer_that_drops_has_the_recipes_dropout(family, dropout):
    tokenizer = tokenizer_of(FAMILIES[family][0])
    start = new_transformer(recipe(family).model, tokenizer, 3, seed=0)
    given = recipe(family, model={"family": family, "dropout": dropout})
    built = build_transformer(given, tokenizer, 4, ImageGenerator(tokenizer, start))
    rates = [m.rate for m in built.modules() if isinstance(m, ResidualDropout)]
    rates += [m.p for m in built.modules() if isinstance(m, torch.nn.Dropout)]
    assert set(rates) == {0.1 if dropout is None else dropout}
    assert len(rates) == 2 + (family == "llama")


@pytest.mark.parametrize("dropout", [1.0, -0.1, True, "much"])
def test_a_dropout_out_of_range_is_told(tokens, start, tmp_path, dropout):
    with pytest.raises(ValueError) as caught:
        go(tokens, tmp_path / "run", recipe(model={"dropout": dropout}), start=str(start))
    assert f"got model.dropout {dropout!r}; expected a number from 0" in sentence(caught)
    assert not (tmp_path / "run").exists()


def test_tokens_of_another_tokenizer_are_refused(start, tmp_path):
    other = write_tokens(tmp_path / "other", "multiscale_vq", tokenizer_seed=1)
    with pytest.raises(ValueError) as caught:
        go(other, tmp_path / "run", start=str(start))
    assert "the tokens were made by the tokenizer" in sentence(caught)
    assert not (tmp_path / "run").exists()


def test_a_class_without_an_image_is_told(start, tmp_path):
    few = write_tokens(tmp_path / "few", "multiscale_vq", count=2)
    with pytest.raises(ValueError) as caught:
        go(few, tmp_path / "run", recipe(batch_size=1, validation=0.0), start=str(start))
    assert "got 3 classes and images of 2 of them, none of cup" in sentence(caught)


def test_adapters_leave_every_other_weight_alone(tokens, start, tmp_path):
    given = recipe(lora=LORA, optimizer={"learning_rate": 0.1})
    go(tokens, tmp_path / "run", given, start=str(start))
    before, after = weights_of(start), weights_of(tmp_path / "run")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {f"blocks.{i}.{part}.weight" for i in range(2) for part in LORA["targets"]}
    assert changed == adapted | {"class_embedding.weight"}
    difference = after["blocks.0.qkv.weight"] - before["blocks.0.qkv.weight"]
    assert torch.linalg.matrix_rank(difference, rtol=1e-4) <= 2


def test_a_run_with_adapters_goes_on_bit_identically(tokens, start, tmp_path, monkeypatch):
    given, step = recipe(lora=LORA, steps=4), Loop.step
    go(tokens, tmp_path / "whole", given, start=str(start))

    def interrupted(self, batch):
        if self.done == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    monkeypatch.setattr(Loop, "step", interrupted)
    assert not go(tokens, tmp_path / "run", given, start=str(start)).finished
    monkeypatch.undo()
    assert go(tokens, tmp_path / "run", given, start=str(start), resume=True).finished
    pair = weights_of(tmp_path / "whole"), weights_of(tmp_path / "run")
    assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_computes_what_its_adapters_did(family):
    """On every linear layer, those before a GELU and with a bias from outside included."""
    tokenizer = tokenizer_of(FAMILIES[family][0])
    model = new_transformer(recipe(family).model, tokenizer, 3, seed=0)
    for parameter in model.parameters():  # gates and the head begin near zero
        torch.nn.init.normal_(parameter, std=0.1)
    names = {
        name.split(".")[-1]
        for name, module in model.blocks.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    order = make_order(tokenizer, model)
    ids = torch.randint(0, 32, (2, order.num_slots), generator=torch.Generator().manual_seed(0))
    lesson, labels = order.lesson(ids, torch.Generator()), torch.tensor([0, 3])

    def logits(transformer):
        return Teaching(transformer.eval(), tokenizer.slots).losses(lesson, labels)

    first = logits(model)
    add_adapters(model, LoraFields(rank=2, targets=sorted(names)))
    assert torch.equal(logits(model), first)  # B begins with zeros
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    adapted, whole = logits(model), merged(model)
    assert (adapted - first).abs().max() > 0.01
    assert torch.allclose(logits(whole), adapted, atol=1e-5)
    assert whole.state_dict().keys() == plain.keys()
    assert has_adapters(model)
    assert not has_adapters(whole)


def test_what_is_wrong_with_adapters_is_told(tokens, start, tmp_path, monkeypatch):
    with pytest.raises(KeyError) as caught:
        go(tokens, tmp_path / "run", recipe(lora={"targets": ["kqv"]}), start=str(start))
    assert "unknown lora target 'kqv'. Did you mean 'qkv'" in sentence(caught)
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as caught:
        go(tokens, tmp_path / "run", recipe(lora=LORA), start=str(start))
    assert "lora needs peft, which is not installed" in sentence(caught)
    assert not (tmp_path / "run").exists()


COMPILED = """
import sys
sys.path[:0] = sys.argv[5:]
import torch
from generator_runs import go, recipe
real = torch.nn.Module.compile
torch.nn.Module.compile = lambda self: real(self, backend="aot_eager", fullgraph=True)
family, tokens, out, attention = sys.argv[1:5]
model = {**recipe(family).model, "dropout": 0.0}
for name, compiled in (("plain", False), ("compiled", True)):
    more = {"attention": attention, "compile": compiled}
    given = recipe(family, steps=2, model=model, drop_path=0.0, **more)
    go(tokens, f"{out}/{name}", given)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
"""


@pytest.mark.parametrize(
    ("family", "attention"), [*((family, "sdpa") for family in FAMILIES), ("var", "flex")]
)
def test_compiled_blocks_compute_the_same(family, attention, tmp_path):
    """In a process without shape checks, which torch.compile does not trace; without its back end,
    which needs a compiler of C++.
    """
    tokens = write_tokens(tmp_path / "tokens", FAMILIES[family][0])
    here = Path(__file__).parent
    given = [family, tokens, tmp_path, attention, here, here.parent]
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, *map(str, given)],
        env={**os.environ, "PYTHONPATH": str(here.parents[1] / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [read_lines(tmp_path / name / LOSSES) for name in ("plain", "compiled")]
    assert len(rows[0]) == 2
    for a, b in zip(*rows, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
