"""Which losses and critics a recipe may name: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arimage.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from arimage.training.losses.base import TokenizerLoss

LOSSES: Registry[type[TokenizerLoss]] = Registry(
    "loss",
    {
        "l1": "arimage.training.losses.pixel:L1Loss",
        "l2": "arimage.training.losses.pixel:L2Loss",
        "perceptual": "arimage.training.losses.perceptual:PerceptualLoss",
        "codebook": "arimage.training.losses.codebook:CodebookLoss",
        "entropy": "arimage.training.losses.entropy:EntropyLoss",
        "alignment": "arimage.training.losses.alignment:AlignmentLoss",
        "equivariance": "arimage.training.losses.equivariance:EquivarianceLoss",
    },
)

CRITICS: Registry[type[nn.Module]] = Registry(
    "critic",
    {
        "patchgan": "arimage.training.losses.patchgan:PatchGAN",
        "patchgan_blur": "arimage.training.losses.patchgan_blur:BlurPatchGAN",
        "frozen_features": "arimage.training.losses.frozen_features:FrozenFeatures",
    },
)
