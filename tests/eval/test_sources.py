"""Where images come from: every form gives the same pixels, every broken one a sentence."""

import io
import zipfile

import datasets
import numpy as np
import pytest
from PIL import Image

from arimage.eval.extraction import Pass, extract
from arimage.eval.features.pixels import PixelFeatures
from arimage.eval.runner import evaluate
from arimage.eval.sources import ReadOptions, dataset_source, labels_of, open_path
from arimage.images import center_crop, write_png


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(5).integers(0, 256, (11, 9, 7, 3), dtype=np.uint8)


@pytest.fixture
def folder(images, tmp_path):
    for i, pixels in enumerate(images):
        write_png(tmp_path / "png" / f"{i:02d}.png", pixels)
    return tmp_path / "png"


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


def test_every_form_reads_the_same_from_any_index(images, folder, tmp_path):
    np.savez(tmp_path / "a.npz", images)
    np.savez_compressed(tmp_path / "b.npz", images)
    np.savez(tmp_path / "c.npz", arr_0=np.asfortranarray(images), arr_1=np.arange(11))
    np.save(tmp_path / "d.npy", images)
    forms = [folder, zipped(folder, tmp_path / "e.zip"), *sorted(tmp_path.glob("*.np?"))]
    assert len(forms) == 6
    for form in forms:
        source = open_path(form)
        assert len(source) == 11
        for start, stop in ((0, 4), (9, 20), (3, 4)):
            chunk = source.read(start, stop)
            np.testing.assert_array_equal(chunk.pixels, images[start:stop])
            assert chunk.kept.tolist() == list(range(start, min(stop, 11)))
        assert source.sha256() == open_path(folder).sha256()
    assert open_path(tmp_path / "c.npz").labels.tolist() == list(range(11))
    assert len({open_path(form).identity for form in forms}) == 6


def test_identity_follows_the_files(folder, images):
    before = open_path(folder).identity
    assert open_path(folder).identity == before
    assert open_path(folder, ReadOptions(size=4)).identity != before
    write_png(folder / "03.png", images[0])
    assert open_path(folder).identity != before


def test_grey_cmyk_palette_and_opaque_alpha_become_rgb(tmp_path):
    grey = Image.new("L", (5, 4), 7)
    kinds = {
        "L": grey,
        "P": grey.convert("P"),
        "1": grey.convert("1"),
        "CMYK": grey.convert("CMYK"),
    }
    kinds |= {"RGBA": grey.convert("RGBA"), "LA": grey.convert("LA")}
    for mode, image in kinds.items():
        image.save(tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}")
    pixels = open_path(tmp_path).read(0, 9).pixels
    assert pixels.shape == (6, 4, 5, 3)
    assert set(pixels[[i for i in range(6) if i != 0]].ravel().tolist()) <= {0, 6, 7, 8}


@pytest.mark.parametrize(
    ("mode", "value", "message"),
    [
        ("I;16", 9000, "more than 8 bits per channel"),
        ("RGBA", (9, 9, 9, 128), "is transparent in places"),
        ("LA", (9, 0), "is transparent in places"),
    ],
)
def test_what_no_conversion_keeps_is_refused(tmp_path, mode, value, message):
    Image.new(mode, (5, 4), value).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"a\.png .*{message}"):
        open_path(tmp_path).read(0, 1)


def broken(folder, name):
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)).save(
        data, "PNG"
    )
    (folder / name).write_bytes(data.getvalue()[:150])


def test_a_truncated_image_is_named_and_counted_and_strict_stops(folder, images, tmp_path):
    broken(folder, "04b.png")
    for form in (folder, zipped(folder, tmp_path / "all.zip")):
        report = evaluate(
            form if form == folder else str(form),
            metrics=["fid"],
            features="pixels",
            reference=images,
            batch_size=4,
        )
        assert report.protocol.count == 11
        assert len(report.protocol.skipped) == 1
        assert "04b.png" in report.protocol.skipped[0]
        assert "1 images could not be read" in " ".join(report.protocol.warnings)
        assert report["fid"].value == pytest.approx(0, abs=1e-9)
        with pytest.raises(ValueError, match=r"04b\.png is not a readable image"):
            list(
                extract(open_path(form, ReadOptions(strict=True)), [PixelFeatures()], None, Pass())
            )


def test_labels_follow_the_images_that_could_be_read(folder):
    broken(folder, "00b.png")
    seen = list(extract(folder, [PixelFeatures()], np.arange(12), Pass(batch_size=5)))
    labels = np.concatenate([batch["pixels"].batch.labels for batch in seen])
    assert labels.tolist() == [0, *range(2, 12)]


