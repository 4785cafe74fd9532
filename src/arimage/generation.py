"""Any number of images into a folder: goes on after a kill, shared by any number of processes.

Images are made in batches that follow from the count and the batch size alone; process i of n makes
batches i, i + n, ... A file is written beside its place and moved there whole. So a run that goes
on, or several processes, give the same files as one that was never stopped.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from arimage import __version__
from arimage.ar.base import State
from arimage.eval.protocols import EvaluationProtocol
from arimage.eval.report import versions
from arimage.files import claim_json, read_json, write_json
from arimage.generated import check_alone, weights_of
from arimage.generation_files import FILES, ImageInfo
from arimage.generator import ImageGenerator
from arimage.images import IMAGE_SUFFIXES, Rounding, resized
from arimage.records import changed
from arimage.registry import unknown_name
from arimage.sampling.batches import Arrival, Fit, finished
from arimage.sampling.conditions import asked
from arimage.sampling.noise import make_seeds
from arimage.sampling.planner import check_batch_size
from arimage.shapes import Float
from arimage.shares import own_share

RECORD = "generation.json"
BALANCED, DRAWN, GIVEN = "balanced", "drawn", "given"
TOGETHER = "sampled_together"  # images per call of the models once memory has run out
# What decides nothing of the images, or nothing that can be chosen.
UNCOMPARED = ("versions", "model.name", "model.variant", "model.revision", TOGETHER)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The images of a run.

    Attributes:
        info: what each image is asked by.
        settings: sampling settings over the generator's.
        asked: where labels or prompts came from, for the record.
        image_size: pixels per side of what is written.
        rounding: of floats to 8 bits.
    """

    info: ImageInfo
    settings: dict[str, Any]
    asked: dict[str, Any]
    image_size: int
    rounding: Rounding = "nearest"


def generate_to(
    generator: ImageGenerator,
    out: str | Path,
    count: int | None = None,
    *,
    labels: str | Sequence[int | str] | None = None,
    prompts: str | Sequence[str] | None = None,
    protocol: EvaluationProtocol | str | None = None,
    seed: int = 0,
    files: str = "png",
    batch_size: int | None = None,
    share: tuple[int, int] | None = None,
    progress: bool = False,
    **settings: Any,
) -> Path | None:
    """Generates images into a folder; called again, it goes on where it was stopped.

    Args:
        generator: makes them.
        out: folder; what is there of the same run is kept.
        count: images; None with a protocol, or for one per label or prompt that is given.
        labels: "balanced" (the default), all classes in turn; "drawn", one from each seed; or
            labels and names, taken in turn.
        prompts: for models of text, taken in turn.
        protocol: an evaluation protocol instead: count, labels, seeds, size, rounding, settings.
        seed: of the first image; the others count up.
        files: "png", each with its settings in its text; or "npz", one samples.npz as ADM's
            evaluator takes it (arr_0 uint8 (n, H, W, 3), labels in arr_1).
        batch_size: images per call of the models; None is the folder's or what fits.
        share: (i, n), this is process i of n; None is what torchrun says.
        progress: show a bar.
        settings: fields of ``Settings`` that replace the defaults.

    Returns:
        The folder, or the npz in it; None while batches of other processes are missing.

    Raises:
        ValueError: input that does not fit, or a folder with images of other settings; says which.
        FileExistsError: a folder with images of unknown origin. OSError: it cannot be written; what
            is complete stays. MemoryError: not even one image fits. TypeError, KeyError: an unknown
            setting or name.
    """
    if files not in FILES:
        raise KeyError(unknown_name("format", files, FILES))
    if protocol is None:
        request = Request(count=count, labels=labels, prompts=prompts, seed=seed)
        wanted = request.wanted(generator, settings)
    elif count is None and labels is None and prompts is None and not seed:
        wanted = by_protocol(generator, protocol, settings)
    else:
        raise ValueError(
            "got a protocol and a count, labels, prompts or a seed; a protocol has its own: leave "
            "them out"
        )
    run = Generation(generator, Path(out), wanted, files)
    missing = run.begin(batch_size, share or own_share())
    run.make(missing, progress)
    return run.finish()


