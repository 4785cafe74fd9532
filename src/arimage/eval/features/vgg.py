"""VGG16's convolutions and the perceptual distance on them, LPIPS v0.1.

VGG16: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", table 1, configuration D, with the weights that torchvision published.
LPIPS: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
eq. 1; behaviour of richzhang/PerceptualSimilarity v0.1 with net="vgg" (v0.0 did not scale inputs).

Both take float images in [-1, 1] and pass gradients to them, so that they serve as losses too.
"""

import hashlib
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.checkpoint import check_complete
from arimage.eval.features.weights import PublishedWeights, find_weights, read_state_dict
from arimage.shapes import Float

VGG_FILE = PublishedWeights(
    name="VGG16",
    files=("vgg16-397923af.pth",),
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    hub=("ByteDance/LatentSync:auxiliary/vgg16-397923af.pth",),
    where="torchvision, https://download.pytorch.org/models/vgg16-397923af.pth",
    what_for="LPIPS",
    argument="load_lpips(vgg=...)",
)
LPIPS_FILE = PublishedWeights(
    name="LPIPS v0.1 on VGG16",
    files=("LPIPS_v0.1_vgg-a78928a0.pth", "vgg.pth", "vgg_lpips.pth"),
    sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    hub=(
        "chaofengc/IQA-PyTorch-Weights:LPIPS_v0.1_vgg-a78928a0.pth",
        "valhalla/vgg_lpips:vgg_lpips.pth",
    ),
    where="richzhang/PerceptualSimilarity, lpips/weights/v0.1/vgg.pth; the pip package has it too",
    what_for="LPIPS",
    argument="load_lpips(lin=...)",
)

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions
SMALLEST = 2 ** (len(BLOCKS) - 1)  # side of an image that is one pixel in the last block
# ImageNet's mean and standard deviation (0.485 ..., 0.229 ... for images in [0, 1]) on [-1, 1];
# the scaling layer of richzhang/PerceptualSimilarity@0196579 lpips/lpips.py.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class VGG16(nn.Module):
    """The five maps before each pooling and at the end: relu1_2, 2_2, 3_3, 4_3 and 5_3.

    ``features`` numbers its layers as torchvision does, so its files fit by name.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        channels = 3
        for width, depth in BLOCKS:
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Images in [-1, 1] to maps (b, 64, h, w), (b, 128, h/2, w/2), ..., (b, 512, h/16, w/16).

        Raises:
            ValueError: images below 16 x 16.
        """
        if min(images.shape[2:]) < SMALLEST:
            raise ValueError(
                f"got images of {images.shape[2]} x {images.shape[3]} pixels; VGG16 needs at least "
                f"{SMALLEST} x {SMALLEST}"
            )
        x = (images - _per_channel(SHIFT, images)) / _per_channel(SCALE, images)
        maps = []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.taps:
                maps.append(x)
        return maps


class PerceptualDistance(nn.Module):
    """LPIPS: 0 for equal images, greater the more different they look; symmetric.

    Per tap: channels scaled to unit length at each pixel, squared differences, their sum weighted
    by ``lin`` (learned from human judgements, not negative), the mean over pixels; taps are added.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vgg = VGG16()
        self.lin = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width, _ in BLOCKS)

    def forward(
        self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """The distance of each pair of images in [-1, 1]; ValueError below 16 x 16 pixels."""
        total = torch.zeros(len(a), device=a.device, dtype=a.dtype)
        for x, y, weigh in zip(self.vgg(a), self.vgg(b), self.lin, strict=True):
            total = total + weigh((_unit(x) - _unit(y)).square()).mean((1, 2, 3))
        return total

    def digest(self) -> str:
        """Sha256 of the weights: the same for the same numbers, whatever file they came from."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            total.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
        return total.hexdigest()


def _unit(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Channels of length 1; a pixel whose channels are all 0 stays 0, and its gradient finite."""
    return F.normalize(x, dim=1, eps=1e-10)  # the eps of lpips/__init__.py, which adds it


def _per_channel(values: tuple[float, ...], like: Tensor) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]


def lpips_from(vgg: dict[str, Tensor], lin: dict[str, Tensor]) -> PerceptualDistance:
    """The network with published weights, frozen, in eval mode.

    Args:
        vgg: of torchvision's VGG16 (``features.0.weight`` ...); its classifier is left out.
        lin: of richzhang/PerceptualSimilarity's ``weights/v0.1/vgg.pth``
            (``lin0.model.1.weight`` ...); other parts of a whole saved LPIPS are left out.

    Raises:
        ValueError: a tensor that is missing, left over or of another shape.
    """
    model = PerceptualDistance()
    features = {key: value for key, value in vgg.items() if key.startswith("features.")}
    check_complete("VGG16", [], features, model.vgg.state_dict())
    model.vgg.load_state_dict(features)
    weights = {key: value for key, value in lin.items() if re.match(r"lin\d", key)}
    names = {f"lin{i}.model.1.weight": layer for i, layer in enumerate(model.lin)}
    check_complete(
        "calibration of LPIPS with VGG16", [], weights, {k: v.weight for k, v in names.items()}
    )
    for name, layer in names.items():
        layer.load_state_dict({"weight": weights[name]})
    return model.requires_grad_(False).eval()


def load_lpips(vgg: str | Path | None = None, lin: str | Path | None = None) -> PerceptualDistance:
    """The network with weights from files, on the CPU, frozen, in eval mode.

    Args:
        vgg: torchvision's VGG16: a path or "owner/name:file" on the hub; None for the cache, then
            a copy on the hub.
        lin: the calibration of LPIPS v0.1, likewise.

    Raises:
        FileNotFoundError: a file is nowhere; says where to get it and where to put it.
        ValueError: a damaged file, or one with other weights.
    """
    paths = [find_weights(VGG_FILE, vgg), find_weights(LPIPS_FILE, lin)]
    return lpips_from(*map(read_state_dict, paths))
