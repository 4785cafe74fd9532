"""Reference sets: statistics in any published layout, or images.

| file | arrays | network |
|---|---|---|
| guided-diffusion (ADM) npz | arr_0 images, mu, sigma, mu_s, sigma_s | FID Inception, not said |
| pytorch-fid, clean-fid npz | mu, sigma | FID Inception, not said |
| torch-fidelity .pt | mu, sigma | FID Inception, not said |
| ours, npz | the same names, features, labels, n, meta | named in meta |

``KNOWN`` files are looked for in ``HF_HOME/arimage/references``; the sha256 of one that nobody has
published is pinned when it is first read and compared from then on.
"""

import json
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arimage.eval.arrays import npz_member, open_zip
from arimage.eval.base import FeatureBatch, FeatureExtractor, Reference
from arimage.eval.cache import FeatureCache
from arimage.eval.extraction import Pass, as_source, extract
from arimage.eval.moments import Moments, extend
from arimage.eval.sources import ArraySource, ImageSource, digest
from arimage.eval.stream import pixel_batches
from arimage.files import new_file, read_json, write_json
from arimage.hub import cache_home, file_sha256

INCEPTION = "inception@"  # how the names of its extractors begin (features/inception.py)
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class KnownReference:
    """A published reference: its file, who publishes it, how many images its moments are of."""

    name: str
    file: str
    where: str
    count: int | None = None
    sha256: str | None = None
    packaged: str = ""
    remark: str = ""


_ADM = "the reference batches that openai/guided-diffusion lists in evaluations/README.md"
KNOWN = {
    known.name: known
    for known in (
        KnownReference(
            name="imagenet256",
            file="VIRTUAL_imagenet256_labeled.npz",
            where=_ADM,
            count=1_281_167,
        ),
        KnownReference(
            name="imagenet512",
            file="VIRTUAL_imagenet512.npz",
            where=_ADM,
            count=1_281_167,
            remark="the 512 px reference is reported to hold 1,000 images only, and precision and "
            "recall are of these (openai/guided-diffusion, issue 19)",
        ),
        KnownReference(
            name="digits",
            file="digits-reference.npz",
            where="this package",
            packaged="presets/digits-reference.npz",
        ),
    )
}


def load_reference(
    given: Any, extractor: FeatureExtractor, how: Pass, *, images: bool, role: str = "reference"
) -> Reference:
    """The reference that ``given`` means, as ``extractor`` sees it.

    Args:
        given: a ``Reference``; a name of ``KNOWN``; a file of statistics; images in any form that
            ``evaluate`` takes.
        extractor: who looks at images, and who must have made the statistics.
        how: batch size and cache, for images.
        images: whether single images are needed, not only moments.
        role: what messages call the set.

    Raises:
        FileNotFoundError: a known file that is not there; says where to get and put it.
        ValueError: statistics of another network, a file that cannot be read.
    """
    if isinstance(given, Reference):
        return given
    if isinstance(given, str) and given in KNOWN:
        known = KNOWN[given]
        path = find_known(known)
        return _named(read_statistics(path, extractor, how, images=images), known)
    if isinstance(given, str | Path) and is_statistics(Path(given)):
        return read_statistics(Path(given), extractor, how, images=images)
    return from_images(given, extractor, how, name=role, keep=None if images else 0)


def from_images(
    given: Any,
    extractor: FeatureExtractor,
    how: Pass,
    *,
    name: str,
    labels: Any = None,
    keep: int | None = None,
) -> Reference:
    """A set of real images in any form; ``name`` is that of arrays and iterables."""
    source = as_source(rereadable(given, name))
    assert source is not None
    return from_source(source, extractor, how, labels, keep)


def _named(reference: Reference, known: KnownReference) -> Reference:
    count = reference.count if reference.count is not None else known.count
    return replace(reference, name=known.name, count=count, remark=known.remark)


