"""FSDP2: two processes train as one with twice the batch, and each holds half of everything."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from generator_runs import FAMILIES, go, recipe, write_tokens
from safetensors.torch import load_file
from two_processes import two_processes

from arimage.training.checkpoints import Checkpoints
from arimage.training.generator_build import build_generator_task, build_transformer
from arimage.training.loop import Loop
from arimage.training.processes import make_accelerator
from arimage.training.run_folder import CHECKPOINTS, LOSSES, SAMPLES, read_lines
from arimage.training.token_data import TokenData

STEPS, SAVED = 4, 2
RUNS = {  # one with all that a run can have; short ones, also of adapters on frozen weights
    "var": {"steps": STEPS, "micro_batches": 2, "gradient_checkpointing": True},
    "llama": {},
    "rar": {},
    "lora": {"lora": {"rank": 2}},
}
LAUNCHED = {  # what `accelerate launch --use_fsdp --fsdp_version 2` of accelerate 1.15 sets
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_MIN_NUM_PARAMS": "100000000",
    "FSDP_FORWARD_PREFETCH": "false",
    "FSDP_USE_ORIG_PARAMS": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_SYNC_MODULE_STATES": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}


def tiny(name: str, **fields):
    """The recipe of a run; no dropout, whose draws differ between processes."""
    family = name if name in FAMILIES else "var"
    given = {"steps": 1, "batch_size": 8, "drop_path": 0.0, "label_dropout": 0.4, **RUNS[name]}
    return recipe(family, **{**given, "model": model_of(family), **fields})


def model_of(family: str) -> dict:
    """Without dropout."""
    return {**recipe(family).model, "dropout": 0.0}


def tokens_of(folder: Path, name: str) -> Path:
    """Where the tokens of a run are."""
    return folder / FAMILIES[name if name in FAMILIES else "var"][0]


def train_all(folder: Path, fsdp: bool) -> None:
    """Every run into a folder of its own."""
    for name in RUNS:
        start = str(folder.parent / "start") if name == "lora" else None
        tokens = tokens_of(folder.parent, name)
        go(tokens, folder / name, tiny(name, fsdp=fsdp), start=start)


def go_on(folder: Path, old: Path, new: str, fsdp: bool) -> None:
    """The run of ``old`` from the middle on, in another folder."""
    if int(os.environ.get("RANK", 0)) == 0:
        shutil.copytree(old, folder / new)
        states = Checkpoints(folder / new / CHECKPOINTS)
        assert states.steps() == [SAVED, STEPS]
        shutil.rmtree(states.path(STEPS))
    if dist.is_initialized():
        dist.barrier()
    go(tokens_of(folder.parent, "var"), folder / new, tiny("var", fsdp=fsdp), resume=True)


def sizes(folder: Path, shard: bool) -> dict:
    """Numbers that this process holds after a step, and what a loss that is no number says."""
    tokens = TokenData(tokens_of(folder.parent, "var"))
    given, tokenizer = tiny("var"), tokens.load_tokenizer()
    transformer = build_transformer(given, tokenizer, tokens.num_classes, None)
    task = build_generator_task(given, transformer, tokenizer)
    loop = Loop(task, task.recipe, make_accelerator(shard=shard), 1)
    world = loop.accelerator.num_processes
    batch = next(tokens.batches(8 // world, loop.accelerator.process_index, world, 0, 0))
    loop.step(batch)
    moments = [v for s in loop.optimizers["transformer"].state.values() for v in s.values()]
    parameters = list(transformer.parameters())
    found = {
        "weights": held(parameters),
        "gradients": held([p.grad for p in parameters]),
        "moments": held([v for v in moments if v.ndim]),
        "average": held(list(loop.average.parameters())),
    }
    if loop.sharded:
        with pytest.raises(RuntimeError, match="inside of whole"):
            _ = loop.result
    with torch.no_grad():
        parameters[0].fill_(torch.nan)
    with pytest.raises(FloatingPointError) as caught:
        loop.step(batch)
    return {"held": found, "said": str(caught.value)}


def held(tensors: list) -> int:
    """Numbers in this process' memory."""
    return sum((t.to_local() if hasattr(t, "to_local") else t).numel() for t in tensors)


