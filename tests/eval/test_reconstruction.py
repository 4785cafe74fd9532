"""PSNR, SSIM and codebook use against their definitions, written out plainly."""

import math

import numpy as np
import pytest
import torch

from arimage.eval.codebook import CodeCounter
from arimage.eval.metrics.reconstruction import codebook_use, psnr, ssim


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(9)
    a = rng.integers(0, 256, (3, 14, 13, 3), dtype=np.uint8)
    noise = rng.normal(0, 20, a.shape)
    return a, np.clip(a + noise, 0, 255).astype(np.uint8)


def test_psnr_by_definition(pair):
    a, b = pair
    for x, y, value in zip(a, b, psnr(a, b), strict=True):
        error = sum((int(p) - int(q)) ** 2 for p, q in zip(x.flat, y.flat, strict=True)) / x.size
        assert value == pytest.approx(10 * math.log10(255**2 / error), rel=1e-12)
    flat = np.full((1, 4, 4, 3), 100, np.uint8)
    assert psnr(flat, flat + 1)[0] == pytest.approx(48.1308, abs=1e-4)  # the known value of MSE 1


def slow_ssim(x, y, sigma=1.5, data_range=255.0):
    """Wang et al. 2004, eq. 13, window by window."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2))
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for channel in range(3):
        p, q = x[..., channel].astype(float), y[..., channel].astype(float)
        for top in range(p.shape[0] - 10):
            for left in range(p.shape[1] - 10):
                u, v = p[top : top + 11, left : left + 11], q[top : top + 11, left : left + 11]
                mu, mv = (window * u).sum(), (window * v).sum()
                su, sv = (window * (u - mu) ** 2).sum(), (window * (v - mv) ** 2).sum()
                suv = (window * (u - mu) * (v - mv)).sum()
                top_line = (2 * mu * mv + c1) * (2 * suv + c2)
                values.append(top_line / ((mu**2 + mv**2 + c1) * (su + sv + c2)))
    return np.mean(values)


def test_ssim_by_definition(pair):
    values = ssim(*pair)
    expected = [slow_ssim(x, y) for x, y in zip(*pair, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    wrong = [slow_ssim(x, y, data_range=1.0) for x, y in zip(*pair, strict=True)]
    assert np.abs(values - wrong).min() > 1e-4  # the negative twins: range of [0, 1], wide window
    wide = [slow_ssim(x, y, sigma=3.0) for x, y in zip(*pair, strict=True)]
    assert np.abs(values - wide).min() > 1e-4


def test_an_image_against_itself(pair):
    a, _ = pair
    assert np.isposinf(psnr(a, a)).all()
    np.testing.assert_allclose(ssim(a, a), 1, rtol=1e-12)
    black = np.zeros((1, 11, 11, 3), np.uint8)
    assert ssim(black, black)[0] == pytest.approx(1)


def test_values_do_not_depend_on_the_batch(pair):
    a, b = pair
    assert psnr(a, b)[1] == psnr(a[1:2], b[1:2])[0]
    assert ssim(a, b)[1] == ssim(a[1:2], b[1:2])[0]
    assert psnr(a, b) == pytest.approx(psnr(b, a))
    assert ssim(a, b) == pytest.approx(ssim(b, a))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pair_errors(pair, measure):
    a, b = pair
    with pytest.raises(ValueError, match="expected equal shapes"):
        measure(a, b[:2])
    with pytest.raises(ValueError, match=r"got float64 of shape .* expected uint8"):
        measure(a / 255, b)
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        measure(a[0], b[0])


def test_ssim_needs_its_window(pair):
    a, b = pair
    with pytest.raises(ValueError, match="got images of 10 x 13 pixels"):
        ssim(a[:, :10], b[:, :10])


def test_twenty_tokens_a_code_are_enough():
    counter = CodeCounter(4)
    counter.add(np.arange(79) % 4)
    (sentence,) = counter.few()
    assert sentence.startswith("79 tokens are fewer than 20 for each of 4 codes")
    counter.add([0])
    assert counter.few() == []
    assert counter.scores(3)[0].details == {"vocab_size": 4, "tokens": 80}


def test_codebook_use():
    use = codebook_use(np.array([[0, 0], [3, 3]]), 8)
    assert use.share == 0.25
    assert use.perplexity == pytest.approx(2)
    even = codebook_use(torch.arange(8).repeat(3), 8)
    assert (even.share, even.perplexity) == (1, pytest.approx(8))
    assert codebook_use([5], 8).perplexity == 1
    uneven = codebook_use([0, 0, 0, 1], 2)
    assert uneven.perplexity == pytest.approx(
        math.exp(-(0.75 * math.log(0.75)) - 0.25 * math.log(0.25))
    )


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 8], "got ids from 0 to 8; vocab_size 8 allows 0 to 7"),
        ([-1], "got ids from -1 to -1"),
        ([], "got 0 ids"),
        ([0.5], "expected integers"),
    ],
)
def test_codebook_errors(ids, message):
    with pytest.raises(ValueError, match=message):
        codebook_use(ids, 8)
