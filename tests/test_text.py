"""Prompts to features: cleaning, a tiny T5 from a folder, and what is refused."""

import subprocess
import sys

import pytest
import torch
from tiny import make_encoder, sentence

from arimage.text import TextEncoder, TextFeatures, clean

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("t5"), width=10)


@torch.no_grad()
def test_features_are_those_of_transformers(folder):
    from transformers import AutoTokenizer, T5EncoderModel

    prompts = ("a corgi", "a corgi on a beach")
    text = TextEncoder(folder, 7).encode(prompts, CPU, torch.float32)
    assert text.features.shape == (2, 6, 10)
    assert text.mask.sum(1).tolist() == [3, 6]  # with the end mark
    tokenizer, model = (cls.from_pretrained(folder) for cls in (AutoTokenizer, T5EncoderModel))
    for prompt, row, mask in zip(prompts, text.features, text.mask, strict=True):
        alone = model.eval()(**tokenizer(prompt, return_tensors="pt")).last_hidden_state[0]
        assert torch.allclose(row[mask], alone, atol=1e-5)
    assert not torch.allclose(text.features[0, :3], text.features[1, :3], atol=1e-2)


def test_the_encoder_is_loaded_with_the_first_prompt_and_once(folder, monkeypatch):
    from transformers import T5EncoderModel

    loads, load = [], T5EncoderModel.from_pretrained

    def spy(*arguments, **options):
        loads.append(options["dtype"])
        return load(*arguments, **options)

    monkeypatch.setattr(T5EncoderModel, "from_pretrained", spy)
    encoder = TextEncoder(folder, 7)
    encoder.check(["a corgi"])
    assert not loads
    for _ in range(2):
        text = encoder.encode(["a corgi"], CPU, torch.bfloat16)
    assert loads == [text.features.dtype] == [torch.bfloat16]


def test_classes_need_no_text_encoder():
    code = (
        "import sys; from arimage import ImageGenerator; "
        "ImageGenerator.from_pretrained('digits-llamagen')([1], seeds=0); "
        "print([m for m in sys.modules if m.startswith('transformers.models.t5')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_prompt_that_is_too_long_is_told_before_the_model_is_loaded(folder):
    encoder = TextEncoder(folder, 7)
    encoder.check(["a corgi on a beach"] * 2)
    with pytest.raises(ValueError) as caught:
        encoder.check(["a corgi", "a corgi on a beach on a beach"])
    text = sentence(caught)
    assert "got a prompt of 9 tokens, 'a corgi on a beach on a beach'; this" in text
    assert "at most 7: shorten it" in text
    assert encoder._model is None


def test_offline_says_which_files_from_where_and_how_to_place_them(tmp_path):
    for source in ("google/flan-t5-xl", tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            TextEncoder(source, 120).encode(["a corgi"], CPU, torch.float32)
        text = sentence(caught)
        assert f"cannot load the text encoder {source}" in text
        assert "config.json, tokenizer.json" in text
        assert "model*.safetensors" in text
        assert "text_encoder=FOLDER, or give features instead of prompts" in text


@pytest.mark.parametrize(
    ("features", "mask", "words"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3), "of shape (2, 3) with a mask of shape (2, 3); expec"),
        (torch.zeros(2, 3, 4), torch.ones(2, 4), "expected (prompts, tokens, width) and (prompts"),
        (torch.zeros(1, 3, 4), torch.zeros(1, 3), "of a prompt without a token"),
        (torch.zeros(0, 3, 4), torch.zeros(0, 3), "of a prompt without a token"),
    ],
)
def test_features_without_sense_are_told(features, mask, words):
    with pytest.raises(ValueError) as caught:
        TextFeatures(features, mask)
    assert words in sentence(caught)


def test_tokens_are_moved_to_the_right_in_their_order():
    features = torch.arange(8.0).reshape(2, 4, 1)
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 0]])
    text = TextFeatures(features, mask).right_aligned()
    assert text.features[0, :, 0].tolist() == [0, 2]
    assert text.features[1, 1, 0] == 6
    assert text.mask.tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  A Blue Porsche 356.", "a blue porsche 356."),
        ("a \u201cNeon\u201d sign \u2014 at night...", 'a "neon" sign - at night'),
        ("sunset ,4k,detailed", "sunset , 4k, detailed"),
        ("a man &amp; a dog (watercolor) [sketch]", "a man a dog watercolor sketch"),
        ("<b>bold</b> cat, see https://x.org/a?b=c", "bold cat, see"),
        ("a_b_c_d_e f-g", "a b c d e f g"),
        ("state-of-the-art", "state-of-the-art"),
        ("'quoted'", "quoted"),
        ("", ""),
    ],
)
def test_prompts_are_cleaned_as_captions_were(prompt, cleaned):
    assert clean(prompt) == cleaned
