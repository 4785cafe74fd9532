"""Every score of a tokenizer in one pass: scales, before and after, what is missing, pictures."""

import dataclasses

import numpy as np
import pytest

from arimage.demo.digits import load_digits
from arimage.eval.codebook import codebook_use
from arimage.eval.metrics.reconstruction import psnr, ssim
from arimage.eval.pairs import evaluate_reconstructions
from arimage.evaluation_tokenizer import AMPLIFIED, TokenizerJob, amplified, pictures
from arimage.images import from_pixels, to_pixels, write_png
from arimage.sheets import sheet
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.perturb import perturbed_reconstruct
from arimage.tokenizers.stages import reconstruct_stages

COUNT = 20


@pytest.fixture(scope="module")
def pixels():
    return load_digits()[1].pixels[:COUNT]


@pytest.fixture(scope="module")
def folder(pixels, tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    for i, image in enumerate(pixels):
        write_png(root / f"{i:02d}.png", image)
    return root


@pytest.fixture(scope="module")
def job(folder):
    return TokenizerJob(
        data=str(folder),
        model="digits-var",
        before="digits-llamagen",
        metrics=("rfid", "psnr", "ssim"),
        scale_metrics=("psnr", "rfid"),
        grid=((0.5, 8), (0.9, 64)),
        features="digits",
        batch_size=7,
        uncertainty=True,
    )


@pytest.fixture(scope="module")
def report(job):
    return job.run()


@pytest.fixture(scope="module")
def tokenizers():
    return [ImageTokenizer.from_pretrained(f"digits-{name}").eval() for name in ("var", "llamagen")]


def test_each_scale_is_scored_and_the_last_is_the_whole(report, pixels, tokenizers):
    stages = list(reconstruct_stages(tokenizers[0])(pixels))
    values = [report["psnr"].details[f"scale_{k}"] for k in (1, 2, 3, 4)]
    assert values == pytest.approx([psnr(pixels, made).mean() for made in stages])
    assert values[-1] == report["psnr"].value
    assert values == sorted(values)
    distances = [report["rfid"].details[f"scale_{k}"] for k in (1, 2, 3, 4)]
    assert distances[-1] == report["rfid"].value
    alone = evaluate_reconstructions(
        pixels,
        lambda p: list(reconstruct_stages(tokenizers[0])(p))[1],
        metrics=["rfid"],
        features="digits",
        batch_size=7,
    )
    assert distances[1] == pytest.approx(alone["rfid"].value, rel=1e-9)
    assert "scale_1" not in report["ssim"].details  # not asked for
    names, rows = report.by_detail("scale_")
    assert names == ["rfid", "psnr", "codebook_share", "codebook_perplexity"]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]


def test_codes_are_counted_by_scale(report, pixels, tokenizers):
    tokenizer = tokenizers[0]
    ids = tokenizer.encode(from_pixels(pixels)).numpy()
    everything = codebook_use(ids, tokenizer.config.vocab_size)
    share, perplexity = report["codebook_share"], report["codebook_perplexity"]
    assert (share.value, perplexity.value) == (everything.share, everything.perplexity)
    assert share.details["tokens"] == ids.size == COUNT * 30
    spans = [tokenizer.slots.span(k) for k in range(4)]
    for k, (start, stop) in enumerate(spans, 1):
        use = codebook_use(ids[:, start:stop], tokenizer.config.vocab_size)
        assert share.details[f"scale_{k}"] == use.share
        assert perplexity.details[f"scale_{k}"] == use.perplexity
    assert any("600 tokens are fewer than 20 for each of 128 codes" in w for w in warnings(report))


def warnings(report):
    return report.protocol.warnings


