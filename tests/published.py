"""Tiny checkpoints in published layouts, with weights that follow from their names.

``tests/golden/*/README.md`` says where the recorded outputs come from and how a weight is made.
"""

import functools
import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"
VAR_CASES = ("var", "var_shared_aln", "var_no_l2norm")


TOLERANCE = 1e-4  # of the largest value: float32 and another order of sums; measured up to 5e-5


def near(ours, theirs, tolerance=TOLERANCE):
    """Within ``tolerance`` of the largest value."""
    assert ours.shape == theirs.shape
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())


def built(layout, weights, **hints):
    """The model of published weights, in eval mode."""
    converted = layout.convert(weights, **hints)
    model = layout.model(converted.config)
    model.load_state_dict(converted.weights)
    return model.eval()


def check_random_numbers(probe):
    """Skips where torch draws other numbers than when the outputs were recorded."""
    stream = torch.empty(4096).exponential_(1, generator=torch.Generator().manual_seed(0))
    if not torch.equal(stream[: len(probe)], probe):
        pytest.skip("this torch draws other random numbers than the one that recorded")


def read(name):
    """A JSON file of the golden folder."""
    return json.loads((GOLDEN / name).read_text())


def drawn(key, seed, shape, mean, std):
    """Normal numbers that the name of the tensor and the seed decide."""
    stream = np.random.Generator(np.random.Philox(key=zlib.crc32(key.encode()) + (seed << 32)))
    return torch.from_numpy(
        np.float32(mean) + np.float32(std) * stream.standard_normal(shape, dtype=np.float32)
    )


def made(key, seed, shape, init):
    """A tensor that is not normal numbers: ``init`` is the manifest's record of it."""
    dtype = getattr(torch, init["dtype"])
    if init["init"] == "const":
        return torch.full(shape, init["value"], dtype=dtype)
    if init["init"] == "values":
        return torch.tensor(init["values"], dtype=dtype).reshape(shape)
    if init["init"] in ("levels", "block_causal", "block_diagonal"):
        level = torch.repeat_interleave(torch.tensor(init["counts"]))
        if init["init"] == "levels":
            return level.to(dtype).reshape(shape)
        compare = torch.ge if init["init"] == "block_causal" else torch.eq
        return torch.where(compare(level[:, None], level), 0.0, -torch.inf).reshape(shape)
    if init["init"] == "normal":  # the numbers of another tensor: they are tied
        return drawn(init["rng_key"], seed, shape, init["mean"], init["std"])
    if init["init"] == "bits":  # the signs of every id, the lowest bit first
        ids, place = torch.arange(shape[0])[:, None], torch.arange(shape[1])
        return ((ids >> place) % 2 * 2 - 1).to(dtype)
    assert init["init"] == "randint", init
    stream = np.random.Generator(np.random.Philox(key=zlib.crc32(key.encode()) + (seed << 32)))
    return torch.from_numpy(stream.integers(init["low"], init["high"], size=shape)).to(dtype)


@functools.cache
def case(name):
    """A family's case: config, calls, parts (name -> state dict), files, and recorded outputs.

    ``files``: part -> (published file name, keys of the dicts that the file wraps it in).
    """
    record = read(f"{name}/weights.json")
    parts, files = {}, {}
    for part, entry in record["parts"].items():
        parts[part], crc = {}, 0
        for key, (shape, *how) in entry["tensors"].items():
            make = drawn if len(how) == 2 else made
            parts[part][key] = make(key, record["seed"], shape, *how)
            crc = zlib.crc32(parts[part][key].numpy().tobytes(), crc)
        assert crc == entry["crc32"], "numpy draws other numbers than it did for the record"
        files[part] = entry["file"].split("/")[0].strip(), entry["wrapper"]
    expected = load_file(GOLDEN / name / "expected.safetensors")
    expected = {k: v.long() if v.dtype == torch.int16 else v for k, v in expected.items()}
    if name == "flexvar":
        expected["image"] = expected["image"].float() / 255 * 2 - 1
    return SimpleNamespace(
        name=name,
        config=record["config"],
        calls=record["calls"],
        parts=parts,
        files=files,
        expected=expected,
    )


def save_part(name, part, folder):
    """Writes a part of a case as it is published (name and wrapper); returns the path."""
    found = case(name)
    file, wrapper = found.files[part]
    content = found.parts[part]
    for key in reversed(wrapper):
        content = {key: content}
    torch.save(content, folder / file)
    return folder / file


def constant(kind, shape, scales):
    """The buffers of a VAR file."""
    levels = torch.repeat_interleave(
        torch.arange(len(scales)), torch.tensor([side * side for side in scales])
    )
    if kind == "levels":
        return levels.reshape(shape)
    if kind == "causal":
        hidden = levels[:, None] < levels[None]
        return torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf).reshape(shape)
    return torch.zeros(shape)


def state_dict(tensors, seed, scales, checksum):
    """Published names to tensors; the checksum says whether they are the recorded ones."""
    made, crc = {}, 0
    for key, (shape, *how) in tensors.items():
        shape = [len(scales) if n == "S" else n for n in shape]
        made[key] = (
            drawn(key, seed, shape, *how) if len(how) == 2 else constant(*how, shape, scales)
        )
        crc = zlib.crc32(made[key].numpy().tobytes(), crc)
    assert crc == checksum, "numpy draws other numbers than it did for the record"
    return made


@functools.cache
def var_case(name):
    """config, calls, the state dicts ``var`` and ``vae``, and the recorded outputs."""
    record = read("var/weights.json")
    case = record["cases"][name]
    scales = case["config"]["patch_nums"]
    states = {
        part: state_dict(tensors, record["seed"], scales, case["crc32"][part])
        for part, tensors in (("vae", record["vae"]), ("var", case["var"]))
    }
    expected = load_file(GOLDEN / "var" / f"{name}.safetensors")
    expected["image"] = expected["image"].float() / 255 * 2 - 1
    record = {**case, **states, "name": name, "scales": scales, "expected": expected}
    return SimpleNamespace(**record)


def save_var(name, folder):
    """Writes the two files of a case under their published names; returns (var, vae)."""
    case = var_case(name)
    paths = folder / f"var_d{case.config['depth']}.pth", folder / "vae_ch160v4096z32.pth"
    torch.save(case.var, paths[0])
    torch.save(case.vae, paths[1])
    return paths


@functools.cache
def full_size(name, family="var"):
    """Names and meta tensors of a full-size checkpoint."""
    record = read(f"{family}/manifests.json")[name]
    shapes = {}
    for key, shape in record["shapes"].items():
        numbers = range(record["blocks"]) if "*" in key else [0]
        shapes |= {key.replace("*", str(i)): shape for i in numbers}
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert len(tensors) == record["tensors"]
    assert sum(value.numel() for value in tensors.values()) == record["elements"]
    return tensors
