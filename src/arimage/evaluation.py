"""What ``arimage evaluate`` does: a model or images, by a protocol, in one process or several."""

import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from arimage.convert import INDEX
from arimage.eval.extraction import Pass
from arimage.eval.references import KNOWN, is_statistics
from arimage.eval.report import Report
from arimage.eval.runner import evaluate, extractors_of, fill_cache
from arimage.eval.sources import ImageSource, ReadOptions, open_path
from arimage.eval.sweep import parse_grid, sweep
from arimage.generator import ImageGenerator
from arimage.pretrained import check_device
from arimage.zoo import PRESETS

SHOWN = 40  # samples on a page


@dataclass(frozen=True, kw_only=True)
class Job:
    """One evaluation, as plain values that another process can be given.

    Attributes:
        images: a model (preset, hub id, folder of a generator) or images (folder, zip, npz, ...).
        variant: of a hub repository of models.
        settings: sampling settings.
        read: how image files are read.
        cache: folder of features; None keeps none.
        device: of the models and extractors.
        gallery: images on the page.
        generate_batch: images per call of a model; None is what fits.
        protocol, metrics, reference, training, features, uncertainty, batch_size: as in
            ``eval.runner.evaluate``.
    """

    images: str
    variant: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    read: ReadOptions = field(default_factory=ReadOptions)
    cache: str | None = None
    device: str = "cpu"
    gallery: int = SHOWN
    protocol: str | None = None
    metrics: tuple[str, ...] | None = None
    reference: str | None = None
    training: str | None = None
    features: str | None = None
    uncertainty: bool = False
    batch_size: int = 256
    generate_batch: int | None = None

    @property
    def generates(self) -> bool:
        """Whether ``images`` is a model."""
        path = Path(self.images)
        if path.exists():
            return (path / INDEX).is_file() or path.suffix in (".pth", ".pt")
        repos = {preset.repo for preset in PRESETS.values()}
        asked = self.variant is not None or self.protocol is not None or bool(self.settings)
        return self.images in PRESETS or self.images in repos or asked

    def open(self, generator: ImageGenerator | None = None) -> ImageSource:
        """The images; ``generator`` saves loading the model again.

        Raises:
            ValueError, FileNotFoundError, KeyError: whatever is wrong with them, in a sentence.
        """
        if not self.generates:
            if self.settings or self.variant:
                raise ValueError(
                    f"got sampling settings or a variant for {self.images}, which holds images; "
                    "they are for models"
                )
            return open_path(self.images, self.read)
        made = generator or self.load()
        return made.stream_dataset(self.protocol, batch_size=self.generate_batch, **self.settings)

    def load(self) -> ImageGenerator:
        """The model."""
        return ImageGenerator.from_pretrained(self.images, variant=self.variant, device=self.device)

    def run(self, source: ImageSource | None = None) -> Report:
        """The report."""
        source = self.open() if source is None else source
        with torch.device(self.device):  # where extractors and distances are
            return self._evaluate(source)

    def _evaluate(self, source: ImageSource) -> Report:
        return evaluate(
            source,
            metrics=self.metrics,
            reference=self._set(self.reference),
            features=self.features,
            training=self._set(self.training),
            protocol=self.protocol,
            uncertainty=self.uncertainty,
            batch_size=self.batch_size,
            cache=self.cache,
            gallery=self.gallery,
        )

    def _set(self, given: str | None) -> Any:
        """A set of real images, read as the images are; statistics and known names as they are."""
        if given is None or given in KNOWN or is_statistics(Path(given)):
            return given
        return open_path(given, self.read)

    def extractors(self, source: ImageSource) -> list[Any]:
        """Who looks at each image."""
        with torch.device(self.device):
            return extractors_of(source, self.metrics, self.features, self.protocol)


def run_in_processes(job: Job, processes: int) -> Report:
    """Several processes extract features into one cache, then this one scores what is there.

    The report is that of one process: batches and their order are the same.

    Raises:
        ValueError: no cache, or fewer than one process. ChildProcessError: one failed; what the
            others made is kept.
    """
    if processes < 1 or (processes > 1 and job.cache is None):
        raise ValueError(f"got {processes} processes and the cache {job.cache}; give a folder")
    check_device(job.device)
    source = job.open()
    if processes > 1:  # begun by the pass itself, when references and weights are known to be there
        job = replace(job, generate_batch=getattr(source, "batch_size", None))
        source.prefetch = partial(fill_in_processes, job, processes)  # type: ignore[attr-defined]
    return job.run(source)


def fill_in_processes(job: Job, processes: int) -> None:
    """Fills the cache; ChildProcessError if one of the processes fails."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(job, (i, processes))) for i in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failed = [i for i, worker in enumerate(workers) if worker.exitcode != 0]
    if failed:
        raise ChildProcessError(
            f"process {failed[0] + 1} of {processes} ended with exit code "
            f"{workers[failed[0]].exitcode} (its message is above); what was made is in "
            f"{job.cache}, where the next run goes on"
        )


def work(job: Job, share: tuple[int, int]) -> None:
    """One process's share, each on its own GPU where there are several; a sentence if it fails."""
    torch.set_num_threads(max(1, torch.get_num_threads() // share[1]))
    if job.device == "cuda":
        job = replace(job, device=f"cuda:{share[0] % torch.cuda.device_count()}")
    try:
        source = job.open()
        fill_cache(source, job.extractors(source), Pass(job.batch_size, job.cache, share))
    except (ValueError, TypeError, KeyError, OSError, FloatingPointError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"arimage: {text}", file=sys.stderr, flush=True)
        sys.exit(2)


def run_sweep(job: Job, texts: Sequence[str], out: Path) -> list[tuple[dict[str, Any], Report]]:
    """Scores a model at every point of a grid of sampling settings.

    Raises:
        ValueError: images instead of a model, a grid that cannot be read.
    """
    if not job.generates:
        raise ValueError(f"got a sweep for {job.images}, which holds images; it is for models")
    grid, generator = parse_grid(texts), job.load()

    def score(settings: dict[str, Any]) -> Report:
        point = replace(job, settings={**job.settings, **settings})
        return point.run(point.open(generator))

    return sweep(grid, score, out)
