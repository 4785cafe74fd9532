"""A small digit classifier: the demo's Inception. Its features are compared, its classes counted.

Our own network, trained by ``arimage.training.classifier`` on the demo's training digits. FID with
these features ranks models of the demo among themselves; it is no literature number.
"""

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from arimage.eval.base import FeatureBatch
from arimage.eval.features.pixels import grey_thumbnails
from arimage.files import new_file
from arimage.shapes import Float, Int, UInt8

SIDE = 32
FEATURES = 64
NUM_CLASSES = 10
PRESET = "presets/digits-classifier.safetensors"


def _block(channels: int, width: int) -> nn.Sequential:
    """Convolution, norm, ReLU, and half the size."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class DigitClassifier(nn.Module):
    """Grey 32 x 32 images in [0, 1] to 10 logits; about 60,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(1, 16),
            _block(16, 32),
            _block(32, FEATURES),
            nn.Conv2d(FEATURES, FEATURES, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(FEATURES, NUM_CLASSES)

    def features(self, grey: Float[Tensor, "b 1 32 32"]) -> Float[Tensor, "b 64"]:
        """What the last layer sees, at least 0."""
        return self.body(grey)

    def forward(self, grey: Float[Tensor, "b 1 32 32"]) -> Float[Tensor, "b 10"]:
        """Class logits."""
        return self.head(self.features(grey))

    def save(self, path: str | Path) -> Path:
        """Writes the weights as safetensors, through a temporary file."""
        with new_file(path) as temporary:
            save_file(self.state_dict(), temporary, metadata={"format": "pt"})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "DigitClassifier":
        """Reads weights that ``save`` wrote; the model is in evaluation mode.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a truncated file, or weights of another network.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no digit classifier at {path}; train one with "
                "arimage.training.classifier.train_classifier and save it there"
            )
        try:
            weights = load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} cannot be read ({error}): the file is truncated or not safetensors; "
                "download or save it again"
            ) from error
        with torch.device("cpu"):  # small: it runs there whatever torch's default device is
            model = cls()
        problem = _difference(model.state_dict(), weights)
        if problem:
            raise ValueError(
                f"{path} is not a digit classifier: {problem}; give a file made by save"
            )
        model.load_state_dict(weights, strict=True)
        return model.eval()

    def digest(self) -> str:
        """Sha256 of the weights: the same for the same numbers, whatever file they came from."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            total.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
        return total.hexdigest()


def _difference(expected: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    """The first way in which ``given`` does not fit, "" if it does."""
    for name in sorted(expected.keys() ^ given.keys()):
        return f"tensor {name!r} is {'missing' if name in expected else 'not part of it'}"
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            return (
                f"tensor {name!r} has shape {tuple(given[name].shape)}, "
                f"expected {tuple(tensor.shape)}"
            )
    return ""


class DigitFeatures:
    """``digits``: 64 features and 10 class probabilities per image of any size.

    ``name`` carries the first eight digits of the weights' hash, so scores of two classifiers are
    not mistaken for comparable. ``classifier`` is a model or a file; by default the one that
    ships with the package.
    """

    def __init__(self, classifier: DigitClassifier | str | Path | None = None) -> None:
        if classifier is None:
            classifier = Path(str(files("arimage") / PRESET))
        if not isinstance(classifier, DigitClassifier):
            classifier = DigitClassifier.load(classifier)
        self.classifier = classifier.eval()
        self.name = f"digits@{classifier.digest()[:8]}"

    @torch.inference_mode()
    def __call__(
        self, pixels: UInt8[np.ndarray, "b h w 3"], labels: Int[np.ndarray, " b"] | None = None
    ) -> FeatureBatch:
        """Features (b, 64) and probabilities (b, 10), float32."""
        features = self.classifier.features(grey_thumbnails(pixels, SIDE))
        probabilities = self.classifier.head(features).softmax(dim=1)
        return FeatureBatch(
            extractor=self.name,
            features=features.numpy(),
            probabilities=probabilities.numpy(),
            labels=labels,
        )
