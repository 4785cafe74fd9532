"""Named, versioned protocols: what to generate, how it becomes pixels, what it is compared with.

A score belongs to a protocol. The name ends in a version: a protocol never changes, a better one is
a new version. ``find_protocol`` also takes the beginning of a name: the first such protocol.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from arimage.eval.metrics.inception_score import SHUFFLE_SEED
from arimage.images import Rounding
from arimage.registry import unknown_name
from arimage.shapes import Int

ADM = ("fid", "sfid", "inception_score", "precision", "recall")
# openai/guided-diffusion@22e0df8 evaluations/evaluator.py: blocks of 5,000 images, in order
ADM_SETTINGS = {"inception_score": {"split_size": 5_000}}


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """What it takes to repeat a score, besides the model.

    Attributes:
        name: with its version.
        count: generated images.
        num_classes: classes asked for; image i has seed ``first_seed + i``.
        labels: "balanced", classes in turn (0, 1, ..., 0, 1, ...: every block of consecutive images
            is balanced), or "uniform", one drawn for each image from ``label_seed``.
        image_size: pixels per side of what is scored. Images of another size are resized as floats
            (bicubic, without antialiasing, as LlamaGen's sampling script does).
        rounding: of floats to 8 bits (images.to_pixels).
        reference: a name of ``references.KNOWN``.
        features: a name of ``FEATURES``.
        metrics: names of ``METRICS``; ``metric_settings``: their arguments where not the defaults.
        settings: sampling settings that belong to it; those of a preset where it has none.
        source: where it is written down.
    """

    name: str
    count: int
    num_classes: int = 1000
    labels: Literal["balanced", "uniform"] = "balanced"
    label_seed: int = 0
    first_seed: int = 0
    image_size: int = 256
    rounding: Rounding = "nearest"
    reference: str = "imagenet256"
    features: str = "inception"
    metrics: tuple[str, ...] = ADM
    metric_settings: dict[str, dict[str, Any]] = field(default_factory=lambda: dict(ADM_SETTINGS))
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = "this package"

    def class_labels(self) -> Int[np.ndarray, " n"]:
        """The class of each image."""
        if self.labels == "balanced":
            return np.arange(self.count) % self.num_classes
        return np.random.default_rng(self.label_seed).integers(self.num_classes, size=self.count)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


_IMAGENET = (
    EvaluationProtocol(name="imagenet256-50k-balanced-v1", count=50_000),
    EvaluationProtocol(name="imagenet256-50k-uniform-v1", count=50_000, labels="uniform"),
    EvaluationProtocol(name="imagenet256-10k-balanced-v1", count=10_000),
    EvaluationProtocol(
        name="imagenet256-fid5k-fast-v1", count=5_000, metrics=("fid", "inception_score")
    ),
    EvaluationProtocol(
        name="imagenet512-50k-balanced-v1", count=50_000, image_size=512, reference="imagenet512"
    ),
)
# How the authors of each family scored it; the sampling settings are those of its presets.
_TORCH_FIDELITY = {"inception_score": {"seed": SHUFFLE_SEED}}  # ten splits after a shuffle
_SEED_VOKEN = {
    "rounding": "down",
    "source": "TencentARC/SEED-Voken@b9a17ea sample.py, combine_npz.py: 50 images per class, "
    "shuffled; 255 x truncated; the evaluator is not said",
}
_BY_FAMILY: dict[str, dict[str, Any]] = {
    "var": {
        "source": "FoundationVision/VAR@78b9539 README.md: 50 images per class; rounding is not "
        "said",
    },
    "llamagen": {
        "labels": "uniform",
        "source": "FoundationVision/LlamaGen@ce98ec4 autoregressive/sample/sample_c2i_ddp.py: "
        "labels drawn at random; 384 px images resized to 256 px",
    },
    "rar": {
        "rounding": "down",
        "source": "bytedance/1d-tokenizer@942a96f sample_imagenet_rar.py: classes in turn; 255 x "
        "truncated",
    },
    "par": {
        "labels": "uniform",
        "source": "Epiphqny/PAR@d96acea autoregressive/sample/sample_c2i_ddp.py: labels drawn at "
        "random; 384 px images resized to 256 px",
    },
    "randar": {
        "labels": "uniform",
        "source": "ziqipang/RandAR@d374a72 tools/search_cfg_weights.py: labels drawn at random; "
        "guidance chosen by 10,000 other images",
    },
    "arpg": {"source": "hp-l33/ARPG@1a1758c sample_c2i_ddp.py: classes in turn"},
    "lpd": {
        "metrics": ("fid", "inception_score"),
        "metric_settings": _TORCH_FIDELITY,
        "source": "mit-han-lab/lpd@f447b83 engine.py: 50 images per class, sorted; torch-fidelity "
        "against ADM's statistics, the inception score after a shuffle",
    },
    "titok": {
        "rounding": "down",
        "source": "bytedance/1d-tokenizer@942a96f sample_imagenet_titok.py: classes in turn; 255 x "
        "truncated",
    },
    "ibq": _SEED_VOKEN,
    "open-magvit2": _SEED_VOKEN,
    "mvar": {
        "rounding": "down",
        "source": "CVL-UESTC/MVAR@d0e035a run_mvar_evaluate.py: 50 images per class; 255 x "
        "truncated; one seed for every batch there",
    },
    "code": {
        "rounding": "down",
        "source": "czg1225/CoDe@bfb204d sample_CoDe.py: 50 images per class; 255 x truncated; "
        "seeds 0 to 49 in every class there",
    },
}
_AT_512 = ("var", "lpd")  # families with scores at 512 px
_PUBLISHED = (
    *(
        EvaluationProtocol(name=f"{family}-imagenet256-50k-v1", count=50_000, **how)
        for family, how in _BY_FAMILY.items()
    ),
    *(
        EvaluationProtocol(
            name=f"{family}-imagenet512-50k-v1",
            count=50_000,
            image_size=512,
            reference="imagenet512",
            **_BY_FAMILY[family],
        )
        for family in _AT_512
    ),
)
_DIGITS = (
    EvaluationProtocol(
        name="digits-1k-balanced-v1",
        count=1_000,
        num_classes=10,
        image_size=32,
        reference="digits",
        features="digits",
        metrics=("fid", "inception_score", "precision", "recall", "accuracy"),
        metric_settings={},
    ),
)
PROTOCOLS: dict[str, EvaluationProtocol] = {
    protocol.name: protocol for protocol in (*_IMAGENET, *_PUBLISHED, *_DIGITS)
}


# Words of a preset's name that say whose protocol it has; the first of them counts.
FAMILIES = {
    **{family: family for family in _BY_FAMILY},
    "digits": "digits",
    "magvit2": "open-magvit2",
    "flexvar": "var",  # scored as VAR is: 50 a class, PNG files
    "hmar": "var",
}
UNREPEATABLE = {  # families whose authors scored them by what is not published or not built here
    "halton": "its images are resized by clean-fid, labels are the validation set's and the "
    "statistics are its own (valeoai/Halton-MaskGIT@f61b0a1 Metrics)",
    "maskbit": "its statistics of the training set are in no published file "
    "(markweberdev/maskbit@5ea3d73 scripts/eval_maskbit.py)",
}


def find_protocol(name: str) -> EvaluationProtocol:
    """The protocol of that name, or the first whose name begins with it.

    Raises:
        KeyError: there is none, with the nearest known names.
    """
    for known, protocol in PROTOCOLS.items():
        if known == name or known.startswith(f"{name}-"):
            return protocol
    raise KeyError(unknown_name("protocol", name, PROTOCOLS))


def published_protocol(preset: str, image_size: int) -> EvaluationProtocol:
    """The protocol by which the authors of a preset scored it.

    Raises:
        KeyError: none is known for that family and size, or theirs cannot be repeated.
    """
    words = preset.split("-")
    family = next((FAMILIES[word] for word in words if word in FAMILIES), None)
    side = 512 if image_size == 512 else 256
    name = "digits-1k" if family == "digits" else f"{family}-imagenet{side}-50k"
    if any(known.startswith(f"{name}-") for known in PROTOCOLS):
        return find_protocol(name)
    why = next((f": {UNREPEATABLE[word]}" for word in words if word in UNREPEATABLE), "")
    raise KeyError(
        f"no published protocol is known for {preset!r} at {image_size} px{why}; give one by name, "
        f"for example imagenet{side}-50k-balanced-v1"
    )
