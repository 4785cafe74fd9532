"""Inception against recorded outputs of torch-fidelity and pytorch-fid, and its weight files."""

import numpy as np
import pytest
import torch
from published import case, save_part
from safetensors.torch import save_file
from torch.nn import functional

from arimage.eval.features import inception, inception_layers
from arimage.eval.features.exact import exact_float32
from arimage.eval.features.inception import (
    WEIGHTS,
    InceptionFeatures,
    load_inception,
    tf1_resize,
)
from arimage.eval.features.inception_layers import InceptionV3, _block_e
from arimage.eval.features.weights import file_sha256

# Of the mean absolute feature; float32 of two correct programs differs by about 3e-6 of it.
TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def recorded():
    return case("inception_fid").expected


@pytest.fixture(scope="session")
def images(recorded):
    """The recorded images as pixels (4, 32, 24, 3)."""
    return recorded["images"].permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()


@pytest.fixture(scope="session")
def weight_file(tmp_path_factory):
    """The rebuilt weights in the published layout, under a name of their own."""
    folder = tmp_path_factory.mktemp("inception")
    return save_part("inception_fid", "inception", folder).rename(folder / "random.pth")


@pytest.fixture(scope="session")
def extractor(weight_file):
    return InceptionFeatures(weight_file)


@pytest.fixture(scope="session")
def plain(weight_file):
    """The slow twin: norms not folded, memory as torch lays it out."""
    return load_inception(weight_file)


@pytest.fixture(scope="session")
def said(extractor, images):
    """What the extractor says of the recorded images, asked once."""
    return extractor(images, np.arange(4))


def far(found, expected):
    """The largest difference, relative to the mean absolute value expected."""
    return ((torch.as_tensor(found) - expected).abs().max() / expected.abs().mean()).item()


def averaged_taps(network, prepared):
    """The averages of the three inner maps that both references can return, and the last."""
    maps = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda module, given, output, name=name: maps.update({name: output})
        )
        for name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_6e")
    ]
    with torch.inference_mode():
        pool = network(prepared).pool
    for hook in hooks:
        hook.remove()
    halved = {k: m if k == "Mixed_6e" else functional.max_pool2d(m, 3, 2) for k, m in maps.items()}
    return {str(m.shape[1]): m.mean((2, 3)) for m in halved.values()} | {"2048": pool}


@pytest.mark.parity
@pytest.mark.parametrize("front_end", ["tf1", "pytorch-fid"])
def test_every_tap_is_the_recorded_one(front_end, plain, images, recorded):
    taps = averaged_taps(plain, inception.FRONT_ENDS[front_end](torch.from_numpy(images)))
    source = {"tf1": "torch_fidelity", "pytorch-fid": "pytorch_fid"}[front_end]
    assert taps.keys() == {"64", "192", "768", "2048"}
    for width, tap in taps.items():
        assert far(tap, recorded[f"{source}_{width}"]) < TOLERANCE
    other = {"tf1": "pytorch_fid", "pytorch-fid": "torch_fidelity"}[front_end]
    assert far(taps["2048"], recorded[f"{other}_2048"]) > 10 * TOLERANCE


@pytest.mark.parity
def test_the_extractor_says_what_is_recorded(said, extractor, recorded):
    assert far(said.features, recorded["torch_fidelity_2048"]) < TOLERANCE
    unbiased = extractor.network.logits(recorded["torch_fidelity_2048"], bias=False)
    assert far(unbiased[:, ::8], recorded["torch_fidelity_logits_unbiased"]) < TOLERANCE
    biased = extractor.network.logits(recorded["torch_fidelity_2048"], bias=True)
    assert far(biased[:, ::8], recorded["torch_fidelity_logits"]) < TOLERANCE
    assert far(biased[:, ::8], recorded["torch_fidelity_logits_unbiased"]) > 100 * TOLERANCE
    # Within one image, ratios of probabilities are differences of logits.
    logs = torch.from_numpy(said.probabilities).log()[:, ::8]
    expected = recorded["torch_fidelity_logits_unbiased"]
    assert far(logs - logs[:, :1], expected - expected[:, :1]) < TOLERANCE


@pytest.mark.parity
def test_tf1_resize_is_the_recorded_one(images, recorded):
    pixels = torch.from_numpy(images)
    whole = tf1_resize(pixels, (299, 299)).permute(0, 3, 1, 2)
    assert torch.equal(whole[:, :, ::13, ::13], recorded["tf1_resize_299_sub"])
    torch.testing.assert_close(
        whole.sum((2, 3)), recorded["tf1_resize_299_sums"], rtol=1e-6, atol=0
    )
    small = tf1_resize(pixels[:2], (13, 17)).permute(0, 3, 1, 2)
    assert torch.equal(small, recorded["tf1_resize_small"])
    big = tf1_resize(pixels[:1], (37, 41)).permute(0, 3, 1, 2)
    assert torch.equal(big, recorded["tf1_resize_big"])
    half_pixel = functional.interpolate(
        recorded["images"][:2].float(), (299, 299), mode="bilinear", align_corners=False
    )[:, :, ::13, ::13]
    torch.testing.assert_close(half_pixel, recorded["torch_resize_299_sub"], rtol=0, atol=1e-4)
    assert (half_pixel - recorded["tf1_resize_299_sub"][:2]).abs().max() > 10


