"""Where FSDP is refused, by one sentence and before anything is written."""

import os

import pytest
from generator_runs import go, recipe, write_tokens
from tiny import sentence

from arimage.training.processes import make_accelerator


def refused(shard):
    with pytest.raises(ValueError) as caught:
        make_accelerator(shard=shard)
    return sentence(caught)


def test_one_process_has_nobody_to_share_with(tmp_path):
    tokens = write_tokens(tmp_path / "tokens", "multiscale_vq")
    with pytest.raises(ValueError) as caught:
        go(tokens, tmp_path / "run", recipe(fsdp=True))
    assert "got fsdp with one process" in sentence(caught)
    assert not (tmp_path / "run").exists()
    assert "ACCELERATE_USE_FSDP" not in os.environ  # accelerate would shard all that follows
    assert make_accelerator(shard=False).num_processes == 1


@pytest.mark.parametrize(
    ("shard", "changes", "said"),
    [
        (None, {}, "only `arimage train generator` is"),
        (False, {"FSDP_VERSION": "1"}, "add --fsdp_version 2"),
        (True, {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "--set gradient_checkpointing=true"),
        (False, {}, "got fsdp with one process"),
    ],
)
def test_what_a_launcher_may_not_ask(monkeypatch, shard, changes, said):
    launched = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **changes}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")  # and taken back afterwards
    assert said in refused(shard)
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"


def test_without_a_word_nothing_is_sharded(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    for shard in (None, False):
        assert not make_accelerator(shard=shard).is_fsdp2
