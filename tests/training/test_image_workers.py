"""Processes that decode: the same batches as without, decoded once, and gone with the training."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from shards import png, write_parquet

from arimage.training.image_files import FolderFiles
from arimage.training.images import ImageData, IndexedImages, open_images

COUNT = 10


class NotedFiles(FolderFiles):
    """Writes down each image that any process opens."""

    def open(self, index):
        with open(self.folder / "opened", "a") as notes:
            notes.write(f"{index}\n")
        return super().open(index)


@pytest.fixture
def folder(tmp_path):
    for i in range(COUNT):
        path = tmp_path / "png" / f"{'ab'[i % 2]}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"torn" if i == 3 else png(i))
    return tmp_path / "png"


def data(path, **settings):
    return ImageData(path=path, **{"size": 8, "flip": 0.5, "buffer": 3, **settings})


def take(found, count, batch_size=4, **where):
    batches = found.batches(batch_size, **where)
    return [next(batches) for _ in range(count)]


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert (a.index.tolist(), a.labels.tolist()) == (b.index.tolist(), b.labels.tolist())
        assert (a.epoch, a.skipped, a.state) == (b.epoch, b.skipped, b.state)


def test_two_workers_give_what_none_give(folder):
    before = torch.get_rng_state()
    alone, helped = (open_images(data(folder, workers=workers)) for workers in (0, 2))
    assert_same(take(alone, 8), take(helped, 8))
    assert alone.skipped == helped.skipped
    assert len(helped.skipped) == 1
    where = {"rank": 1, "world": 2, "start": 3}
    assert_same(take(alone, 4, 2, **where), take(helped, 4, 2, **where))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_decode_each_image_once_per_epoch(folder):
    (folder / "b" / "3.png").write_bytes(png(3))
    found = IndexedImages(NotedFiles(folder), data(folder, workers=2))
    batches = found.batches(5)
    seen = Counter(torch.cat([next(batches).index for _ in range(12)]).tolist())
    batches.close()
    assert seen == dict.fromkeys(range(COUNT), 6)
    opened = Counter(map(int, (folder / "opened").read_text().split()))
    ahead = 2  # epochs: each of two workers prepares two batches of half an epoch
    assert all(6 <= opened[i] <= 6 + ahead for i in range(COUNT))


def test_workers_of_a_stream_go_on_exactly_where_their_state_says(tmp_path):
    path = write_parquet(tmp_path / "shards", 5, 4, 6)
    settings = data(path, streaming=True, workers=2)
    whole = take(open_images(settings), 9, 2)
    seen = Counter(torch.cat([batch.index for batch in whole]).tolist())
    assert max(seen.values()) <= 2
    assert len({tuple(map(tuple, batch.state["places"])) for batch in whole}) == 9
    again = take(open_images(settings), 6, 2, start=3, state=whole[2].state)
    assert_same(whole[3:], again)
    with pytest.raises(ValueError, match="as many processes and workers"):
        open_images(data(path, streaming=True)).batches(2, start=3, state=whole[2].state)


def test_an_error_in_a_worker_is_the_plain_sentence(folder):
    found = open_images(data(folder, workers=1, strict=True))
    with pytest.raises(ValueError, match=r"3\.png is not a readable image") as error:
        take(found, 3)
    assert "\n" not in str(error.value)
    assert not active_children()


def test_a_worker_that_was_killed_is_one_sentence(folder):
    batches = open_images(data(folder, workers=1)).batches(4)
    next(batches)
    others = {process.pid for process in active_children()}
    assert len(others) == 1
    os.kill(others.pop(), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="a process that decodes images was ended from outside"):
        deque(batches, maxlen=0)


TRAINING = """
import sys, time
from arimage.training.images import ImageData, open_images
try:  # no "if __name__ ..." around it: workers do not run this script
    for batch in open_images(ImageData(path=sys.argv[1], size=8, workers=2)).batches(4):
        print("batch", flush=True)
        time.sleep(0.02)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.fixture
def training(folder, tmp_path):
    """A script that trains, in a process group of its own; with it its workers."""
    script = tmp_path / "script.py"
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script.write_text(heard + TRAINING)  # a shell's background jobs are deaf to Ctrl-C
    process = subprocess.Popen(
        [sys.executable, script, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def last_words(process):
    """What it says until it and all its workers have ended: until none holds the pipe."""
    said, _ = process.communicate(timeout=20)
    return [line for line in said.splitlines() if line != "batch"]


def test_workers_end_with_a_killed_training(training):
    assert training.stdout.readline() == "batch\n"
    training.kill()
    # Python's tracker of named semaphores says that it removes them
    assert all("resource_tracker" in line for line in last_words(training))


def test_ctrl_c_reaches_the_training_alone(training):
    assert training.stdout.readline() == "batch\n"
    os.killpg(training.pid, signal.SIGINT)
    assert (last_words(training), training.returncode) == (["interrupted"], 0)


def test_ctrl_c_while_the_workers_start_is_not_lost(training):
    children = Path(f"/proc/{training.pid}/task/{training.pid}/children")
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc")
    while not children.read_text():
        time.sleep(0.01)
    time.sleep(0.1)
    os.killpg(training.pid, signal.SIGINT)
    assert (last_words(training), training.returncode) == (["interrupted"], 0)