def test_before_and_the_change(report, job, pixels, tokenizers):
    alone = dataclasses.replace(job, model=job.before, before=None, scale_metrics=None).run()
    assert list(report) == list(alone)
    for name in report:
        details = report[name].details
        assert details["before"] == pytest.approx(alone[name].value, rel=1e-9)
        assert details["change"] == report[name].value - details["before"]
    assert not any("before" in score.details for score in alone.scores)
    batches = [from_pixels(pixels[i : i + 7]) for i in range(0, COUNT, 7)]  # rounds as the job does
    made = [np.concatenate([to_pixels(t.reconstruct(b)) for b in batches]) for t in tokenizers]
    for name, measure in (("psnr", psnr), ("ssim", ssim)):
        change = measure(pixels, made[0]) - measure(pixels, made[1])
        assert report[name].details["change"] == pytest.approx(change.mean())
        error = change.std(ddof=1) / COUNT**0.5
        assert report[name].details["change_error"] == pytest.approx(error)
    assert f"{report['psnr'].details['change']:+.4g} ± " in report.to_markdown()
    assert "| before | change |" in report.to_markdown()
    assert "change" not in alone.to_markdown()
    settings = report.protocol.settings
    assert settings["before"] == "digits-llamagen"
    assert settings["before_weights"] == alone.protocol.settings["weights"] != settings["weights"]


def test_the_same_before_changes_nothing(job):
    report = dataclasses.replace(job, before="digits-var").run()
    for score in report.scores:
        assert (score.details["change"], score.details["before"]) == (0, score.value)
        assert score.details.get("change_error", 0) == 0


def test_pfid_is_that_of_the_grid(report, pixels, tokenizers):
    details = report["pfid"].details
    perturbed = evaluate_reconstructions(
        pixels,
        perturbed_reconstruct(tokenizers[0], 0.9, 64),
        metrics=["rfid"],
        features="digits",
        batch_size=7,
    )
    assert details["alpha_0.9_delta_64"] == pytest.approx(perturbed["rfid"].value, rel=1e-9)
    mean = (details["alpha_0.5_delta_8"] + details["alpha_0.9_delta_64"]) / 2
    assert report["pfid"].value == pytest.approx(mean)


