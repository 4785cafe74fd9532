"""``arimage tokens``: a data set is encoded once, in shards that a killed run keeps.

A shard is the tokens of a fixed number of images that follow each other in the data set. It is
written beside its place and moved there whole, and images go through the tokenizer in the same
groups whoever encodes them: so a run that goes on, or several processes, give the same files.
"""

import hashlib
import json
import multiprocessing
import sys
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from arimage.files import new_file, new_files, write_json
from arimage.generator import TOKENIZER
from arimage.pretrained import check_device, identity
from arimage.records import changed
from arimage.shares import own_gpu, own_share
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.image_files import data_name
from arimage.training.images import too_many_broken
from arimage.training.token_data import FORMAT, INDEX, TOKENS, TokenData
from arimage.training.token_encoder import BATCH, Encoded, Encoder, classes_of, open_indexed
from arimage.training.variants import Augmentation
from arimage.training.workers import settle

SHARD = 1024  # images per file, and the most that a kill loses


@dataclass(frozen=True, kw_only=True)
class TokenRun:
    """What to encode by what, and where to put it.

    Attributes:
        tokenizer: preset, folder, file, hub id.
        data: a folder with a sub-folder per class, parquet, webdataset, the id of a hub data set.
        out: folder of the tokens; what is there of the same run is kept.
        variant: of a repository of tokenizers.
        split: of a hub data set or a saved one.
        augmentation: which squares of each image.
        batch_size: squares that are encoded together, rounded down to whole images, at least one.
        shard_size: images per file.
        workers: processes that decode images, for each that encodes.
        device: where the tokenizer is.
        progress: show a bar.
    """

    tokenizer: str
    data: str
    out: Path
    variant: str | None = None
    split: str | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_size: int = BATCH
    shard_size: int = SHARD
    workers: int = 0
    device: str = "cpu"
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("shard_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"got {name} {getattr(self, name)}; expected at least {least}")


def run_tokens(run: TokenRun, share: tuple[int, int] = (0, 1)) -> TokenData | None:
    """Encodes what is missing; None while shards of other processes are missing.

    Args:
        share: (i, n): of n processes this is the i-th. Any number of them may share a folder.

    Raises:
        ValueError, OSError: input that does not fit; tokens of something else in the folder.
    """
    encoding = Encoding(run)
    if share[1] == 1:
        clean(run.out)
    encoding.check()
    encoding.encode(share)
    return encoding.finish()


def run_in_processes(run: TokenRun, processes: int) -> TokenData | None:
    """As ``run_tokens`` with the shards shared among new processes, and, where torchrun started
    this one, among those, too. Each has a GPU of its own where there are several.

    Raises:
        ValueError, OSError: as ``run_tokens``. ChildProcessError: a process failed; what all have
            made is kept.
    """
    if processes < 1:
        raise ValueError(f"got {processes} processes; expected at least 1")
    rank, world = own_share()
    if processes == 1:
        return run_tokens(replace(run, device=own_gpu(run.device)), (rank, world))
    encoding = Encoding(run)
    if world == 1:
        clean(run.out)
    encoding.check()
    context = multiprocessing.get_context("spawn")
    shares = [(rank * processes + i, world * processes) for i in range(processes)]
    workers = [context.Process(target=_work, args=(run, share, processes)) for share in shares]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:  # Ctrl-C; nothing to those that ended
            if worker.pid is not None:
                worker.terminate()
    codes = [worker.exitcode for worker in workers]
    if any(codes):
        failed = next(i for i, code in enumerate(codes) if code)
        raise ChildProcessError(
            f"process {failed + 1} of {processes} ended with exit code {codes[failed]} (its "
            f"message is above); what was made is in {run.out}, where the same command goes on"
        )
    return encoding.finish()


def _work(run: TokenRun, share: tuple[int, int], processes: int) -> None:
    settle(share[0])
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    try:
        run_tokens(replace(run, device=own_gpu(run.device, share[0])), share)
    except (ValueError, KeyError, OSError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"arimage: {text}", file=sys.stderr, flush=True)
        sys.exit(2)


def clean(folder: Path) -> None:
    """Removes files that a killed run left half-written; no other run may be under way."""
    for pattern in (".shard-*", f".{INDEX}.*", f".{TOKENIZER}.*/*"):
        for path in folder.glob(pattern):
            path.unlink()
    for path in folder.glob(f".{TOKENIZER}.*"):
        path.rmdir()


class Encoding:
    """A run with its tokenizer and images open."""

    def __init__(self, run: TokenRun) -> None:
        check_device(run.device)
        self.run = run
        tokenizer = ImageTokenizer.from_pretrained(run.tokenizer, variant=run.variant)
        self.images = open_indexed(run.data, tokenizer.config.image_size, run.split)
        self.labels, self.num_classes, self.class_names = classes_of(self.images.files, run.data)
        self.record = {
            "tokenizer": identity(tokenizer),
            "data": {"name": data_name(run.data), "identity": self.images.identity},
            "augmentation": run.augmentation.describe(),
            "shard_size": run.shard_size,
            "batch_size": run.batch_size,
        }
        self.encoder = Encoder(
            tokenizer.to(run.device), self.images, run.augmentation, run.batch_size
        )

    @property
    def shards(self) -> int:
        """How many there will be."""
        return -(-len(self.labels) // self.run.shard_size)

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.run.out / f"shard-{shard:05d}.safetensors"

    def check(self) -> None:
        """Whether the folder holds nothing but this run's own files.

        Raises:
            FileExistsError: tokens of another form. ValueError: those of another run; says of what.
            OSError: a folder that cannot be written.
        """
        with new_files(self.run.out):
            pass  # told before hours of encoding
        if (self.run.out / TOKENS).exists():
            raise FileExistsError(
                f"{self.run.out} holds a {TOKENS} already; choose another folder for the tokens"
            )
        for path in sorted(self.run.out.glob("shard-*.safetensors")):
            if (about := read_metadata(path)) is None:
                continue
            for key, (old, new) in changed(about["record"], self.record, ("data.name",)).items():
                raise ValueError(
                    f"the tokens in {self.run.out} were made with another {key}: {old}, now {new}; "
                    "give what it was, or choose another folder"
                )

    def encode(self, share: tuple[int, int]) -> None:
        """Makes the missing ones of shards i, i + n, i + 2n, ...; see ``run_tokens``."""
        size, count = self.run.shard_size, len(self.labels)
        mine = range(share[0], self.shards, share[1])
        missing = [s for s in mine if read_metadata(self.path(s)) is None]
        spans = [range(s * size, min(count, (s + 1) * size)) for s in missing]
        bar = tqdm(
            total=sum(map(len, spans)),
            desc="encoding images",
            disable=not (self.run.progress and spans and share[0] == 0),
            mininterval=0.5,
        )
        with bar, closing(self.encoder.encode(spans, self.run.workers)) as tokens:
            for shard, span in zip(missing, spans, strict=True):
                self._write(shard, next(tokens))
                bar.update(len(span))

    def _write(self, shard: int, tokens: Encoded) -> None:
        small = self.encoder.tokenizer.config.vocab_size <= np.iinfo(np.uint16).max + 1
        arrays = {
            "ids": tokens.ids.astype(np.uint16 if small else np.int32),
            "labels": self.labels[tokens.index].astype(np.int32),
            "index": tokens.index,
        }
        content = hashlib.sha256()
        for array in arrays.values():
            content.update(array.tobytes())
        about = {
            "format": FORMAT,
            "record": self.record,
            "images": len(tokens.index),
            "class_counts": np.bincount(arrays["labels"], minlength=self.num_classes).tolist(),
            "skipped": tokens.skipped,
            "sha256": content.hexdigest(),
        }
        with new_file(self.path(shard)) as temporary:
            # One key: safetensors writes several in a random order.
            save_file(arrays, temporary, {"arimage": json.dumps(about)})

    def finish(self) -> TokenData | None:
        """The tokenizer and the index, when all shards are there; the same whoever writes them.

        Raises:
            ValueError: no image could be read.
        """
        found = [read_metadata(self.path(shard)) for shard in range(self.shards)]
        parts = [about for about in found if about is not None]
        if len(parts) < self.shards:
            return None
        skipped = [text for about in parts for text in about["skipped"]]
        counts = np.sum([about["class_counts"] for about in parts], axis=0)
        if not counts.sum():
            for shard in range(self.shards):
                self.path(shard).unlink()
            raise ValueError(too_many_broken(len(skipped), skipped[-1]))
        out = self.run.out
        index = self._index(parts, counts.tolist(), skipped)
        self.encoder.tokenizer.save_pretrained(out / TOKENIZER)
        write_json(out / INDEX, index)
        return TokenData(out)

    def _index(
        self, parts: list[dict[str, Any]], counts: list[int], skipped: list[str]
    ) -> dict[str, Any]:
        """What ``INDEX`` says, of what the shards say of themselves."""
        config, slots = self.encoder.tokenizer.config, self.encoder.tokenizer.slots
        return {
            "format": FORMAT,
            **self.record,
            "images": sum(counts),
            "variants": self.run.augmentation.variants,
            "num_slots": slots.num_slots,
            "grids": [list(grid) for grid in slots.grids],
            "vocab_size": config.vocab_size,
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "class_counts": counts,
            "skipped": skipped,
            "shards": [
                {
                    "file": self.path(shard).name,
                    "images": about["images"],
                    "labels": "labels",
                    "sha256": about["sha256"],
                }
                for shard, about in enumerate(parts)
            ],
        }


def read_metadata(path: Path) -> dict[str, Any] | None:
    """What a shard says of itself; None where it is not there or not whole."""
    try:
        with safe_open(path, "np") as opened:
            about = json.loads(opened.metadata()["arimage"])
            return about if about["format"] == FORMAT else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
