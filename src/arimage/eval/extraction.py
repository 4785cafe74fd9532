"""Images to features, batch by batch: the one pass that scores and references share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from arimage.eval.base import CallableFeatures, FeatureBatch, FeatureExtractor
from arimage.eval.cache import FeatureCache, Seen
from arimage.eval.sources import ArraySource, Chunk, ImageSource, open_path
from arimage.eval.stream import labelled_batches, read_labels

Images = Any  # a source, a path or data set's name, an array, or an iterable (stream.py)


@dataclass(frozen=True)
class Pass:
    """How images are read: so many at once, features kept in a folder, which share of them.

    ``share`` (i, n) are the batches i, i + n, ...: of n processes, each fills its own into one
    cache.
    """

    batch_size: int = 256
    cache: str | Path | None = None
    share: tuple[int, int] = (0, 1)


def as_source(images: Images) -> ImageSource | None:
    """The source that ``images`` are; None for what can be read only once, in order."""
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, str | Path):
        return open_path(images)
    plain = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    if plain and images.shape[3] == 3 and len(images):
        return ArraySource(images, "pixels")
    return None


def read_batches(
    images: Images, labels: Any, batch_size: int, skipped: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Pixels and labels batch by batch, from any form of images; what is broken is left out and
    added to ``skipped``."""
    source, size = as_source(images), None
    if source is None:
        yield from labelled_batches(images, labels, batch_size)
        return
    known = read_labels(source.labels if labels is None else labels, len(source))
    for start in range(0, len(source), batch_size):
        chunk = source.read(start, start + batch_size)
        skipped += chunk.skipped
        if len(chunk.pixels):
            size = _one_size(size, chunk.pixels.shape[1:3], chunk.kept)
            yield chunk.pixels, None if known is None else known[chunk.kept]
    if size is None:
        raise _nothing(skipped)


def extract(
    images: Images, extractors: Sequence[FeatureExtractor], labels: Any, how: Pass
) -> Iterator[dict[str, Seen]]:
    """What each extractor says about each batch, in order; each batch is read once at most.

    Raises:
        TypeError, ValueError: images or labels that do not fit, no image that can be read.
    """
    if how.batch_size < 1:
        raise ValueError(f"got batch_size {how.batch_size}; expected at least 1")
    source = as_source(images)
    if source is None and how.cache is not None:
        raise ValueError(
            "got a cache for images that can be read only once; give a folder, an archive, an "
            "array or a data set (generator.stream_dataset), whose images have an index"
        )
    plain = next((e.name for e in extractors if isinstance(e, CallableFeatures)), None)
    if plain is not None and how.cache is not None:
        raise ValueError(
            f"got a cache and the function {plain!r} as features: its name does not say what it "
            "computes, so old features could pass for its own; give an extractor with a name that "
            "does"
        )
    if source is None:
        batches = _of_iterable(images, extractors, labels, how.batch_size)
    else:
        batches = _of_source(source, extractors, labels, how)
    yield from _checked(batches)


def _of_iterable(
    images: Images, extractors: Sequence[FeatureExtractor], labels: Any, batch_size: int
) -> Iterator[dict[str, Seen]]:
    done = 0
    for pixels, known in labelled_batches(images, labels, batch_size):
        chunk = Chunk(pixels, np.arange(done, done + len(pixels)))
        done += len(pixels)
        yield {e.name: _seen(e, chunk, known) for e in extractors}


def _of_source(
    source: ImageSource, extractors: Sequence[FeatureExtractor], labels: Any, how: Pass
) -> Iterator[dict[str, Seen]]:
    known = read_labels(source.labels if labels is None else labels, len(source))
    getattr(source, "prefetch", lambda: None)()  # other processes may fill the cache
    cache = None if how.cache is None else FeatureCache(how.cache, source, how.batch_size)
    starts = list(range(0, len(source), how.batch_size))
    mine = range(how.share[0], len(starts), how.share[1])
    # No bar unless stderr is a terminal and the pass takes a while.
    with tqdm(total=len(source), unit=" images", desc=source.name, disable=None, delay=2) as bar:
        for index in mine:
            yield {
                name: _labelled(seen, known)
                for name, seen in _batch(source, extractors, index, cache, how).items()
            }
            bar.update(min(how.batch_size, len(source) - starts[index]))


def _batch(
    source: ImageSource,
    extractors: Sequence[FeatureExtractor],
    index: int,
    cache: FeatureCache | None,
    how: Pass,
) -> dict[str, Seen]:
    """One batch from the cache, or read, extracted and cached."""
    ready = {e.name: None if cache is None else cache.load(e.name, index) for e in extractors}
    torn = next((s.skipped[0] for s in ready.values() if s is not None and s.skipped), None)
    if torn is not None and getattr(source, "strict", False):
        raise ValueError(torn)
    if not all(ready.values()):
        chunk = source.read(index * how.batch_size, (index + 1) * how.batch_size)
        for extractor in extractors:
            if ready[extractor.name] is None:
                seen = ready[extractor.name] = _seen(extractor, chunk, None)
                if cache is not None:
                    cache.save(index, seen)
    return {name: seen for name, seen in ready.items() if seen is not None}


def _seen(extractor: FeatureExtractor, chunk: Chunk, labels: np.ndarray | None) -> Seen:
    if not len(chunk.pixels):
        empty = FeatureBatch(extractor=extractor.name, features=np.empty((0, 0), np.float32))
        return Seen(empty, chunk.kept, chunk.skipped, None)
    batch = extractor(chunk.pixels, labels)
    if not isinstance(batch, FeatureBatch) or len(batch) != len(chunk.pixels):
        raise ValueError(
            f"the extractor {extractor.name!r} gave {type(batch).__name__} for "
            f"{len(chunk.pixels)} images; expected a FeatureBatch with one row per image"
        )
    height, width = chunk.pixels.shape[1:3]
    return Seen(batch, chunk.kept, chunk.skipped, (height, width))


def _labelled(seen: Seen, labels: np.ndarray | None) -> Seen:
    if labels is None:
        return seen
    return replace(seen, batch=replace(seen.batch, labels=labels[seen.kept]))


def _checked(batches: Iterator[dict[str, Seen]]) -> Iterator[dict[str, Seen]]:
    """Batches with images; all of one size, at least one, or a sentence."""
    size, skipped = None, ()
    for batch in batches:
        seen = next(iter(batch.values()))
        skipped += seen.skipped
        if seen.size is not None:
            size = _one_size(size, seen.size, seen.kept)
        yield batch
    if size is None and skipped:
        raise _nothing(skipped)


def _one_size(
    size: tuple[int, ...] | None, new: tuple[int, ...], kept: np.ndarray
) -> tuple[int, ...]:
    if size is not None and new != size:
        raise ValueError(
            f"images up to number {kept[0]} are {size[1]} x {size[0]} pixels, that one is "
            f"{new[1]} x {new[0]}; bring all images to one size, or give a size to cut them to"
        )
    return new


def _nothing(skipped: Sequence[str]) -> ValueError:
    if not skipped:
        return ValueError("got no image to evaluate; pass at least one")
    return ValueError(f"none of {len(skipped)} images can be read; the first: {skipped[0]}")
