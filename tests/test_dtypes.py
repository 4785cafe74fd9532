"""Which dtype a model is loaded in when nobody says."""

import pytest
import torch
from tiny import make_generator

from arimage import ImageGenerator, pretrained
from arimage.pretrained import default_dtype


def pretend(monkeypatch, *, bf16=False, amx=False):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


@pytest.mark.parametrize(("bf16", "amx"), [(True, False), (False, True), (True, True)])
def test_a_cpu_that_computes_in_bfloat16_gets_it(monkeypatch, bf16, amx):
    pretend(monkeypatch, bf16=bf16, amx=amx)
    assert default_dtype("cpu") == torch.bfloat16
    assert default_dtype(torch.device("cpu")) == torch.bfloat16


def test_others_get_float32(monkeypatch):
    pretend(monkeypatch)
    assert default_dtype("cpu") == torch.float32
    pretend(monkeypatch, bf16=True, amx=True)
    assert default_dtype("meta") == torch.float32


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_is_asked_what_it_computes_in(monkeypatch, native):
    asked = []
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: asked.append(1) or native
    )
    assert default_dtype("cuda:0") == (torch.bfloat16 if native else torch.float32)
    assert asked


def test_a_generator_is_loaded_in_the_default_dtype_unless_told(monkeypatch, tmp_path):
    made = make_generator("var", "next_scale")
    made.save_pretrained(tmp_path)
    monkeypatch.setattr("arimage.generator.default_dtype", pretrained.default_dtype)
    for bf16, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        pretend(monkeypatch, bf16=bf16)
        generator = ImageGenerator.from_pretrained(tmp_path)
        assert generator.transformer.dtype == generator.tokenizer.dtype == wanted
        generator([0, 1], seeds=0)
        told = ImageGenerator.from_pretrained(tmp_path, dtype=torch.float32)
        assert told.transformer.dtype == told.tokenizer.dtype == torch.float32