@dataclass(frozen=True, kw_only=True)
class Request:
    """Images by labels or prompts, as ``generate_to`` takes them."""

    count: int | None
    labels: str | Sequence[int | str] | None
    prompts: str | Sequence[str] | None
    seed: int

    def wanted(self, generator: ImageGenerator, settings: dict[str, Any]) -> Wanted:
        """A row for each image.

        Raises:
            ValueError, TypeError, KeyError: as ``generate_to``.
        """
        check_alone(generator.settings.updated(settings))
        rows, how = self._rows(generator)
        if self.count is None and how != GIVEN:
            raise ValueError("got no count; give how many images, or a protocol")
        count = len(rows or ()) if self.count is None else self.count
        if count < 1:
            raise ValueError(f"got count {count}; expected an integer >= 1")
        seeds = make_seeds(self.seed, count)
        record = {"labels": how, "given": rows if how == GIVEN else None}
        if rows is None:
            rows = generator.random_labels(seeds, **settings)
        rows = [rows[i % len(rows)] for i in range(count)]
        info = ImageInfo(*asked(rows), seeds)
        side = generator.tokenizer.config.image_size
        return Wanted(info=info, settings=settings, asked=record, image_size=side)

    def _rows(self, generator: ImageGenerator) -> tuple[Any, str]:
        """Labels or prompts that are taken in turn, or None for drawn ones; and how they came."""
        labels, text = self.labels, generator.transformer.takes_text
        if labels is None and not text and self.prompts is None:
            labels = BALANCED
        if text or self.prompts is not None or not isinstance(labels, str):
            return generator.conditions.read(labels, self.prompts, generator.class_names), GIVEN
        if labels not in (BALANCED, DRAWN):
            raise ValueError(
                f"got labels {labels!r}; expected 'balanced', 'drawn' or a list of labels"
            )
        classes = range(generator.transformer.config.num_classes)
        return (list(classes), labels) if labels == BALANCED else (None, labels)


def by_protocol(
    generator: ImageGenerator, protocol: EvaluationProtocol | str, settings: dict[str, Any]
) -> Wanted:
    """The images that ``evaluate`` would make by a protocol.

    Raises:
        KeyError: an unknown protocol. ValueError: one for another number of classes.
    """
    source = generator.stream_dataset(protocol, batch_size=1, **settings)
    found = source.protocol
    seeds = make_seeds(found.first_seed, found.count)
    return Wanted(
        info=ImageInfo(source.labels.tolist(), [], seeds),
        settings=source.settings,
        asked={"labels": found.labels, "given": None, "protocol": found.name},
        image_size=found.image_size,
        rounding=found.rounding,
    )


