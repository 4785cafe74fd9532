"""Reference statistics: every published layout reads alike, broken files get a sentence."""

import json

import numpy as np
import pytest
import torch

from arimage.eval.base import FeatureBatch, Reference
from arimage.eval.extraction import Pass
from arimage.eval.features.pixels import PixelFeatures
from arimage.eval.moments import Moments
from arimage.eval.references import (
    KNOWN,
    find_known,
    from_source,
    load_reference,
    save_reference,
)
from arimage.eval.runner import evaluate
from arimage.eval.sources import ArraySource

HOW = Pass()


class Inception:
    """A small stand-in with the name of the network that published files do not name."""

    name = "inception@00000000/tf1-bilinear-299"

    def __call__(self, pixels, labels=None):
        flat = pixels.reshape(len(pixels), -1).astype(np.float32)
        return FeatureBatch(
            extractor=self.name, features=flat[:, :6], spatial=flat[:, 6:11], labels=labels
        )


@pytest.fixture(scope="module")
def real():
    return np.random.default_rng(3).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def made():
    return np.random.default_rng(4).integers(0, 230, (30, 6, 5, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def statistics(real):
    seen = Inception()(real)
    parts = {"": seen.features, "_s": seen.spatial}
    arrays = {f"mu{k}": rows.mean(0) for k, rows in parts.items()}
    return arrays | {f"sigma{k}": np.cov(rows.T) for k, rows in parts.items()}


def adm(path, statistics, real):
    np.savez(path / "VIRTUAL.npz", real[:20], **statistics)
    return path / "VIRTUAL.npz"


def pytorch_fid(path, statistics, real):
    np.savez_compressed(path / "fid.npz", mu=statistics["mu"], sigma=statistics["sigma"])
    return path / "fid.npz"


def torch_fidelity(path, statistics, real):
    torch.save({key: statistics[key] for key in ("mu", "sigma")}, path / "stat.pt")
    return path / "stat.pt"


def torch_tensors(path, statistics, real):
    tensors = {key: torch.from_numpy(statistics[key]) for key in ("mu", "sigma")}
    torch.save(tensors, path / "stat.pt")
    return path / "stat.pt"


def ours(path, statistics, real):
    made = load_reference(real, Inception(), HOW, images=True)
    return save_reference(path / "stats.npz", made)


LAYOUTS = [adm, pytorch_fid, torch_fidelity, torch_tensors, ours]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_score_of_the_images(layout, statistics, real, made, tmp_path):
    path = layout(tmp_path, statistics, real)
    expected = evaluate(made, metrics=["fid"], features=Inception(), reference=real)
    report = evaluate(made, metrics=["fid"], features=Inception(), reference=path)
    assert report["fid"].value == pytest.approx(expected["fid"].value, rel=1e-6)
    record = report.protocol.references["reference"]
    assert record["count"] == (40 if layout is ours else None)
    assert ("remark" in record) == (layout is not ours)
    assert len(record["sha256"]) == 64
    other = evaluate(made, metrics=["fid"], features=Inception(), reference=real[:35])
    assert other["fid"].value != pytest.approx(expected["fid"].value, rel=1e-3)


def test_images_in_the_file_serve_metrics_that_need_them(statistics, real, made, tmp_path):
    path = adm(tmp_path, statistics, real)
    report = evaluate(
        made, metrics=["fid", "precision"], features=Inception(), reference=path, gallery=4
    )
    expected = evaluate(made, metrics=["precision"], features=Inception(), reference=real[:20])
    assert report["precision"].value == expected["precision"].value
    assert report.gallery.nearest.shape == (4, 6, 5, 3)
    bare = pytorch_fid(tmp_path, statistics, real)
    with pytest.raises(ValueError, match="holds only a mean and a covariance"):
        evaluate(made, metrics=["precision"], features=Inception(), reference=bare)


def test_ours_keeps_features_and_labels(real, tmp_path):
    made = Reference.from_pixels("real", real, Inception(), labels=np.arange(40) % 4)
    few = from_source(ArraySource(real, "real", np.arange(40) % 4), Inception(), HOW, keep=10)
    path = save_reference(tmp_path / "r.npz", few)
    again = load_reference(path, Inception(), HOW, images=True)
    assert (again.name, again.extractor, again.count) == ("real", Inception.name, 40)
    np.testing.assert_array_equal(again.features, made.features[::4])
    assert again.images.labels.tolist() == made.images.labels[::4].tolist()
    np.testing.assert_allclose(again.spatial.covariance, made.spatial.covariance)
    with np.load(path, allow_pickle=False) as file:
        assert json.loads(str(file["meta"]))["extractor"] == Inception.name
    assert load_reference(made, Inception(), HOW, images=True) is made


def test_another_network_or_dimension_is_refused(statistics, real, made, tmp_path):
    path = adm(tmp_path, statistics, real)
    with pytest.raises(ValueError, match="does not say which network made its statistics"):
        evaluate(made, metrics=["fid"], features=PixelFeatures(), reference=path)
    saved = ours(tmp_path, statistics, real)
    with pytest.raises(ValueError, match=r"seen by 'pixels', but 'inception@0.*' saw it"):
        evaluate(made, metrics=["fid"], features=PixelFeatures(), reference=saved)
    np.savez(tmp_path / "wide.npz", mu=np.zeros(7), sigma=np.eye(7))
    with pytest.raises(ValueError, match="got 6 features per image and a reference of 7"):
        evaluate(made, metrics=["fid"], features=Inception(), reference=tmp_path / "wide.npz")


def pickled(path):
    np.savez(path / "x.npz", mu=np.array([{}], dtype=object), sigma=np.eye(3))
    return path / "x.npz"


def half(path):
    np.savez(path / "x.npz", mu=np.zeros(3))
    return path / "x.npz"


def lopsided(path):
    np.savez(path / "x.npz", mu=np.zeros(3), sigma=np.arange(9.0).reshape(3, 3))
    return path / "x.npz"


def nan(path):
    np.savez(path / "x.npz", mu=np.zeros(3), sigma=np.full((3, 3), np.nan))
    return path / "x.npz"


def torch_object(path):
    torch.save({"mu": np.zeros(3), "sigma": Moments}, path / "x.pt")
    return path / "x.pt"


def torch_other(path):
    torch.save({"state_dict": {}}, path / "x.pt")
    return path / "x.pt"


def torn(path):
    np.savez_compressed(path / "x.npz", mu=np.zeros(300), sigma=np.eye(300))
    (path / "x.npz").write_bytes((path / "x.npz").read_bytes()[:500])
    return path / "x.npz"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pickled, "mu holds Python objects, which could run code"),
        (half, "lacks sigma; it holds mu"),
        (lopsided, "the covariance is not symmetric"),
        (nan, "holds NaN or infinity"),
        (torch_object, "cannot be opened as plain tensors"),
        (torch_other, "holds no dict with mu and sigma"),
        (torn, "cannot be read"),
    ],
)
def test_broken_files(make, message, made, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate(made, metrics=["fid"], features=Inception(), reference=make(tmp_path))


def test_a_known_reference_says_where_it_comes_from_and_is_pinned(
    statistics, real, made, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    known, folder = KNOWN["imagenet256"], tmp_path / "arimage" / "references"
    call = {"metrics": ["fid"], "features": Inception(), "reference": "imagenet256"}
    with pytest.raises(FileNotFoundError) as error:
        evaluate(made, **call)
    for part in ("VIRTUAL_imagenet256_labeled.npz", "guided-diffusion", str(folder)):
        assert part in str(error.value)
    folder.mkdir(parents=True)
    np.savez(folder / known.file, real[:20], **statistics)
    report = evaluate(made, **call)
    record = report.protocol.references["reference"]
    assert (record["name"], record["count"]) == ("imagenet256", 1_281_167)
    pins = json.loads((folder / "sha256.json").read_text())
    assert pins == {known.file: record["sha256"]}
    assert find_known(known) == folder / known.file
    np.savez(folder / known.file, real[:19], **statistics)
    with pytest.raises(ValueError, match=f"and {record['sha256']} is expected"):
        evaluate(made, **call)


def test_the_packaged_digits_are_the_held_out_ones(tmp_path):
    from arimage.demo.digits import write_reference

    again = write_reference(tmp_path / "digits.npz")
    with np.load(again, allow_pickle=False) as new, np.load(find_known(KNOWN["digits"])) as old:
        assert sorted(new) == sorted(old)
        assert str(new["meta"]) == str(old["meta"])
        for key in set(new) - {"meta"}:
            np.testing.assert_allclose(new[key], old[key], rtol=1e-4, atol=1e-5)
