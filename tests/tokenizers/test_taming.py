"""taming's files, plain and Gumbel, against the networks written out; every way they come."""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from tiny import sentence

from arimage.tokenizers.base import ImageTokenizer

# vqgan_gumbel_f8's model.yaml at a sixteenth of its width: z_channels 256, n_embed 8192, ch 128.
GUMBEL = {"ch": 64, "ch_mult": (1, 1, 2, 4), "z": 16, "codes": 48, "gumbel": True}
PLAIN = {"ch": 64, "ch_mult": (1, 2), "z": 12, "codes": 40, "gumbel": False}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of the hub for each test."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))


def random_file(ch, ch_mult, z, codes, gumbel, seed=0):
    """A state dict with taming's names and random weights."""
    weights, generator = {}, torch.Generator().manual_seed(seed)

    def add(name, *shape, bias=True):
        scale = 1 if "embed" in name else torch.tensor(shape[1:]).prod() ** -0.5
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * scale
        if bias:
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) / 10

    def norm(name, channels):
        weights[f"{name}.weight"] = 1 + torch.randn(channels, generator=generator) / 10
        weights[f"{name}.bias"] = torch.randn(channels, generator=generator) / 10

    def block(name, before, after):
        norm(f"{name}.norm1", before)
        add(f"{name}.conv1", after, before, 3, 3)
        norm(f"{name}.norm2", after)
        add(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            add(f"{name}.nin_shortcut", after, before, 1, 1)

    def attention(name, channels):
        norm(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            add(f"{name}.{part}", channels, channels, 1, 1)

    def middle(side, channels):
        block(f"{side}.mid.block_1", channels, channels)
        attention(f"{side}.mid.attn_1", channels)
        block(f"{side}.mid.block_2", channels, channels)

    widths, last = [ch * m for m in ch_mult], len(ch_mult) - 1
    add("encoder.conv_in", ch, 3, 3, 3)
    for level, width in enumerate(widths):
        for i in range(2):
            before = widths[max(level - 1, 0)] if i == 0 else width
            block(f"encoder.down.{level}.block.{i}", before, width)
            if level == last:
                attention(f"encoder.down.{level}.attn.{i}", width)
        if level < last:
            add(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    middle("encoder", widths[-1])
    norm("encoder.norm_out", widths[-1])
    add("encoder.conv_out", z, widths[-1], 3, 3)
    add("decoder.conv_in", widths[-1], z, 3, 3)
    middle("decoder", widths[-1])
    for level, width in enumerate(widths):
        for i in range(3):
            before = widths[min(level + 1, last)] if i == 0 else width
            block(f"decoder.up.{level}.block.{i}", before, width)
            if level == last:
                attention(f"decoder.up.{level}.attn.{i}", width)
        if level:
            add(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    norm("decoder.norm_out", ch)
    add("decoder.conv_out", 3, ch, 3, 3)
    add("quant_conv", z, z, 1, 1)
    add("post_quant_conv", z, z, 1, 1)
    if gumbel:
        add("quantize.proj", codes, z, 1, 1)
        add("quantize.embed", codes, z, bias=False)
    else:
        add("quantize.embedding", codes, z, bias=False)
    weights["loss.discriminator.main.0.weight"] = torch.zeros(4, 3, 4, 4)
    return weights


class Written:
    """The published forward pass, one function after the other."""

    def __init__(self, weights):
        self.weights = weights
        self.levels = 1 + max(int(k.split(".")[2]) for k in weights if "encoder.down." in k)

    def conv(self, name, x, **options):
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **options)

    def norm(self, name, x):
        affine = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.group_norm(x, 32, *affine, eps=1e-6)

    def block(self, name, x):
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), padding=1)
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), padding=1)
        if f"{name}.nin_shortcut.weight" in self.weights:
            x = self.conv(f"{name}.nin_shortcut", x)
        return x + h

    def attention(self, name, x):
        if f"{name}.q.weight" not in self.weights:
            return x
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weights = (q.transpose(1, 2) @ k * q.shape[1] ** -0.5).softmax(-1)
        return x + self.conv(f"{name}.proj_out", (v @ weights.transpose(1, 2)).view_as(x))

    def middle(self, side, x):
        x = self.attention(f"{side}.mid.attn_1", self.block(f"{side}.mid.block_1", x))
        return self.block(f"{side}.mid.block_2", x)

    def encode(self, images):
        x = self.conv("encoder.conv_in", images, padding=1)
        for level in range(self.levels):
            for i in range(2):
                x = self.block(f"encoder.down.{level}.block.{i}", x)
                x = self.attention(f"encoder.down.{level}.attn.{i}", x)
            if level < self.levels - 1:
                x = self.conv(
                    f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2
                )
        x = F.silu(self.norm("encoder.norm_out", self.middle("encoder", x)))
        latents = self.conv("quant_conv", self.conv("encoder.conv_out", x, padding=1))
        if "quantize.proj.weight" in self.weights:
            return self.conv("quantize.proj", latents).argmax(1).flatten(1)
        rows = latents.flatten(2).transpose(1, 2)
        return torch.cdist(rows, self.weights["quantize.embedding.weight"][None]).argmin(-1)

    def decode(self, ids, size):
        book = self.weights.get(
            "quantize.embed.weight", self.weights.get("quantize.embedding.weight")
        )
        codes = book[ids].transpose(1, 2).unflatten(2, size)
        x = self.conv("decoder.conv_in", self.conv("post_quant_conv", codes), padding=1)
        x = self.middle("decoder", x)
        for level in reversed(range(self.levels)):
            for i in range(3):
                x = self.block(f"decoder.up.{level}.block.{i}", x)
                x = self.attention(f"decoder.up.{level}.attn.{i}", x)
            if level:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv(f"decoder.up.{level}.upsample.conv", x, padding=1)
        return self.conv("decoder.conv_out", F.silu(self.norm("decoder.norm_out", x)), padding=1)