def is_statistics(path: Path) -> bool:
    """Whether a file holds a mean and a covariance, by its name or its arrays."""
    if path.suffix in (".pt", ".pth"):
        return True
    if path.suffix != ".npz" or not path.is_file():
        return False
    try:
        npz_member(path, "mu")
    except ValueError as error:
        return "has no array" not in str(error)  # broken: let the reader say how
    return True


def rereadable(given: Any, name: str) -> Any:
    """``given``, or its images as one source called ``name`` where it is an array, or could be read
    only once: its hash and another extractor need it again."""
    if isinstance(given, str | Path | Reference | ImageSource):
        return given
    if isinstance(as_source(given), ArraySource):
        return ArraySource(given, name)
    return ArraySource(np.concatenate([*pixel_batches(given)]), name)


def from_source(
    source: ImageSource,
    extractor: FeatureExtractor,
    how: Pass,
    labels: Any = None,
    keep: int | None = None,
) -> Reference:
    """Extracts a set of real images, cached and resumable like any other.

    ``keep``: features of so many images stay, evenly spaced; None keeps all, 0 none.
    """
    kept: list[FeatureBatch] = []
    moments, spatial, size, skipped = None, None, None, 0
    total = len(source) if keep is None else min(keep, len(source))
    wanted = np.arange(total) * len(source) // max(total, 1)
    for batch in extract(source, [extractor], labels, how):
        seen, size = batch[extractor.name].batch, size or batch[extractor.name].size
        skipped += len(batch[extractor.name].skipped)
        if len(seen):
            moments, spatial = extend(moments, seen.features), extend(spatial, seen.spatial)
            kept.append(seen.rows(np.isin(batch[extractor.name].kept, wanted)))
    if moments is None:
        raise ValueError(f"got no image from {source.name}")
    remark = f"{skipped} images of {source.name} could not be read" if skipped else ""
    return Reference(
        name=source.name,
        extractor=extractor.name,
        moments=moments,
        images=FeatureBatch.concatenate(kept) if total else None,
        sha256=content_hash(source, how),
        spatial=spatial,
        count=moments.count,
        size=size,
        remark=remark,
        source=source if moments.count == len(source) == total else None,
    )


def content_hash(source: ImageSource, how: Pass) -> str:
    """The hash of a source's content, kept in the cache: it needs every image."""
    if how.cache is None:
        return source.sha256()
    return FeatureCache(how.cache, source, how.batch_size).remember("sha256", source.sha256)


