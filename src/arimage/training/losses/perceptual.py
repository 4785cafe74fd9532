"""``perceptual``: distance of images as a frozen network sees them (arXiv 1603.08155).

lpips     LPIPS v0.1 on VGG16 (arXiv 1801.03924), as VQGAN, LlamaGen and RobustTok are trained
convnext  squared difference of a ConvNeXt-S classifier's logits, as TiTok and MaskBit's code have
          it (markweberdev/maskbit@5ea3d73 modeling/modules/perceptual_loss.py)
resnet    the same of a ResNet-50, which MaskBit's released recipes use
dinov2    patch tokens of DINOv2-B; ours: no published tokenizer here is trained with it
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.eval.features.vgg import load_lpips
from arimage.registry import unknown_name
from arimage.shapes import Float
from arimage.training.losses.base import Seen, TokenizerLoss
from arimage.training.losses.frozen import SIDE, Frozen, imagenet_normalised, load_frozen

# The weights of the references are torchvision's; these are the hub's of the same architectures.
MODELS = {
    "convnext": "facebook/convnext-small-224",
    "resnet": "microsoft/resnet-50",
    "dinov2": "facebook/dinov2-base",
}
FEATURES = ("lpips", *MODELS)
DEPTHS = 4  # of a vision transformer's blocks, evenly spread, the last among them
INSTEAD = "train without it by --perceptual none"


class PerceptualLoss(TokenizerLoss):
    """The mean distance of reconstruction and image.

    Args:
        features: "lpips", "convnext", "resnet" or "dinov2".
        model: a folder or hub id of another model of that kind; not for lpips.
        vgg: torchvision's VGG16, a path or "owner/name:file"; for lpips alone.
        lin: the calibration of LPIPS, likewise.

    Raises:
        KeyError: unknown features. ValueError: files of another kind of features.
        FileNotFoundError: weights that are nowhere; the sentence says what to do.
    """

    def __init__(
        self,
        *,
        features: str = "lpips",
        model: str | None = None,
        vgg: str | None = None,
        lin: str | None = None,
    ) -> None:
        super().__init__()
        if features not in FEATURES:
            raise KeyError(unknown_name("features", features, FEATURES))
        given = {"model": model} if features == "lpips" else {"vgg": vgg, "lin": lin}
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            raise ValueError(f"got {unused[0]} for the features {features!r}, which have no such")
        self.distance: nn.Module
        if features == "lpips":
            self.distance = frozen_lpips(vgg, lin, instead=INSTEAD)
        else:
            self.distance = _model_distance(features, model or MODELS[features])

    def forward(self, seen: Seen) -> Float[Tensor, ""]:
        """Mean over the batch; ValueError for images that the network cannot take."""
        return self.distance(seen.output, seen.images).mean()


def frozen_lpips(
    vgg: str | Path | None = None, lin: str | Path | None = None, *, instead: str
) -> Frozen:
    """LPIPS, from files or the hub.

    Raises:
        FileNotFoundError: a file is nowhere; says where to get and put it, or ``instead``.
        ValueError: a damaged file, or one with other weights.
    """
    try:
        return Frozen(load_lpips(vgg, lin))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}, in a recipe as vgg and lin of the loss 'perceptual'; or {instead}"
        ) from error


def _model_distance(features: str, source: str) -> nn.Module:
    from transformers import AutoModelForImageClassification, Dinov2Model

    cls: Any = Dinov2Model if features == "dinov2" else AutoModelForImageClassification
    network = load_frozen(
        cls,
        source,
        need=f"the perceptual loss on {features} features needs",
        instead=f"name it as model of the loss 'perceptual'; or {INSTEAD}",
    )
    return TokenDistance(network) if features == "dinov2" else LogitDistance(network)


class LogitDistance(nn.Module):
    """Mean squared difference of a classifier's logits."""

    def __init__(self, network: Frozen) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """The distance of each pair of images in [-1, 1] of any size."""
        x, y = (self.network(_resized(images)).logits for images in (a, b))
        return (x - y).square().mean(1)


class TokenDistance(nn.Module):
    """LPIPS without a calibration: patch tokens at length 1, summed squares of their difference,
    the mean over patches and depths; from 0 to 4.
    """

    def __init__(self, network: Frozen) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """The distance of each pair of images in [-1, 1] of any size."""
        pairs = zip(self._tokens(a), self._tokens(b), strict=True)
        return torch.stack([(x - y).square().sum(2).mean(1) for x, y in pairs]).mean(0)

    def _tokens(self, images: Tensor) -> list[Tensor]:
        states = self.network(_resized(images), output_hidden_states=True).hidden_states
        last = len(states) - 1
        depths = sorted({-(-last * k // DEPTHS) for k in range(1, DEPTHS + 1)})
        return [F.normalize(states[depth][:, 1:], dim=2) for depth in depths]


def _resized(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 side side"]:
    """Of the side that the networks know; bilinear with antialiasing, as MaskBit's code."""
    side = (SIDE, SIDE)
    resized = F.interpolate(images.float(), side, mode="bilinear", antialias=True)
    return imagenet_normalised(resized)
