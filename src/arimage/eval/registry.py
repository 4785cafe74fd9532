"""The tables of the room: a new metric or feature extractor is one file and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arimage.registry import Registry

if TYPE_CHECKING:
    from arimage.eval.base import FeatureExtractor, Metric
    from arimage.eval.pairs import PairMetric

METRICS: Registry[type[Metric]] = Registry(
    "metric",
    {
        "fid": "arimage.eval.metrics.fid:FrechetDistance",
        "sfid": "arimage.eval.metrics.sfid:SpatialFrechetDistance",
        "fd_dinov2": "arimage.eval.metrics.fd_dinov2:DINOv2FrechetDistance",
        "fid_infinity": "arimage.eval.metrics.fid_infinity:FrechetInfinity",
        "mifid": "arimage.eval.metrics.mifid:MemorizationFrechetDistance",
        "cafd": "arimage.eval.metrics.cafd:ClassAwareFrechetDistance",
        "kid": "arimage.eval.metrics.kid:KernelDistance",
        "cmmd": "arimage.eval.metrics.cmmd:CLIPDiscrepancy",
        "inception_score": "arimage.eval.metrics.inception_score:InceptionScore",
        "is_infinity": "arimage.eval.metrics.is_infinity:InceptionInfinity",
        "precision": "arimage.eval.metrics.precision_recall:Precision",
        "recall": "arimage.eval.metrics.precision_recall:Recall",
        "density": "arimage.eval.metrics.density_coverage:Density",
        "coverage": "arimage.eval.metrics.density_coverage:Coverage",
        "accuracy": "arimage.eval.metrics.accuracy:Accuracy",
        "classification_accuracy": (
            "arimage.eval.metrics.classification_accuracy:ClassificationAccuracy"
        ),
        "copies": "arimage.eval.metrics.copies:Copies",
    },
)

GROUPS = {  # names for several metrics at once
    "precision_recall": ("precision", "recall"),
    "prdc": ("precision", "recall", "density", "coverage"),
}

FEATURES: Registry[type[FeatureExtractor]] = Registry(
    "feature extractor",
    {
        "digits": "arimage.eval.features.classifier:DigitFeatures",
        "inception": "arimage.eval.features.inception:InceptionFeatures",
        "dinov2": "arimage.eval.features.vision:DINOv2Features",
        "clip": "arimage.eval.features.vision:CLIPFeatures",
        "pixels": "arimage.eval.features.pixels:PixelFeatures",
    },
)

PAIR_METRICS: Registry[type[PairMetric]] = Registry(
    "metric of pairs",
    {
        "psnr": "arimage.eval.metrics.reconstruction:PSNR",
        "ssim": "arimage.eval.metrics.reconstruction:SSIM",
        "lpips": "arimage.eval.metrics.lpips:LPIPS",
    },
)