def read_statistics(
    path: Path, extractor: FeatureExtractor, how: Pass, *, images: bool
) -> Reference:
    """A reference from a file of statistics in any layout of this module's table.

    Raises:
        FileNotFoundError, ValueError: as ``load_reference`` says.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no reference file at {path}")
    read = _torch_statistics if path.suffix in (".pt", ".pth") else _npz_statistics
    arrays, members = read(path)
    meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    name = meta.get("extractor") or _assumed(path, extractor)
    count = int(arrays["n"]) if "n" in arrays else None
    reference = Reference(
        name=meta.get("name", path.name),
        extractor=name,
        moments=_moments(path, arrays["mu"], arrays["sigma"], count),
        images=None,
        sha256=file_sha256(path),
        spatial=(
            _moments(path, arrays["mu_s"], arrays["sigma_s"], count) if "mu_s" in arrays else None
        ),
        count=count,
        size=tuple(meta["size"]) if meta.get("size") else None,
        remark=meta.get("remark", "")
        if meta
        else f"{path.name} does not say which network made it; {name} is taken",
    )
    if "features" in arrays:
        rows = {key: arrays.get(key) for key in ("features", "probabilities", "labels")}
        return replace(reference, images=FeatureBatch(extractor=name, **rows))
    if images and "arr_0" in members:
        labels = npz_member(path, "arr_1") if "arr_1" in members else None
        labels = labels if labels is not None and labels.ndim == 1 else None
        pixels = ArraySource(npz_member(path, "arr_0"), path.name, labels)
        pixels.identity = digest(path.resolve(), reference.sha256)
        seen = from_source(pixels, extractor, how)
        return replace(reference, images=seen.images, source=seen.source, size=seen.size)
    return reference


def _assumed(path: Path, extractor: FeatureExtractor) -> str:
    if extractor.name.startswith(INCEPTION):
        return extractor.name
    raise ValueError(
        f"{path} does not say which network made its statistics, as files of the FID Inception do "
        f"not; got features of {extractor.name!r}: use features='inception', or make statistics "
        "with `arimage reference`"
    )


def _moments(path: Path, mean: Any, covariance: Any, count: int | None) -> Moments:
    try:
        return Moments.from_covariance(mean, covariance, count or len(mean) + 1)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


STATISTICS = ("mu", "sigma", "mu_s", "sigma_s", "n", "meta", "features", "probabilities", "labels")


def _npz_statistics(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    with open_zip(path) as archive:
        members = [name.removesuffix(".npy") for name in archive.namelist()]
    arrays = {key: np.array(npz_member(path, key)) for key in STATISTICS if key in members}
    missing = [key for key in ("mu", "sigma") if key not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {' and '.join(missing)}; it holds {', '.join(members)}")
    return arrays, members


def _torch_statistics(path: Path) -> tuple[dict[str, Any], list[str]]:
    # Its cache holds numpy arrays; what rebuilds those is all that may be named in the file.
    scalars = [type(np.dtype(kind)) for kind in (np.float32, np.float64)]
    allowed = [np._core.multiarray._reconstruct, np.ndarray, np.dtype, *scalars]
    try:
        with torch.serialization.safe_globals(allowed):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be opened as plain tensors ({type(error).__name__}); files that hold "
            "other Python objects are never loaded: save mu and sigma as a npz"
        ) from error
    if not isinstance(found, dict) or not {"mu", "sigma"} <= found.keys():
        raise ValueError(f"{path} holds no dict with mu and sigma, as torch-fidelity's cache does")
    return {key: np.asarray(found[key]) for key in ("mu", "sigma")}, []


def save_reference(path: str | Path, reference: Reference) -> Path:
    """Writes a reference as npz, with the features of its images; also readable by what reads mu
    and sigma."""
    meta = {"version": VERSION, "name": reference.name, "extractor": reference.extractor}
    meta |= {"images_sha256": reference.sha256, "size": reference.size}
    meta |= {"remark": reference.remark}
    arrays: dict[str, Any] = {
        "mu": reference.moments.mean,
        "sigma": reference.moments.covariance,
        "n": np.int64(reference.moments.count),
        "meta": np.str_(json.dumps(meta)),
    }
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mean, "sigma_s": reference.spatial.covariance}
    if reference.images is not None:
        for key in ("features", "probabilities", "labels"):
            part = getattr(reference.images, key)
            arrays |= {} if part is None else {key: part}
    path = Path(path)
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return path


def find_known(known: KnownReference) -> Path:
    """The file of a known reference, its hash checked or pinned.

    Raises:
        FileNotFoundError: it is not there. ValueError: it is another file than before.
    """
    if known.packaged:
        return Path(str(files("arimage"))) / known.packaged
    folder = cache_home() / "references"
    path = folder / known.file
    if not path.is_file():
        raise FileNotFoundError(
            f"the reference {known.name!r} is not here: get {known.file} from {known.where} and "
            f"put it into {folder}, or give its path as the reference"
        )
    pins_file = folder / "sha256.json"
    pins = read_json(pins_file) if pins_file.is_file() else {}
    found, expected = file_sha256(path), known.sha256 or pins.get(known.file)
    if expected is None:
        write_json(pins_file, pins | {known.file: found})
    elif found != expected:
        raise ValueError(
            f"{path} has sha256 {found}, and {expected} is expected: it is damaged or another "
            f"file; get it again, or remove its line from {pins_file} if it was replaced on purpose"
        )
    return path