@pytest.mark.parametrize("side", [32, 64, 256, 299, 300, 512])
def test_tf1_resize_written_out(side):
    """Against numpy float32, pixel by pixel, on a row of random ones."""
    row = np.random.default_rng(side).integers(0, 256, side).astype(np.uint8)
    scale = np.float32(side) / np.float32(299)
    expected = []
    for i in range(299):
        position = np.float32(i) * scale
        low = int(np.floor(position))
        a, b = np.float32(row[low]), np.float32(row[min(low + 1, side - 1)])
        expected.append(a + (b - a) * (position - np.float32(low)))
    pixels = torch.from_numpy(row)[None, :, None, None].expand(1, side, side, 1)
    down = tf1_resize(pixels, (299, 5))[0, :, 3, 0]
    assert down.tolist() == [float(value) for value in expected]


def test_tf1_resize_by_hand():
    pixels = torch.tensor([[[0], [2]]], dtype=torch.uint8)[None]  # one row of two pixels
    assert tf1_resize(pixels, (1, 4)).flatten().tolist() == [0, 1, 2, 2]
    square = torch.randint(0, 256, (1, 299, 299, 3), dtype=torch.uint8)
    assert torch.equal(tf1_resize(square, (299, 299)), square.float())


def test_tf1_normalises_to_less_than_one():
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 4, 4, 3)
    prepared = inception.FRONT_ENDS["tf1"](pixels)
    assert prepared[:, 0, 0, 0].tolist() == [-1, 0, 127 / 128]
    prepared = inception.FRONT_ENDS["pytorch-fid"](pixels)
    torch.testing.assert_close(prepared[:, 0, 0, 0], torch.tensor([-1, 1 / 255, 1]))


def test_wrong_pools_fail_the_comparison(plain, images, recorded, monkeypatch):
    prepared = inception.FRONT_ENDS["tf1"](torch.from_numpy(images[:1]))
    expected = recorded["torch_fidelity_2048"][:1]
    right = inception_layers.POOLS
    for name in ("average", "max"):
        wrong = {name: lambda x: functional.avg_pool2d(x, 3, 1, 1)}  # counts the padding
        monkeypatch.setattr(inception_layers, "POOLS", right | wrong)
        with torch.inference_mode():
            assert far(plain(prepared).pool, expected) > 100 * TOLERANCE


def test_pools_at_the_border():
    """A constant stays constant, and the last block takes the maximum."""
    average, top = (_block_e(4, pool).eval() for pool in ("average", "max"))
    top.load_state_dict(average.state_dict())
    constant, ramp = torch.ones(1, 4, 8, 8), torch.rand(1, 4, 8, 8)
    assert torch.equal(inception_layers.POOLS["average"](constant), constant)
    with torch.inference_mode():
        assert torch.equal(average(constant)[:, -192:], top(constant)[:, -192:])
        assert not torch.equal(average(ramp)[:, -192:], top(ramp)[:, -192:])


def test_folding_keeps_the_function(plain, extractor, images):
    prepared = inception.FRONT_ENDS["tf1"](torch.from_numpy(images[:2]))
    with torch.inference_mode():
        slow, fast = plain(prepared.contiguous()), extractor.network(prepared)
    assert far(fast.pool, slow.pool) < 1e-5
    assert far(fast.spatial, slow.spatial) < 1e-4
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in extractor.network.modules())


def test_spatial_features_are_channels_of_mixed_6d_position_by_position(plain, images):
    found = []
    block = plain.Mixed_6d.branch1x1
    hook = block.register_forward_hook(lambda module, given, output: found.append(output))
    with torch.inference_mode():
        spatial = plain(inception.FRONT_ENDS["tf1"](torch.from_numpy(images[:1]))).spatial
    hook.remove()
    (corner,) = found
    assert corner.shape == (1, 192, 17, 17)
    assert spatial.shape == (1, 2023)
    assert corner.min() == 0
    for place, (y, x) in {0: (0, 0), 1: (0, 1), 17: (1, 0), 288: (16, 16)}.items():
        assert torch.equal(spatial[0, 7 * place :][:7], corner[0, :7, y, x])


