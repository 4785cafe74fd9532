"""Features on disk: killed runs go on, processes share, and the score is that of one run."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from arimage.eval.cache import FeatureCache
from arimage.eval.extraction import Pass
from arimage.eval.features.pixels import PixelFeatures
from arimage.eval.runner import evaluate, fill_cache
from arimage.eval.sources import ArraySource
from arimage.images import write_png

METRICS = ["fid", "precision", "recall"]


class Counting(PixelFeatures):
    """Thumbnails, and how many images it has seen."""

    def __init__(self):
        self.seen = 0

    def __call__(self, pixels, labels=None):
        self.seen += len(pixels)
        return super().__call__(pixels, labels)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(8).integers(0, 256, (50, 12, 10, 3), dtype=np.uint8)


def score(images, cache, features, noise_pixels, **changes):
    call = {"metrics": METRICS, "reference": noise_pixels, "batch_size": 8, **changes}
    return evaluate(images, features=features, cache=cache, **call)


def values(report):
    return {name: report[name].value for name in report}


def test_a_second_run_extracts_nothing_and_scores_the_same(images, noise_pixels, tmp_path):
    plain = score(images, None, PixelFeatures(), noise_pixels)
    first, second = Counting(), Counting()
    assert values(score(images, tmp_path, first, noise_pixels)) == values(plain)
    assert first.seen == 50 + 60
    again = score(images, tmp_path, second, noise_pixels)
    assert (values(again), second.seen) == (values(plain), 0)
    assert again.protocol.count == 50


def test_other_images_batches_or_networks_are_not_mistaken(images, noise_pixels, tmp_path):
    score(images, tmp_path, Counting(), noise_pixels)
    changed = images.copy()
    changed[7, 0, 0, 0] ^= 1
    for given, changes in ((changed, {}), (images, {"batch_size": 9})):
        spy = Counting()
        score(given, tmp_path, spy, noise_pixels, **changes)
        assert spy.seen >= 50
    other = Counting()
    other.name = "other"
    score(images, tmp_path, other, noise_pixels)
    assert other.seen == 110


def test_a_torn_file_is_made_again(images, noise_pixels, tmp_path):
    score(images, tmp_path, Counting(), noise_pixels)
    cache = FeatureCache(tmp_path, ArraySource(images, "x"), 8)
    files = sorted(cache.folder.glob("*/*.safetensors"))
    assert len(files) == 7
    files[2].write_bytes(files[2].read_bytes()[:40])
    save_file({"features": np.zeros((8, 64), np.float32)}, files[4])  # not one of ours
    spy = Counting()
    plain = score(images, None, PixelFeatures(), noise_pixels)
    assert values(score(images, tmp_path, spy, noise_pixels)) == values(plain)
    assert spy.seen == 16


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_together_are_the_whole(images, noise_pixels, tmp_path, processes):
    parts = [
        fill_cache(images, [Counting()], Pass(8, tmp_path, (i, processes)))
        for i in range(processes)
    ]
    assert sum(parts) == 50
    assert min(parts) > 0
    spy = Counting()
    plain = score(images, None, PixelFeatures(), noise_pixels)
    assert values(score(images, tmp_path, spy, noise_pixels)) == values(plain)
    assert spy.seen == 60  # the reference alone


SLOW = """
import sys, time
from arimage.eval.features.pixels import PixelFeatures
from arimage.eval.runner import evaluate
class Slow(PixelFeatures):
    def __call__(self, pixels, labels=None):
        time.sleep(0.05)
        return super().__call__(pixels, labels)
print("ready", flush=True)
evaluate(sys.argv[1], metrics=["fid"], features=Slow(), reference=sys.argv[1], batch_size=2,
         cache=sys.argv[2])
"""


@pytest.mark.parametrize("delay", [0.15, 0.4])
def test_after_a_kill_nothing_is_lost_or_counted_twice(images, tmp_path, delay):
    for i, pixels in enumerate(images):
        write_png(tmp_path / "png" / f"{i:02d}.png", pixels)
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", SLOW, str(tmp_path / "png"), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as process:
        process.stdout.readline()
        while not list(cache.glob("*/*/*.safetensors")):
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
    made = len([p for p in cache.glob("*/*/*.safetensors") if not p.name.startswith(".")])
    assert 0 < made < 25
    spy = Counting()
    call = {"metrics": METRICS, "reference": str(tmp_path / "png"), "batch_size": 2}
    report = evaluate(str(tmp_path / "png"), features=spy, cache=cache, **call)
    assert spy.seen == 50 - 2 * made  # of reference and samples alike: they are one folder here
    assert report.protocol.count == report["fid"].count == 50
    plain = evaluate(str(tmp_path / "png"), features=PixelFeatures(), **call)
    assert values(report) == values(plain)


def test_what_cannot_be_cached_says_so(images, tmp_path):
    with pytest.raises(ValueError, match="got a cache for images that can be read only once"):
        evaluate(
            iter([images]), metrics=["fid"], features="pixels", reference=images, cache=tmp_path
        )
    with pytest.raises(ValueError, match="its name does not say what it computes"):
        evaluate(
            images, metrics=["fid"], features=lambda p: p[:, 0, 0], reference=images, cache=tmp_path
        )
    with pytest.raises(ValueError, match="got no cache to fill"):
        fill_cache(images, ["pixels"], Pass())


def test_no_more_than_one_batch_is_held():
    alive = []

    class Watched:
        name, identity, labels = "watched", "watched", None

        def __len__(self):
            return 40

        def read(self, start, stop):
            import weakref

            from arimage.eval.sources import Chunk

            assert not [ref for ref in alive if ref() is not None]
            pixels = np.random.default_rng(start).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
            alive.append(weakref.ref(pixels))
            return Chunk(pixels, np.arange(start, start + 5))

        def sha256(self):
            return "0" * 64

    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 9, 3), dtype=np.uint8)
    report = evaluate(Watched(), metrics=METRICS, features="pixels", reference=noise, batch_size=5)
    assert report.protocol.count == 40
    assert len(alive) == 8
