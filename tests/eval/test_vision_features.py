"""DINOv2 and CLIP: tiny random models, and the forward pass written out beside them."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

from arimage.eval.base import Reference
from arimage.eval.features.vision import CLIPFeatures, DINOv2Features, hub_positions
from arimage.eval.runner import evaluate

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 14}


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """A model whose table is of 37 x 37 positions, as the published ones."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Dinov2Model(Dinov2Config(**SMALL, image_size=518, mlp_ratio=2)).eval()
        for name, parameter in model.named_parameters():
            # Layer scales of 1 and sharp attention: otherwise positions average out.
            mean = 1.0 if "lambda" in name or "norm" in name else 0.0
            torch.nn.init.normal_(parameter, mean, 0.5)
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        config = CLIPVisionConfig(
            **SMALL, image_size=42, intermediate_size=48, projection_dim=10, hidden_act="quick_gelu"
        )
        model = CLIPVisionModelWithProjection(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(5).integers(0, 256, (3, 50, 50, 3), dtype=np.uint8)


def normalised(images, mean, std):
    mean, std = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
    return (images - mean) / std


def block(x, layer):
    """One transformer block, pre-norm, written out from its tensors."""

    def linear(name, x):
        return functional.linear(x, layer[f"{name}.weight"], layer[f"{name}.bias"])

    def norm(name, x):
        return functional.layer_norm(
            x, x.shape[-1:], layer[f"{name}.weight"], layer[f"{name}.bias"], layer["eps"]
        )

    inner = norm("norm1", x)
    q, k, v = (linear(n, inner).unflatten(2, (3, 8)).transpose(1, 2) for n in ("q", "k", "v"))
    weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1)
    attended = linear("o", (weights @ v).transpose(1, 2).flatten(2))
    x = x + attended * layer.get("scale1", 1)
    hidden = linear("down", layer["act"](linear("up", norm("norm2", x))))
    return x + hidden * layer.get("scale2", 1)


def renamed(state, names):
    """The tensors of one layer under the names that ``block`` uses."""
    found = {}
    for theirs, ours in names.items():
        for end in (".weight", ".bias", ""):
            if theirs + end in state:
                found[ours + end] = state[theirs + end]
    return found


def dinov2_written_out(state, images, table):
    names = {
        **{f"attention.attention.{n}": n[0] for n in ("query", "key", "value")},
        **{"attention.output.dense": "o", "mlp.fc1": "up", "mlp.fc2": "down"},
        **{"norm1": "norm1", "norm2": "norm2"},
        **{"layer_scale1.lambda1": "scale1", "layer_scale2.lambda1": "scale2"},
    }
    x = functional.conv2d(
        images,
        state["embeddings.patch_embeddings.projection.weight"],
        state["embeddings.patch_embeddings.projection.bias"],
        stride=14,
    )
    x = torch.cat([state["embeddings.cls_token"].expand(len(x), 1, -1), x.flatten(2).mT], 1) + table
    for i in range(2):
        start = f"encoder.layer.{i}."
        layer = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        x = block(x, renamed(layer, names) | {"eps": 1e-6, "act": functional.gelu})
    return functional.layer_norm(
        x[:, 0], (24,), state["layernorm.weight"], state["layernorm.bias"], 1e-6
    )