def test_a_folder_of_broken_images_alone(tmp_path):
    broken(tmp_path, "a.png")
    broken(tmp_path, "b.png")
    with pytest.raises(ValueError, match=r"none of 2 images can be read; the first: .*a\.png"):
        list(extract(tmp_path, [PixelFeatures()], None, Pass()))


def test_mixed_sizes_are_named_within_and_across_batches(folder, images):
    write_png(folder / "05b.png", images[0, :5])
    for batch_size in (4, 20, 1):
        with pytest.raises(ValueError, match="7 x 5"):
            list(extract(folder, [PixelFeatures()], None, Pass(batch_size)))
    source = open_path(folder, ReadOptions(size=4))
    (seen,) = extract(source, [PixelFeatures()], None, Pass())
    assert seen["pixels"].size == (4, 4)


def test_the_centre_crop_of_published_references():
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (150, 210, 3), dtype=np.uint8))
    cut = center_crop(image, 32)
    assert cut.size == (32, 32)
    half = image.resize((105, 75), Image.Resampling.BOX)  # 150 and 75 are at least twice 32
    quarter = half.resize((52, 37), Image.Resampling.BOX)
    scaled = quarter.resize((round(52 * 32 / 37), 32), Image.Resampling.BICUBIC)
    left = (scaled.width - 32) // 2
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(scaled)[:, left : left + 32])
    same = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    np.testing.assert_array_equal(np.asarray(center_crop(same, 32)), np.asarray(same))


def test_classes_are_sub_folders_or_in_the_names():
    assert labels_of(["n02/a.png", "n01/b.png", "n02/c.png"]).tolist() == [1, 0, 1]
    assert labels_of(["000_class7_seed0.png", "001_class3_seed1.png"]).tolist() == [7, 3]
    assert labels_of(["a.png", "n01/b.png"]) is None
    assert labels_of(["only/a.png", "only/b.png"]) is None


def test_an_imagenet_like_folder_and_data_set_agree(tmp_path):
    rng = np.random.default_rng(2)
    for label, name in enumerate(("n01440764", "n01443537")):
        for i in range(3):
            pixels = rng.integers(0, 256, (40 + 9 * i, 50, 3), dtype=np.uint8)
            path = tmp_path / "val" / name / f"ILSVRC2012_val_{i}{label}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    folder = open_path(tmp_path / "val", ReadOptions(size=16))
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "val"), cache_dir=str(tmp_path / "cache")
    )
    (split,) = loaded.values()
    source = dataset_source(split, "imagenet", ReadOptions(size=16))
    np.testing.assert_array_equal(source.read(0, 6).pixels, folder.read(0, 6).pixels)
    assert source.labels.tolist() == folder.labels.tolist() == [0, 0, 0, 1, 1, 1]
    split.to_parquet(str(tmp_path / "val.parquet"))
    split.save_to_disk(str(tmp_path / "disk"))
    for saved in ("val.parquet", "disk"):
        again = open_path(tmp_path / saved, ReadOptions(size=16))
        np.testing.assert_array_equal(again.read(2, 5).pixels, folder.read(2, 5).pixels)
    with pytest.raises(ValueError, match="has no column of images; it has x"):
        dataset_source(datasets.Dataset.from_dict({"x": [1]}), "numbers", ReadOptions())


def objects(path):
    np.savez(path, arr_0=np.array([{"a": 1}], dtype=object))


def statistics(path):
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))


def floats(path):
    np.savez(path, np.zeros((2, 4, 4, 3)))


def other_key(path):
    np.savez(path, images=np.zeros((2, 4, 4, 3), np.uint8))


def torn(path):
    np.savez_compressed(
        path, np.random.default_rng(0).integers(0, 9, (50, 9, 9, 3), dtype=np.uint8)
    )
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (objects, "arr_0 holds Python objects, which could run code and are never loaded"),
        (statistics, "holds statistics .* it is a reference, not samples"),
        (floats, r"holds float64 of shape \(2, 4, 4, 3\); expected uint8 pixels"),
        (other_key, "has no array 'arr_0'; it holds images"),
        (torn, "cannot be read"),
    ],
)
def test_archives_that_are_no_samples(make, message, tmp_path):
    make(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=message):
        open_path(tmp_path / "x.npz")


def test_other_files_and_empty_folders(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"is not a folder, \.zip, \.npz, \.npy or \.parquet"):
        open_path(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="no image"):
        open_path(tmp_path)
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(ValueError, match="no image"):
        open_path(tmp_path / "e.zip")
