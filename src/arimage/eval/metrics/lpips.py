"""LPIPS v0.1 with VGG16: how different two images look to a network that people calibrated.

Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric";
the network and its conventions are in ``features/vgg.py``. AlexNet's LPIPS, also much quoted, is
another number. The published VQGAN, LlamaGen and VAR tokenizers were trained on this one.
"""

from typing import Any

import numpy as np
import torch

from arimage.eval.features.vgg import PerceptualDistance, load_lpips
from arimage.eval.pairs import PairMetric
from arimage.images import from_pixels
from arimage.shapes import Float, UInt8

PIECE = 16  # pairs at once on an accelerator: about 1 GB at 256 pixels


class LPIPS(PairMetric):
    """``lpips``: mean over images, at least 0; both images are shown as uint8 pixels.

    Args:
        network: from ``load_lpips``, perhaps moved to an accelerator; by default the published one
            on the CPU, about half a second a pair of 256 pixels on two cores.

    Raises:
        FileNotFoundError: no network given and the published weights are nowhere; says where to
            get them.
    """

    name = "lpips"
    higher_is_better = False

    def __init__(self, network: PerceptualDistance | None = None) -> None:
        super().__init__()
        self.network = (load_lpips() if network is None else network).eval()
        self._features = f"vgg16@{self.network.digest()[:8]}"

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to merge and compute: not the network."""
        return {**vars(self), "network": None}

    @property
    def features(self) -> str:
        """VGG16 and the first digits of the hash of all weights."""
        return self._features

    @torch.inference_mode()
    def values(
        self,
        originals: UInt8[np.ndarray, "b h w 3"],
        reconstructions: UInt8[np.ndarray, "b h w 3"],
    ) -> Float[np.ndarray, " b"]:
        """The distance of each pair."""
        weight = self.network.lin[0].weight
        # On a CPU one pair at a time: as fast, and the value does not round by the batch.
        size = 1 if weight.device.type == "cpu" else PIECE
        found = []
        for start in range(0, len(originals), size):
            sides = (originals[start : start + size], reconstructions[start : start + size])
            found.append(self.network(*(from_pixels(side).to(weight) for side in sides)))
        return torch.cat(found).double().cpu().numpy()