def test_shapes_labels_and_name(said, extractor, weight_file):
    assert extractor.name == f"inception@{file_sha256(weight_file)[:8]}/tf1-bilinear-299"
    assert said.extractor == extractor.name
    assert (said.features.dtype, said.features.shape) == (np.float32, (4, 2048))
    assert (said.spatial.dtype, said.spatial.shape) == (np.float32, (4, 2023))
    assert (said.probabilities.dtype, said.probabilities.shape) == (np.float32, (4, 1008))
    assert said.labels.tolist() == [0, 1, 2, 3]


def test_batches_and_repetition_change_nothing(said, extractor, images, monkeypatch):
    again = extractor(images)
    np.testing.assert_array_equal(again.features, said.features)
    monkeypatch.setattr(inception, "CPU_BATCH", 3)
    pieces = extractor(images[::-1])  # a view that torch cannot take as it is
    np.testing.assert_allclose(pieces.features[::-1], said.features, atol=2e-5)
    np.testing.assert_allclose(pieces.spatial[::-1], said.spatial, atol=1e-4)
    monkeypatch.setattr(inception, "CPU_BATCH", 1)
    torch.set_num_threads(2)
    try:
        together = extractor(images)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    np.testing.assert_allclose(together.features, said.features, atol=2e-5)


def test_layout_is_the_published_one():
    with torch.device("meta"):
        network = InceptionV3()
    state = network.state_dict()
    published = case("inception_fid").parts["inception"]
    assert list(state) == list(published)
    assert all(state[key].shape == published[key].shape for key in state)
    kept = [key for key in state if not key.endswith("num_batches_tracked")]
    assert (len(state), len(kept)) == (566, 472)
    assert sum(state[key].numel() for key in kept) == 23_885_392


def test_other_forms_of_the_file_load_alike(plain, tmp_path):
    state = case("inception_fid").parts["inception"]
    bare = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_file(bare, tmp_path / "bare.safetensors")
    torch.save({"model": bare}, tmp_path / "nested.pth")
    for name in ("bare.safetensors", "nested.pth"):
        found = load_inception(tmp_path / name).state_dict()
        assert all(torch.equal(found[key], plain.state_dict()[key]) for key in bare)


def test_other_networks_are_refused(tmp_path):
    state = case("inception_fid").parts["inception"]
    path = tmp_path / "x.pth"
    torch.save({**state, "fc.weight": state["fc.weight"][:1000], "fc.bias": torch.ones(1000)}, path)
    with pytest.raises(ValueError, match="torchvision's ImageNet classifier, which is another"):
        load_inception(path)
    torch.save({"AuxLogits.conv0.conv.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="torchvision's ImageNet classifier"):
        load_inception(path)
    lacking = {k: v for k, v in state.items() if k != "Mixed_7c.branch_pool.conv.weight"}
    torch.save(lacking, path)
    with pytest.raises(ValueError, match=r"1 missing \(Mixed_7c.branch_pool.conv.weight\)"):
        load_inception(path)


def test_the_published_file_is_known(weight_file, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    assert all(WEIGHTS.sha256[:8] in name for name in WEIGHTS.files)
    with pytest.raises(FileNotFoundError, match=r"release v0\.2\.0 of toshas/torch-fidelity"):
        InceptionFeatures()
    named = tmp_path / WEIGHTS.files[1]
    named.write_bytes(weight_file.read_bytes())
    with pytest.raises(ValueError, match="but the published file of that name has 6726825d0af5"):
        InceptionFeatures(named)
    with pytest.raises(ValueError, match=r"unknown front end 'tf2'\. Did you mean 'tf1'"):
        InceptionFeatures(weight_file, front_end="tf2")


@pytest.fixture
def rounding():
    """A process that allows every shortcut; as it was before, afterwards."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    yield
    matmul.fp32_precision = before


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9")
def test_exact_float32_switches_off_and_restores(rounding):
    places = (
        *(torch.backends.cuda.matmul, torch.backends.cudnn.conv),
        *(torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv),
    )
    before = [place.fp32_precision for place in places]
    assert before[2] == "bf16"
    matrix = torch.randn(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert (matrix @ matrix).dtype == torch.bfloat16
        with exact_float32(torch.device("cpu")):
            assert (matrix @ matrix).dtype == torch.float32
            assert [place.fp32_precision for place in places] == ["ieee"] * 4
            assert torch.backends.cudnn.deterministic
            assert not torch.backends.cudnn.benchmark
            assert torch.is_inference_mode_enabled()
    assert [place.fp32_precision for place in places] == before
    assert not torch.backends.cudnn.deterministic


def test_exact_float32_leaves_the_older_switches_usable():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with exact_float32(torch.device("cpu")):
        pass
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    torch.set_float32_matmul_precision(torch.get_float32_matmul_precision())
