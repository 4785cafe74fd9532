"""FID of a generator while it trains: few images, always of the same seeds and labels.

The images are those of ``generator.stream_dataset``, the distance is ``eval``'s ``fid``, the same
that `arimage evaluate` computes. Each process makes every n-th batch, and the moments are merged.
Nothing random of the training is touched. Between two scores nothing is kept but the extractor and
the reference's moments.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from arimage.eval.arrays import npz_member
from arimage.eval.base import FeatureExtractor, Reference, feature_extractor
from arimage.eval.extraction import Pass, extract
from arimage.eval.protocols import EvaluationProtocol
from arimage.eval.references import (
    KNOWN,
    from_source,
    is_statistics,
    load_reference,
    read_statistics,
    save_reference,
)
from arimage.eval.registry import METRICS
from arimage.eval.sources import ReadOptions, digest, open_path
from arimage.eval.warnings import few_images, singular
from arimage.generator import ImageGenerator
from arimage.training.generator_recipe import GeneratorRecipe, ScoreFields
from arimage.training.image_files import data_name

if TYPE_CHECKING:
    from accelerate import Accelerator

METRIC = "fid"
REFERENCE = "reference-{}.npz"  # moments of a reference that was given as images


class Scorer:
    """What a training is scored by: opened before the first step.

    Args:
        fields: of the recipe.
        generator: of the training, for its classes, image size and sampling defaults.
        folder: of the run; the moments of images given as the reference are kept there.
        accelerator: of the training.

    Raises:
        FileNotFoundError, KeyError, ValueError: no such reference or weights of the extractor,
            statistics of another network, sampling defaults that make no image alone.
    """

    def __init__(
        self,
        fields: ScoreFields,
        generator: ImageGenerator,
        folder: Path,
        accelerator: "Accelerator",
    ) -> None:
        self.every, self.batch_size, self.accelerator = fields.every, fields.batch_size, accelerator
        size = generator.tokenizer.config.image_size
        self.protocol = EvaluationProtocol(
            name="training",
            count=fields.count,
            num_classes=generator.transformer.config.num_classes,
            image_size=size,
            reference=data_name(fields.reference),
            features=fields.features.partition("=")[0],
            metrics=(METRIC,),
            metric_settings={},
        )
        images = generator.stream_dataset(self.protocol, batch_size=self.batch_size)
        self.sampling = images.sampling.to_json()
        with torch.device(accelerator.device), accelerator.main_process_first():
            self.extractor = feature_extractor(fields.features)
            self.reference = open_reference(fields.reference, self.extractor, size, folder)
        METRICS[METRIC]().check_reference(self.reference, self.extractor.name)

    def score(self, generator: ImageGenerator) -> dict[str, float]:
        """ "fid" of ``generator`` and "fid count", the same in every process; called in all."""
        images = generator.stream_dataset(self.protocol, batch_size=self.batch_size)
        share = (self.accelerator.process_index, self.accelerator.num_processes)
        metric = METRICS[METRIC]()
        with torch.device(self.accelerator.device):
            for batch in extract(
                images, [self.extractor], None, Pass(self.batch_size, None, share)
            ):
                metric.update(batch[self.extractor.name].batch)
        found = self._merged(metric).compute(self.reference)
        return {METRIC: found.value, f"{METRIC} count": found.count}

    def _merged(self, metric: Any) -> Any:
        """The metric of all processes, in their order."""
        from accelerate.utils import gather_object

        if self.accelerator.num_processes == 1:
            return metric
        whole = METRICS[METRIC]()
        for part in gather_object([metric]):
            whole.merge(part)
        return whole

    def describe(self) -> dict[str, Any]:
        """What it takes to repeat a score or to read it, for run.json."""
        protocol, reference = self.protocol, self.reference
        return {
            "metric": METRIC,
            "count": protocol.count,
            "num_classes": protocol.num_classes,
            "labels": protocol.labels,
            "seeds": f"{protocol.first_seed}-{protocol.first_seed + protocol.count - 1}",
            "image_size": protocol.image_size,
            "rounding": protocol.rounding,
            "batch_size": self.batch_size,
            "dtype": "float32",
            "sampling": self.sampling,
            "features": self.extractor.name,
            "reference": {
                "name": protocol.reference,
                "count": reference.count,
                "sha256": reference.sha256,
            },
            "warnings": self._warnings(),
        }

    def _warnings(self) -> list[str]:
        seen = METRICS[METRIC]()
        seen.count = self.protocol.count
        found = few_images([METRIC], seen.count) + singular(seen, len(self.reference.moments.mean))
        return found + [self.reference.remark] * bool(self.reference.remark)


def open_reference(given: str, extractor: FeatureExtractor, size: int, folder: Path) -> Reference:
    """The moments of a reference; those of images are extracted once and kept in ``folder``.

    Args:
        given: a name of ``references.KNOWN``, a file of statistics, or images (a folder, an
            archive, a parquet file, the id of a data set), which are cut to ``size``.

    Raises:
        FileNotFoundError, ValueError: as ``load_reference``.
    """
    if given in KNOWN or is_statistics(Path(given)):
        return load_reference(given, extractor, Pass(), images=False)
    source = open_path(given, ReadOptions(size=size))
    path = folder / REFERENCE.format(digest(source.identity, extractor.name)[:16])
    if not path.is_file():
        save_reference(path, from_source(source, extractor, Pass(), keep=0))
    return kept_reference(path, extractor)


def kept_reference(path: Path, extractor: FeatureExtractor) -> Reference:
    """A file of ``open_reference``, with the hash of the images instead of the file's."""
    found = read_statistics(path, extractor, Pass(), images=False)
    about = json.loads(str(npz_member(path, "meta")))
    return replace(found, sha256=about["images_sha256"])


def recorded(recipe: GeneratorRecipe) -> dict[str, Any]:
    """The recipe's fields for run.json, without a machine's paths."""
    fields = recipe.to_dict()
    if recipe.score is not None:
        name, equals, weights = recipe.score.features.partition("=")
        fields["score"] |= {
            "reference": data_name(recipe.score.reference),
            "features": f"{name}{equals}{Path(weights).name if weights else ''}",
        }
    return fields