def main() -> None:
    """Run by each process."""
    folder = Path(sys.argv[1])
    train_all(folder, True)
    assert "ACCELERATE_USE_FSDP" not in os.environ
    go_on(folder, folder / "var", "again", fsdp=True)
    go_on(folder, folder / "var", "unsharded", fsdp=False)
    go_on(folder, folder.parent / "one" / "var", "sharded", fsdp=True)
    rounded = tiny("var", precision="bf16", fsdp=True)
    go(tokens_of(folder.parent, "var"), folder / "bf16", rounded)
    os.environ.update(LAUNCHED)
    print(json.dumps(sizes(folder, False)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all runs; what each of the two processes holds."""
    folder = tmp_path_factory.mktemp("fsdp")
    for name in ("vq", "multiscale_vq"):
        write_tokens(folder / name, name, 20)
    go(folder / "multiscale_vq", folder / "start", recipe(steps=1, model=model_of("var")))
    one = folder / "one"
    one.mkdir()
    (folder / "two").mkdir()
    train_all(one, False)
    with two_processes(__file__, folder / "two") as printed:
        half = tiny("var", batch_size=4)
        go(tokens_of(folder, "var"), one / "half", half)
    go_on(one, folder / "two" / "var", "unsharded", fsdp=False)
    return folder, [json.loads(text.splitlines()[-1]) for text in printed]


def losses_of(run: Path) -> list[dict]:
    return read_lines(run / LOSSES)


def weights_of(run: Path) -> dict:
    return load_file(run / "transformer" / "model.safetensors")


def furthest(a: Path, b: Path) -> float:
    """The largest difference of two results' weights."""
    one, two = weights_of(a), weights_of(b)
    assert list(one) == list(two)
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_are_one_with_twice_the_batch(runs, name):
    folder, _ = runs
    one, two = folder / "one" / name, folder / "two" / name
    rows = losses_of(one)
    assert len(rows) == tiny(name).steps
    for a, b in zip(rows, losses_of(two), strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-5)
    assert "validation loss" in rows[-1]
    assert furthest(one, two) < 1e-5
    assert (two / "transformer" / "config.json").read_bytes() == (
        one / "transformer" / "config.json"
    ).read_bytes()
    assert len(list((two / SAMPLES).iterdir())) == len(list((one / SAMPLES).iterdir())) > 0


def test_half_of_the_batch_is_another_training(runs):
    """The negative twin: what processes would learn that keep their gradients to themselves."""
    folder, _ = runs
    one, half = folder / "one" / "var", folder / "one" / "half"
    assert losses_of(half)[-1] != pytest.approx(losses_of(one)[-1], rel=1e-5, abs=1e-5)
    assert furthest(one, half) > 1e-3


@pytest.mark.parametrize(
    ("new", "old", "most"),
    [
        ("two/again", "two/var", 0.0),  # bit-identically
        ("two/unsharded", "two/var", 1e-5),  # another sum of the same gradients
        ("two/sharded", "one/var", 1e-5),
        ("one/unsharded", "two/var", 1e-5),
    ],
)
def test_a_saved_state_goes_on_sharded_or_not(runs, new, old, most):
    folder, _ = runs
    assert furthest(folder / new, folder / old) <= most
    whole, resumed = losses_of(folder / old), losses_of(folder / new)
    assert resumed[:SAVED] == whole[:SAVED]
    for a, b in zip(whole[SAVED:], resumed[SAVED:], strict=True):
        assert b == (pytest.approx(a, rel=1e-5, abs=1e-5) if most else a)


def test_states_are_those_of_a_run_that_is_not_sharded(runs):
    folder, _ = runs

    def described(state):
        if isinstance(state, dict):
            return {name: described(value) for name, value in state.items()}
        if isinstance(state, list | tuple):
            return [described(value) for value in state]
        is_tensor = isinstance(state, torch.Tensor)
        return (type(state), state.shape, state.dtype) if is_tensor else type(state)

    one, two = (Checkpoints(folder / w / "var" / CHECKPOINTS).load() for w in ("one", "two"))
    assert described(one) == described(two)


def test_each_process_holds_half(runs):
    folder, printed = runs
    whole = sizes(folder / "one", False)["held"]
    first, second = (each["held"] for each in printed)
    assert whole["moments"] == 2 * whole["weights"]
    for name, count in whole.items():
        assert first[name] + second[name] == count
        assert abs(first[name] - second[name]) < 0.02 * count  # rows that two do not divide


def test_what_is_not_a_number_is_named_by_every_process(runs):
    _, printed = runs
    said = [each["said"] for each in printed]
    assert said[0] == said[1]
    assert "the loss of transformer is nan at step 2" in said[0]
    assert "the largest gradients are of transformer." in said[0]
    assert "nan)" in said[0]


def test_rounded_weights_train_alike(runs):
    folder, _ = runs
    exact, rounded = losses_of(folder / "one" / "var"), losses_of(folder / "two" / "bf16")
    for a, b in zip(exact, rounded, strict=True):
        assert a["loss"] != b["loss"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-2)
    weights = weights_of(folder / "two" / "bf16").values()
    assert {value.dtype for value in weights} == {torch.float32}
    assert any(bool((value != value.bfloat16().float()).any()) for value in weights)


if __name__ == "__main__":
    main()
