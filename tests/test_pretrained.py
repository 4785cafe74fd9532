"""Saving and loading: same tensors and outputs on poisoned memory, or one clear sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import (
    SIZED_MODEL_CASES,
    TOKENIZER_CASES,
    make_condition,
    make_images,
    make_model,
    make_order,
    make_tokenizer,
    sentence,
)
from transformers import AutoConfig, AutoModel, PreTrainedModel

import arimage.auto  # noqa: F401  (registers with AutoModel)
from arimage import pretrained
from arimage.ar.llama import LlamaConfig, LlamaModel
from arimage.ar.var import VARConfig
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.multiscale_vq import MultiScaleVQTokenizer
from arimage.tokenizers.vq import VQTokenizer, VQTokenizerConfig

MAKERS = {
    **{f"{t}-{q}": (make_tokenizer, (t, q)) for t, q in TOKENIZER_CASES},
    **{"-".join(map(str, case)): (make_model, case) for case in SIZED_MODEL_CASES},
}


@pytest.fixture
def poisoned_memory():
    """Memory that nobody wrote holds NaN (or the largest integer) instead of what was there."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@torch.no_grad()
def outputs(model):
    """What a model computes, for fixed inputs."""
    if hasattr(model, "encode"):
        encoding = model.quantize(model.encode_latents(make_images(model, 2)))
        return [encoding.ids, encoding.codes, encoding.loss, model.decode(encoding.ids)]
    order = make_order(model)
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(0, model.config.vocab_size, (2, model.slots.num_slots), generator=generator)
    lesson = order.lesson(ids, generator)
    context = model.prepare(make_condition(model, [0, 1]))
    return [model.head(model(lesson.inputs, context, lesson.step))]


def is_same(model, loaded):
    """Whether parameters, buffers (in the checkpoint or not) and outputs are equal."""
    ours = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    theirs = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    if ours.keys() != theirs.keys() or loaded.training:
        return False
    pairs = [(ours[k], theirs[k]) for k in ours]
    if not all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs):
        return False
    results = zip(outputs(model), outputs(loaded), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in results)


@pytest.mark.parametrize("name", MAKERS)
def test_loading_gives_the_same_model(name, tmp_path, poisoned_memory):
    maker, case = MAKERS[name]
    model = maker(*case)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert is_same(model, loaded)


@pytest.mark.parametrize("name", MAKERS)
def test_auto_model_gives_the_same_model(name, tmp_path, poisoned_memory):
    maker, case = MAKERS[name]
    model = maker(*case)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert is_same(model, loaded)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)


def test_poisoned_buffers_left_alone_are_noticed(tmp_path, poisoned_memory, monkeypatch):
    model = make_tokenizer("vq", "lfq")
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(pretrained, "rebuild_buffers", lambda model: None)
    assert not is_same(model, type(model).from_pretrained(tmp_path))


def test_other_weights_are_noticed(tmp_path):
    model = make_model("llama", "raster")
    model.save_pretrained(tmp_path)
    loaded = LlamaModel.from_pretrained(tmp_path)
    with torch.no_grad():
        loaded.norm.weight[0] += 1e-3
    assert not is_same(model, loaded)


@pytest.mark.parametrize("name", ["vq-lfq", "multiscale_vq-vq_ema", "var-next_scale-0"])
def test_half_precision_files_load_as_float32(name, tmp_path):
    maker, case = MAKERS[name]
    model = maker(*case)
    model.half().save_pretrained(tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} >= {torch.half}
    loaded, auto = type(model).from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert is_same(loaded, auto)
    floats = [t for t in loaded.state_dict().values() if t.is_floating_point()]
    assert {t.dtype for t in floats} == {torch.float32}
    assert is_same(loaded, model.float())
    half = type(model).from_pretrained(tmp_path, dtype=torch.float16)
    assert half.dtype == torch.float16


def test_a_folder_below_another_is_loaded(tmp_path):
    model = make_model("llama", "raster")
    model.save_pretrained(tmp_path / "transformer")
    assert is_same(model, LlamaModel.from_pretrained(tmp_path, subfolder="transformer"))