def gap(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize("sizes", [GUMBEL, PLAIN], ids=["gumbel", "plain"])
@pytest.mark.parametrize("grid", [(4, 4), (5, 8)])
def test_the_networks_are_as_written(tmp_path, sizes, grid):
    weights = random_file(**sizes)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": weights, "epoch": 3, "optimizer_states": [{"state": {}}]}, path)
    native = ImageTokenizer.from_pretrained(path, image_size=64)
    assert native.config.quantizer == ("gumbel" if sizes["gumbel"] else "vq_learned")
    tokenizer = native.at([grid]).double()
    weights = {name: weight.double() for name, weight in weights.items()}
    factor = native.config.downsample_factor
    assert factor == 2 ** (len(sizes["ch_mult"]) - 1)
    images = torch.rand(2, 3, grid[0] * factor, grid[1] * factor).double() * 2 - 1
    written = Written(weights)
    ids = written.encode(images)
    assert len(ids.unique()) > 5
    assert torch.equal(tokenizer.encode(images), ids)
    recorded = written.decode(ids, grid)
    assert gap(tokenizer.decode_canvas(tokenizer.canvas_of(ids)), recorded) < 1e-10
    assert gap(tokenizer.decode(ids), recorded.clamp(-1, 1)) < 1e-10
    for key in ("encoder.mid.attn_1.k.weight", "decoder.up.1.attn.2.v.bias"):
        if key in weights:  # the negative twin: every one of q, k and v has its place
            other = Written({**weights, key: weights[key.replace(".k.", ".q.")].flip(0)})
            changed = other.encode(images), other.decode(ids, grid)
            assert not torch.equal(changed[0], ids) or gap(changed[1], recorded) > 1e-3


@pytest.fixture
def lightning(monkeypatch):
    """A class under the name of Lightning's callback, while files are written."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for parent in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    sys.modules[name].ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    return sys.modules[name].ModelCheckpoint


@pytest.mark.parametrize("zipped", [True, False])
def test_a_lightning_file_as_it_was_published(tmp_path, lightning, zipped, monkeypatch):
    weights = random_file(**PLAIN)
    content = {
        "epoch": 7,
        "global_step": 1,
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {lightning: {"best_model_score": torch.tensor(0.5), "monitor": "val/rec"}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}],
        "lr_schedulers": [],
        "state_dict": weights,
    }
    path = tmp_path / "vqgan_imagenet_f16_16384.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, lightning.__module__)  # as where Lightning is not installed
    tokenizer = ImageTokenizer.from_pretrained(path)
    assert torch.equal(tokenizer.quantizer.inner.weight, weights["quantize.embedding.weight"])
    assert tokenizer.config.image_size == 256


def test_another_class_in_a_file_is_refused(tmp_path, lightning):
    lightning.__qualname__ = lightning.__name__ = "Other"
    sys.modules[lightning.__module__].Other = lightning
    torch.save({"state_dict": random_file(**PLAIN), "x": lightning()}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError) as caught:
        ImageTokenizer.from_pretrained(tmp_path / "x.ckpt")
    assert "model_checkpoint.Other" in sentence(caught)


@pytest.mark.parametrize("wrap", ["model", "module", "state_dict", "", "prefix", "arguments"])
def test_wrappers(tmp_path, wrap):
    from argparse import Namespace

    weights = random_file(**PLAIN)
    content = {wrap: weights, "steps": 3}
    if wrap == "":
        content = weights
    elif wrap == "prefix":
        content = {"model": {f"module._orig_mod.{k}": v for k, v in weights.items()}}
    elif wrap == "arguments":
        content = {"model": weights, "args": Namespace(lr=1e-4)}
    torch.save(content, tmp_path / "x.pt")
    tokenizer = ImageTokenizer.from_pretrained(tmp_path / "x.pt", image_size=32)
    assert torch.equal(tokenizer.post_quant.bias.data, weights["post_quant_conv.bias"])
    assert tokenizer.slots.grids == ((16, 16),)