@pytest.mark.parametrize("rule", ["hub", "hf"])
def test_dinov2_is_the_class_token_of_a_plain_forward(rule, dinov2, pixels):
    _, folder = dinov2
    state = load_file(folder / "model.safetensors")  # under the published names
    levels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    images = functional.interpolate(levels, (224, 224), mode="bicubic", antialias=True) / 255
    images = normalised(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    table = state["embeddings.position_embeddings"]
    patches = table[:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    how = {"scale_factor": (16.1 / 37, 16.1 / 37)} if rule == "hub" else {"size": (16, 16)}
    patches = functional.interpolate(patches, mode="bicubic", **how).flatten(2).mT
    with torch.inference_mode():
        expected = dinov2_written_out(state, images, torch.cat([table[:, :1], patches], 1))
    found = DINOv2Features(folder, positions=rule)(pixels, np.arange(3))
    assert found.features.shape == (3, 24)
    assert found.features.dtype == np.float32
    assert found.labels.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.features, expected, rtol=0, atol=2e-5)
    other = DINOv2Features(folder, positions={"hub": "hf", "hf": "hub"}[rule])
    assert np.abs(other(pixels).features - found.features).max() > 1e-2
    assert other.name != found.extractor
    assert found.extractor.endswith(f"/bicubic-aa-224/positions-{rule}")


def test_hub_positions_of_the_own_grid_are_the_table():
    table = torch.randn(1, 17, 3)
    assert hub_positions(table, 4) is table
    assert hub_positions(table, 2).shape == (1, 5, 3)


def clip_written_out(state, images):
    state = {k.removeprefix("vision_model."): v for k, v in state.items()}
    names = {
        **{f"self_attn.{n}_proj": n for n in "qkv"},
        **{"self_attn.out_proj": "o", "mlp.fc1": "up", "mlp.fc2": "down"},
        **{"layer_norm1": "norm1", "layer_norm2": "norm2"},
    }

    def norm(name, x):
        return functional.layer_norm(x, (24,), state[f"{name}.weight"], state[f"{name}.bias"])

    x = functional.conv2d(images, state["embeddings.patch_embedding.weight"], stride=14)
    first = state["embeddings.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x.flatten(2).mT], 1) + state["embeddings.position_embedding.weight"]
    x = norm("pre_layrnorm", x)
    for i in range(2):
        start = f"encoder.layers.{i}."
        layer = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        act = lambda h: h * torch.sigmoid(1.702 * h)  # noqa: E731
        x = block(x, renamed(layer, names) | {"eps": 1e-5, "act": act})
    rows = norm("post_layernorm", x[:, 0]) @ state["visual_projection.weight"].T
    return rows / rows.norm(dim=1, keepdim=True)


def test_clip_is_the_embedding_of_a_plain_forward(clip):
    _, folder = clip
    wide = np.random.default_rng(6).integers(0, 256, (2, 60, 91, 3), dtype=np.uint8)
    squares = [
        np.asarray(Image.fromarray(image[:, 15:75]).resize((42, 42), Image.Resampling.BICUBIC))
        for image in wide
    ]
    images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2) / 255
    images = normalised(
        images, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    )
    with torch.inference_mode():
        expected = clip_written_out(load_file(folder / "model.safetensors"), images)
    found = CLIPFeatures(folder)(wide)
    np.testing.assert_allclose(found.features, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, atol=1e-6)
    assert found.extractor.endswith("/center-pil-bicubic-42/l2")


@pytest.fixture(scope="module")
def extractors(dinov2, clip):
    return DINOv2Features(dinov2[1]), CLIPFeatures(clip[1])


def test_batches_change_nothing_and_any_size_serves(extractors, monkeypatch):
    for extractor in extractors:
        for height, width in ((8, 8), (31, 57), (300, 280)):
            some = np.random.default_rng(height).integers(0, 256, (3, height, width, 3), np.uint8)
            whole = extractor(some)
            single = [extractor(some[i : i + 1]).features for i in range(3)]
            np.testing.assert_allclose(np.concatenate(single), whole.features, atol=2e-5)
            with monkeypatch.context() as patch:
                patch.setattr("arimage.eval.features.vision.BATCH", 2)
                np.testing.assert_allclose(extractor(some).features, whole.features, atol=2e-5)


def test_they_score(extractors, pixels):
    for extractor in extractors:
        reference = Reference.from_pixels("real", pixels, extractor)
        report = evaluate(pixels, metrics=["fid"], features=extractor, reference=reference)
        assert report["fid"].value == pytest.approx(0, abs=1e-6)
        assert report["fid"].features == extractor.name


def test_the_name_follows_the_weights(clip, tmp_path):
    model, folder = clip
    digests = sorted(
        hashlib.sha256(t.numpy().tobytes()).digest()
        for t in load_file(folder / "model.safetensors").values()
    )
    expected = hashlib.sha256(b"".join(digests)).hexdigest()
    assert CLIPFeatures(folder).name.startswith(f"clip@{expected[:8]}/")
    CLIPVisionModelWithProjection(model.config).save_pretrained(tmp_path)
    assert CLIPFeatures(tmp_path).name != CLIPFeatures(folder).name


def test_a_whole_clip_gives_its_vision_half(clip, tmp_path):
    model, folder = clip
    text = {"vocab_size": 20, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
    text |= {"intermediate_size": 8, "max_position_embeddings": 5}
    vision = model.config.to_dict()
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=10))
    whole.load_state_dict(model.state_dict(), strict=False)
    whole.save_pretrained(tmp_path)
    assert CLIPFeatures(tmp_path).name == CLIPFeatures(folder).name


@pytest.mark.parametrize("extractor", [DINOv2Features, CLIPFeatures])
def test_missing_models_get_one_sentence(extractor, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as error:
        extractor("nobody/nothing")
    message = str(error.value)
    assert "\n" not in message
    assert "cannot load nobody/nothing" in message
    assert f"pass it as {extractor.__name__}(model=FOLDER)" in message
    with pytest.raises(FileNotFoundError, match="cannot load"):
        extractor(tmp_path)


def test_another_model_is_refused(dinov2, clip):
    with pytest.raises(ValueError, match="is not a whole CLIPVisionModelWithProjection"):
        CLIPFeatures(dinov2[1])
    with pytest.raises(ValueError, match=r"unknown rule for positions 'timm'\. Known: hf, hub"):
        DINOv2Features(dinov2[1], positions="timm")