class Generation:
    """One process's part in filling a folder.

    Args:
        generator: makes the images.
        out: the folder.
        wanted: which images.
        files: a name of ``FILES``.
    """

    def __init__(self, generator: ImageGenerator, out: Path, wanted: Wanted, files: str) -> None:
        self.generator, self.out, self.wanted = generator, out, wanted
        origin, sampling = generator.origin, generator.settings.updated(wanted.settings)
        about = {"arimage": __version__, "model": origin.name, **sampling.to_json()}
        if generator.refiner is not None:
            about |= {"refiner": generator.refiner.origin.name, "handover": generator.handover}
        if "protocol" in wanted.asked:
            about["protocol"] = wanted.asked["protocol"]
        self.files = FILES[files](out, wanted.info, wanted.image_size, about)
        self.record: dict[str, Any] = {
            "model": vars(origin) | {"weights": weights_of(generator, sampling)},
            "dtype": str(generator.transformer.dtype).removeprefix("torch."),
            "device": generator.device.type,
            "count": len(wanted.info),
            **wanted.asked,
            "seeds": f"{wanted.info.seeds[0]}-{wanted.info.seeds[-1]}",
            "sampling": sampling.to_json(),
            "image_size": wanted.image_size,
            "rounding": wanted.rounding,
            "files": files,
            "versions": versions(),
        }
        self.batches: list[range] = []
        self.fit = Fit(1)

    def begin(self, batch_size: int | None, share: tuple[int, int]) -> list[range]:
        """The batches that are left for this process; the folder is this run's from now on.

        Raises:
            ValueError, OSError: as ``generate_to``.
        """
        held = self._held()
        if batch_size is not None:
            size = check_batch_size(batch_size)
        elif held is not None:
            size = int(held["batch_size"])
        else:
            size = min(self.generator.plan(**self.wanted.settings), len(self.wanted.info))
        self._check(held, size, share[1])
        told = claim_json(self.out / RECORD, self.record | {"batch_size": size})
        if batch_size is None:  # another process may have planned a moment earlier
            size = int(told["batch_size"])
        self._check(told, size, share[1])
        count = len(self.wanted.info)
        self.batches = [range(i, min(i + size, count)) for i in range(0, count, size)]
        self.fit = Fit(min(size, int(told.get(TOGETHER, size))), self._plan)
        if share[1] == 1:
            self.files.clean()
        mine = [] if self.files.complete else self.batches[share[0] :: share[1]]
        return [batch for batch in mine if not self.files.holds(batch)]

    def _held(self) -> dict[str, Any] | None:
        """The folder's record, if there is one; images without a record are not ours to keep."""
        kinds = (*IMAGE_SUFFIXES, ".npz", ".npy")
        shown = sorted(p.name for p in self.out.glob("[!.]*") if p.suffix.lower() in kinds)
        if (self.out / RECORD).is_file():  # written before the images are: looked for after them
            return read_json(self.out / RECORD)
        if shown:
            raise FileExistsError(
                f"{self.out} holds {shown[0]} and no {RECORD} that says how it was made; choose "
                "another folder"
            )
        return None

    def _check(self, held: dict[str, Any] | None, size: int, processes: int) -> None:
        new = self.record | {"batch_size": size}
        different = {} if held is None else changed(held, new, UNCOMPARED)
        for key, (old, now) in different.items():
            why = ""
            if key == "batch_size":
                why = " (images of batches of another size may differ by rounding)"
            raise ValueError(
                f"the images in {self.out} were made with another {key}: {shown(old)}, now "
                f"{shown(now)}{why}; give what it was, or choose another folder"
            )
        batches = -(-len(self.wanted.info) // size)
        if processes > batches:
            raise ValueError(
                f"got {processes} processes for {batches} batches of {size} images; start at most "
                f"{batches}, or give a smaller batch size"
            )

    def make(self, batches: list[range], progress: bool = False) -> None:
        """Makes batches; files are written in another thread while the next batch is sampled.

        Raises:
            OSError, MemoryError: as ``generate_to``.
        """
        total = sum(map(len, batches))
        bar = tqdm(
            total=total,
            desc="generating images",
            disable=not (progress and total),
            mininterval=0.5,
        )
        with bar, closing(finished(self._sampled(batches), self._write)) as written:
            for count in written:
                bar.update(count)

    def _sampled(self, batches: list[range]) -> Iterator[tuple[range, list[Arrival]]]:
        for batch in batches:
            size = self.fit.size
            yield batch, list(self.fit.batches(self._sample, batch.stop, batch.start))
            if self.fit.size < size:
                held = read_json(self.out / RECORD)
                least = min(self.fit.size, held.get(TOGETHER, size))
                write_json(self.out / RECORD, held | {TOGETHER: least})

    def _sample(self, part: slice) -> Arrival:
        info = self.wanted.info
        *_, state = self.generator.sample(
            info.labels[part] or None,
            info.seeds[part],
            prompts=info.prompts[part] or None,
            **self.wanted.settings,
        )
        captured = self.generator.captures is not None
        return Arrival(state, self._decode, self.wanted.rounding, captured)

    def _decode(self, state: State) -> Float[Tensor, "b 3 h w"]:
        with torch.no_grad():
            return resized(self.generator.decode(state), self.wanted.image_size)

    def _plan(self) -> int:
        return self.generator.plan(**self.wanted.settings)

    def _write(self, made: tuple[range, list[Arrival]]) -> int:
        """Writes a batch; how many images it has."""
        batch, arrivals = made
        pixels = np.concatenate([arrival.take()[0] for arrival in arrivals])
        try:
            self.files.write(batch, pixels)
        except OSError as error:
            raise self._unwritten(error) from error
        return len(batch)

    def finish(self) -> Path | None:
        """What ``generate_to`` returns.

        Raises:
            OSError: no room for the last file.
        """
        if not self.files.complete and not all(map(self.files.holds, self.batches)):
            return None
        try:
            result = self.files.finish(self.batches)
        except OSError as error:
            raise self._unwritten(error) from error
        self.files.clean()
        return result

    def _unwritten(self, error: OSError) -> OSError:
        return OSError(
            f"cannot write in {self.out} ({error.strerror or error}); what is complete stays there "
            "and the same command goes on: make room or see to the folder first"
        )


def shown(value: Any) -> str:
    """A value in a message: its beginning."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