def test_saving_twice_writes_the_same_files(tmp_path):
    model = make_model("var", "next_scale")
    for _ in range(2):
        model.save_pretrained(tmp_path / "out")
        names = sorted(p.name for p in (tmp_path / "out").iterdir())
        assert names == ["config.json", "model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failing_save_leaves_the_old_files(tmp_path, monkeypatch):
    model = make_model("llama", "raster")
    model.save_pretrained(tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def fail(self, folder, **kwargs):
        (folder / "config.json").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


# What may be wrong with a config.

WRONG_FIELDS = [
    ({"widht": 32}, "unknown field of LlamaConfig 'widht'. Did you mean 'width'"),
    ({"zzz": 1}, "unknown field of LlamaConfig 'zzz'. Known: "),
    ({"width": "wide"}, "LlamaConfig: Field 'width' expected int, got str (value: 'wide')"),
    ({"width": 2.5}, "LlamaConfig: Field 'width' expected int, got float"),
    ({"grid": 4}, "LlamaConfig: Field 'grid'"),
    ({"dropout": None}, "LlamaConfig: Field 'dropout' expected float"),
    ({"num_heads": 5}, "LlamaConfig: width 32 is not a multiple of num_heads 5"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_FIELDS)
def test_a_wrong_field_is_told_when_a_config_is_made(changes, message):
    with pytest.raises(ValueError) as caught:
        LlamaConfig(**{"width": 32, "num_heads": 4, **changes})
    assert message in sentence(caught)


@pytest.fixture
def folder(tmp_path):
    """A saved model that a test may break."""
    make_model("llama", "raster").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def refused(folder, kind, load=LlamaModel.from_pretrained):
    with pytest.raises(kind) as caught:
        load(folder)
    return sentence(caught)


LOADERS = {"family": LlamaModel.from_pretrained, "auto": AutoModel.from_pretrained}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("changes", "message"), WRONG_FIELDS)
def test_a_wrong_field_is_told_when_a_config_is_read(folder, changes, message, loader):
    change_config(folder, lambda config: config.update(changes))
    assert message in refused(folder, ValueError, LOADERS[loader])


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("field", ["width", "order", "vocab_size"])
def test_a_field_missing_from_the_file_is_told(folder, field, loader):
    change_config(folder, lambda config: config.pop(field))
    text = refused(folder, ValueError, LOADERS[loader])
    assert f"the config lacks {field}; LlamaConfig needs every one of" in text


def test_a_config_keeps_its_values_and_nothing_else(tmp_path):
    for config in (VARConfig(scales=(1, 3, 5), width=96), VQTokenizerConfig(levels=[3, 3])):
        config.save_pretrained(tmp_path)
        again = type(config).from_pretrained(tmp_path)
        for name in config.own_fields():
            before, after = getattr(config, name), getattr(again, name)
            assert after == (list(before) if isinstance(before, tuple) else before)


# Of packaged presets, before configs had a depth; tokens on disk carry it.
IDENTITIES = {
    "digits-var": "7ed979a6a6b6e790a9795f3c576c0f77867572bc2aa7307062aeeb8bd5f40d25",
    "digits-llamagen": "4d1d1168dcd78de8056547eab0236558ff19103b966b86fc0903bacd22ed635a",
}


@pytest.mark.parametrize("preset", IDENTITIES)
def test_a_file_older_than_a_field_is_the_same_model_as_ever(preset, tmp_path, monkeypatch):
    tokenizer = ImageTokenizer.from_pretrained(preset)
    assert tokenizer.config.depth == 1
    assert pretrained.identity(tokenizer) == IDENTITIES[preset]
    tokenizer.save_pretrained(tmp_path)
    assert pretrained.identity(ImageTokenizer.from_pretrained(tmp_path)) == IDENTITIES[preset]
    tokenizer.config.depth = 2
    assert pretrained.identity(tokenizer) != IDENTITIES[preset]
    monkeypatch.setattr(VQTokenizerConfig, "newer", ())
    with pytest.raises(ValueError, match="the config lacks depth"):
        ImageTokenizer.from_pretrained(preset)


def test_a_folder_without_a_config_or_with_a_broken_one_is_told(folder):
    assert "is not valid JSON" in refuse_config(folder, "{")
    assert "holds a list, expected a JSON object" in refuse_config(folder, "[]")
    (folder / "config.json").unlink()
    assert f"no config.json in {folder}" in refused(folder, FileNotFoundError)


def refuse_config(folder, text):
    (folder / "config.json").write_text(text)
    return refused(folder, ValueError)


def test_a_folder_that_does_not_exist_is_told(tmp_path):
    text = refused(tmp_path / "none", FileNotFoundError)
    assert str(tmp_path / "none") in text


def test_a_folder_of_another_family_is_told(tmp_path):
    make_tokenizer("multiscale_vq").save_pretrained(tmp_path)
    text = refused(tmp_path, ValueError, VQTokenizer.from_pretrained)
    assert "unknown field of VQTokenizerConfig" in text
    make_tokenizer("vq").save_pretrained(tmp_path)
    text = refused(tmp_path, ValueError, MultiScaleVQTokenizer.from_pretrained)
    assert "the config lacks" in text


# What may be wrong with the weights.


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_missing_tensor_is_told(folder):
    change_weights(folder, lambda tensors: tensors.pop("norm.weight"))
    text = refused(folder, ValueError)
    assert "tensors 1 missing (norm.weight). Load the weights with the config" in text


def test_an_extra_tensor_is_told(folder):
    change_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(2)))
    assert "tensors 1 unexpected (extra)" in refused(folder, ValueError)


def test_a_tensor_of_another_shape_is_told(folder):
    change_weights(folder, lambda tensors: tensors.update({"norm.weight": torch.ones(7)}))
    assert "1 of another shape (norm.weight [7], not [32])" in refused(folder, ValueError)


def test_many_problems_are_one_sentence(folder):
    def change(tensors):
        for name in [n for n in tensors if "blocks.0" in n]:
            tensors["x" + name] = tensors.pop(name)

    change_weights(folder, change)
    text = refused(folder, ValueError)
    assert "missing (blocks.0" in text
    assert ", ...); " in text
    assert "unexpected (xblocks.0" in text


@pytest.mark.parametrize("size", [0, 5, 100, 5000])
def test_a_truncated_file_is_told(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "the file is truncated or not safetensors" in refused(folder, ValueError)


def test_a_folder_without_weights_is_told(folder):
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused(folder, OSError)


def test_a_pickle_is_never_opened(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"norm.weight": torch.ones(32)}, folder / "pytorch_model.bin")
    assert "model.safetensors" in refused(folder, OSError)
