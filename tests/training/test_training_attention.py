"""Runs that attend by FlexAttention have the losses of those by scaled_dot_product_attention."""

import pytest
import torch
from generator_runs import FAMILIES, go, recipe, write_tokens
from tiny import sentence
from torch.nn.attention import flex_attention as torch_flex

from arimage.ar import layers
from arimage.training.run_folder import LOSSES, read_lines

PLAIN = {"steps": 3, "drop_path": 0.0}


def losses(data, out, family, **fields):
    """Of a run."""
    go(data, out, recipe(family, **{**PLAIN, **fields}))
    return read_lines(out / LOSSES)


def close(a, b, bound=1e-5):
    """Whether two runs measured the same."""
    return all(x == pytest.approx(y, abs=bound) for x, y in zip(a, b, strict=True))


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # read by torch's tracer
@pytest.mark.parametrize("family", FAMILIES)
def test_flex_by_name_trains_as_sdpa(tmp_path, family, monkeypatch):
    """By torch's own implementation for CPUs, past the check that there are no gradients."""
    data, calls = write_tokens(tmp_path / "tokens", FAMILIES[family][0]), []

    def flex(q, k, v, blocks, scale):
        calls.append(q.shape)
        return torch_flex.flex_attention(q, k, v, block_mask=blocks, scale=scale)

    plain = losses(data, tmp_path / "sdpa", family)
    assert close(losses(data, tmp_path / "blocks", family, attention="flex"), plain)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(layers, "attend_blocks", flex)
    assert close(losses(data, tmp_path / "other", family, attention="sdpa"), plain)
    assert not calls
    assert close(losses(data, tmp_path / "flex", family, attention="flex"), plain)
    assert len(calls) == 2 * PLAIN["steps"]  # layers; validation and samples attend as ever


def test_attention_without_the_mask_trains_otherwise(tmp_path, monkeypatch):
    """The negative twin."""
    data = write_tokens(tmp_path / "tokens", "vq")
    plain = losses(data, tmp_path / "sdpa", "llama", attention="flex")
    everything = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        layers, "attend_blocks", lambda q, k, v, blocks, scale: everything(q, k, v, scale=scale)
    )
    assert not close(losses(data, tmp_path / "run", "llama", attention="flex"), plain)


def test_an_unknown_attention_is_told_before_anything_is_written(tmp_path):
    data = write_tokens(tmp_path / "tokens", "vq")
    with pytest.raises(ValueError) as caught:
        go(data, tmp_path / "run", recipe("llama", attention="flash"))
    assert "got attention 'flash'; expected flex or sdpa" in sentence(caught)
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_the_compiled_kernel_trains_as_sdpa(tmp_path, family):
    """On a GPU, where flex is what nobody chooses; sums differ in their last digits (TF32)."""
    data = write_tokens(tmp_path / "tokens", FAMILIES[family][0])
    model = {**recipe(family).model, "dropout": 0.0}
    plain = losses(data, tmp_path / "sdpa", family, model=model, attention="sdpa")
    assert close(losses(data, tmp_path / "flex", family, model=model), plain, bound=2e-2)
