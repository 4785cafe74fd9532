"""Tokens that are kept: what is in the file, whose they are, what is refused."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import make_tokenizer, sentence, stripes

from arimage.pretrained import identity
from arimage.tokenizers.registry import TOKENIZERS
from arimage.training.small import small_tokenizer
from arimage.training.tokenizer_trainer import encode_all
from arimage.training.tokens import TOKENS, load_tokens, make_tokens, save_tokens


def made(name="multiscale_vq", **options):
    tokenizer = make_tokenizer(name)
    pixels, labels = stripes(10)
    return make_tokens(tokenizer, pixels, labels, **options), tokenizer


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_saved_is_loaded(tmp_path, name):
    tokens, tokenizer = made(name, class_names=["across", "down"], jittered_copies=2, seed=4)
    save_tokens(tmp_path / "tokens", tokens, tokenizer)
    again, loaded = load_tokens(tmp_path / "tokens")
    assert torch.equal(again.ids, tokens.ids)
    assert again.ids.dtype == torch.int64
    assert np.array_equal(again.class_labels, tokens.class_labels)
    assert again.describe() == tokens.describe()
    assert again.augmentation["seed"] == 4
    assert identity(loaded) == tokens.tokenizer
    pixels, _ = stripes(10)
    assert torch.equal(encode_all(loaded, pixels), tokens.ids[:10])
    assert len(tokens.ids) == 30


@pytest.mark.parametrize(("vocab_size", "dtype"), [(32768, torch.int16), (32769, torch.int32)])
def test_ids_are_as_narrow_as_the_vocabulary_allows(tmp_path, vocab_size, dtype):
    tokenizer = small_tokenizer("raster", 16, 0)
    tokenizer = type(tokenizer)(
        type(tokenizer.config)(
            **{n: getattr(tokenizer.config, n) for n in tokenizer.config.own_fields()}
            | {"vocab_size": vocab_size, "code_dim": 2}
        )
    ).eval()
    pixels, labels = stripes(2)
    tokens = make_tokens(tokenizer, pixels, labels)
    ids = torch.full_like(tokens.ids, vocab_size - 1)
    save_tokens(tmp_path, dataclasses.replace(tokens, ids=ids), tokenizer)
    with safe_open(tmp_path / TOKENS, framework="pt") as opened:
        assert opened.get_tensor("ids").dtype == dtype
    assert torch.equal(load_tokens(tmp_path)[0].ids, ids)


def test_an_identity_is_of_weights_and_config_not_of_storage(tmp_path):
    tokenizer = make_tokenizer("vq")
    name = identity(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert identity(type(tokenizer).from_pretrained(tmp_path)) == name
    half = copy.deepcopy(tokenizer).half()
    assert identity(half) != name
    assert identity(half) == identity(copy.deepcopy(tokenizer).half().float())
    with torch.no_grad():
        next(tokenizer.parameters()).view(-1)[0] += 1e-3
    assert identity(tokenizer) != name
    assert identity(make_tokenizer("multiscale_vq")) != name


def test_tokens_of_another_tokenizer_are_refused(tmp_path):
    tokens, tokenizer = made()
    other = make_tokenizer("multiscale_vq")
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match="arimage tokens") as caught:
        tokens.check(other)
    assert tokens.tokenizer[:12] in sentence(caught)
    with pytest.raises(ValueError, match="made by the tokenizer"):
        save_tokens(tmp_path / "tokens", tokens, other)
    assert not list(tmp_path.iterdir())
    save_tokens(tmp_path, tokens, tokenizer)
    other.save_pretrained(tmp_path / "image_tokenizer")
    with pytest.raises(ValueError, match="made by the tokenizer"):
        load_tokens(tmp_path)


def test_labels_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="expected 0 to 0"):
        made(class_names=["one"])
    with pytest.raises(ValueError, match="expected 0 to 0"):
        made(num_classes=1)


def test_broken_folders_are_told(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_tokens(tmp_path)
    assert "arimage tokens" in sentence(caught)
    path = tmp_path / TOKENS
    path.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="cannot be read"):
        load_tokens(tmp_path)
    save_file({"ids": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match="not made by arimage tokens"):
        load_tokens(tmp_path)