def test_by_default_all_that_is_at_hand(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    plain = TokenizerJob(data=str(folder), model="digits-llamagen", features="digits")
    report = plain.run()
    codes = ["codebook_share", "codebook_perplexity"]
    assert list(report) == ["rfid", "rinception_score", "psnr", "ssim", *codes, "pfid"]
    assert list(report["pfid"].details) == ["alpha_0.5_delta_100"]
    missing = [w for w in warnings(report) if w.startswith("left out: lpips; found no weights of")]
    assert len(missing) == 1
    assert not report.by_detail("scale_")[1]  # one token map
    assert list(report.gallery.sheets) == ["reconstructions"]
    pixels = dataclasses.replace(plain, features="pixels")
    assert "rinception_score" not in pixels.run()
    bare = dataclasses.replace(plain, features="inception").run()
    assert list(bare) == ["psnr", "ssim", *codes]
    left = "left out: rfid, rinception_score, pfid; found no weights of the FID Inception network"
    assert any(w.startswith(left) for w in warnings(bare))
    with pytest.raises(FileNotFoundError, match=r"no file /nowhere\.pth"):  # by name: an error
        dataclasses.replace(plain, features="inception=/nowhere.pth").run()
    for asked in ("lpips", "rfid"):
        with pytest.raises(FileNotFoundError, match="found no weights of"):
            dataclasses.replace(plain, features="inception", metrics=(asked,)).run()


def test_sorted_classes_are_told(tmp_path):
    digits = load_digits()[1]
    for k, i in enumerate(np.argsort(digits.labels, kind="stable")[::3]):
        write_png(tmp_path / f"{k:03d}.png", digits.pixels[i])
    job = TokenizerJob(data=str(tmp_path), model="digits-llamagen", features="digits")
    report = dataclasses.replace(job, metrics=("rinception_score",)).run()
    assert any("which lowers rinception_score" in sentence for sentence in warnings(report))


def test_the_pictures(pixels, tokenizers, folder):
    from arimage.eval.sources import ReadOptions, open_path

    var, llamagen = tokenizers
    shown = pixels[[0, 2, 5, 7, 10, 12, 15, 17]]  # from all over the 20
    stages = list(reconstruct_stages(var)(shown))
    before = to_pixels(llamagen.reconstruct(from_pixels(shown)))
    found = pictures(open_path(folder, ReadOptions(size=32)), var, llamagen)
    assert list(found) == ["reconstructions", "scales"]

    def named(text, made):
        return f"{text}\n{psnr(shown, made).mean():.1f} dB"

    rows = {
        "original": shown,
        named("before", before): before,
        named("after", stages[-1]): stages[-1],
        "error before\nx 4": amplified(shown, before),
        "error after\nx 4": amplified(shown, stages[-1]),
    }
    assert np.array_equal(found["reconstructions"], sheet(rows))
    names = [f"scale {k}: {k} x {k}" for k in (1, 2, 3, 4)]
    rows = {named(name, made): made for name, made in zip(names, stages, strict=True)}
    assert np.array_equal(found["scales"], sheet({**rows, "original": shown}))


def test_errors_are_amplified_and_stay_in_range():
    a, b = (np.zeros((1, 2, 2, 3), np.uint8) for _ in range(2))
    a[..., 0], b[..., 0] = [[[0, 10], [200, 255]]], [[[0, 13], [190, 0]]]
    off = amplified(a, b)
    assert off[0, ..., 0].tolist() == [[0, 3 * AMPLIFIED], [10 * AMPLIFIED, 255]]
    assert not off[..., 1:].any()
    assert off.dtype == np.uint8


def test_the_page_has_scales_changes_and_pictures(report, tmp_path):
    report.save(tmp_path)
    page = (tmp_path / "report.html").read_text()
    for text in ("<h2>Scales</h2>", "<h2>Reconstructions</h2>", "<th>change</th>", "<td>4</td>"):
        assert text in page.replace(" class=number", "")
    assert page.count("data:image/png") == 2
    assert "<h2>Samples</h2>" not in page
    assert "| 4 | " in (tmp_path / "report.md").read_text()
    assert len(report.tables()) == 2


def test_lpips_where_its_weights_are(folder, monkeypatch):
    from arimage.eval.features.vgg import PerceptualDistance

    network = PerceptualDistance().requires_grad_(False)
    monkeypatch.setattr("arimage.eval.metrics.lpips.load_lpips", lambda: network)
    job = TokenizerJob(data=str(folder), model="digits-llamagen", features="digits")
    report = job.run()
    assert "lpips" in report
    assert not any("left out" in sentence for sentence in warnings(report))


def test_small_images_are_enlarged_and_that_is_said(tmp_path, pixels):
    for i, image in enumerate(pixels[:4]):
        write_png(tmp_path / f"{i}.png", image[8:24, 8:24] if i < 3 else image)
    job = TokenizerJob(data=str(tmp_path), model="digits-var", metrics=("psnr",))
    report = job.run()
    assert report.protocol.size == (32, 32)
    assert any("3 of 4 images were smaller and have been enlarged" in w for w in warnings(report))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "EMPTY"}, r"no image \(.png"),
        ({"data": "SMALL"}, "holds 2 images of 16 x 16 pixels; expected at least one of 32"),
        ({"scale_metrics": ("lpips",)}, "got the metric 'lpips' for each scale, but not among"),
        ({"before": "digits-vra"}, "Did you mean"),
        ({"device": "abacus"}, "use 'cpu'"),
        ({"before": "LARGE"}, "takes images of 40 pixels and digits-var of 32"),
    ],
)
def test_what_does_not_fit_is_a_sentence(job, tmp_path, tokenizers, changes, message):
    if changes.get("data") == "EMPTY":
        changes = {"data": str(tmp_path)}
    if changes.get("data") == "SMALL":
        np.save(tmp_path / "small.npy", np.zeros((2, 16, 16, 3), np.uint8))
        changes = {"data": str(tmp_path / "small.npy")}
    if changes.get("before") == "LARGE":
        config = tokenizers[1].config.to_dict() | {"image_size": 40}
        cls = type(tokenizers[1])
        cls(cls.config_class.from_dict(config)).save_pretrained(tmp_path / "large")
        changes = {"before": str(tmp_path / "large")}
    with pytest.raises((ValueError, OSError), match=message):
        dataclasses.replace(job, **changes).run()
