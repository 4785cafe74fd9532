"""``inception``: the features of FID, sFID and the Inception Score, from the weights of 2015.

Front ends, in full: what happens to uint8 pixels before the first convolution.

    tf1          resize to 299 as TensorFlow 1 does, then (v - 128) / 128: the ADM evaluator's, on
                 which the literature's numbers rest, and torch-fidelity's
    pytorch-fid  v / 255, resize to 299 with half-pixel centres, then 2 x - 1: pytorch-fid's

Source: openai/guided-diffusion@22e0df8 evaluations/evaluator.py, toshas/torch-fidelity@5e211a9,
mseitzer/pytorch-fid@b9c1811 (behaviour; the graph is the same in all three).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from arimage.checkpoint import check_complete
from arimage.eval.base import FeatureBatch
from arimage.eval.features.exact import exact_float32
from arimage.eval.features.inception_layers import CLASSES, InceptionV3, Taps
from arimage.eval.features.weights import PublishedWeights, find_weights, read_state_dict
from arimage.hub import file_sha256
from arimage.pretrained import chosen_device
from arimage.registry import unknown_name
from arimage.shapes import Float, Int, UInt8

SIDE = 299
CPU_BATCH = 4  # images in a thread: as fast as more of them, in less memory

WEIGHTS = PublishedWeights(
    name="the FID Inception network",
    files=(
        "weights-inception-2015-12-05-6726825d.pth",
        "pt_inception-2015-12-05-6726825d.pth",
    ),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    hub=(
        "toshas/torch-fidelity:weights-inception-2015-12-05-6726825d.pth",
        "nateraw/inception-v3-fid:pt_inception-2015-12-05-6726825d.pth",
    ),
    where=(
        "one file under two names: release v0.2.0 of toshas/torch-fidelity, release fid_weights "
        "of mseitzer/pytorch-fid"
    ),
    what_for="FID, sFID and the Inception Score",
    argument="InceptionFeatures(weights=...) or --features inception=PATH",
)


class InceptionFeatures:
    """``inception``: 2,048 features, 2,023 spatial ones and 1,008 probabilities per image.

    Args:
        weights: a file (.pth or .safetensors), or "owner/name:file" on the hub; by default the
            published file, from the cache or the hub.
        device: where the network runs, by default torch's default device; arithmetic is float32
            everywhere, without TF32.
        front_end: "tf1" or "pytorch-fid", see above.

    Raises:
        FileNotFoundError: no weights; the sentence says where they are published.
        ValueError: weights of another network, a damaged file, an unknown front end.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        device: torch.device | str | None = None,
        front_end: str = "tf1",
    ) -> None:
        if front_end not in FRONT_ENDS:
            raise ValueError(unknown_name("front end", front_end, FRONT_ENDS))
        self.device = chosen_device(device)
        path = find_weights(WEIGHTS, weights)
        self.network = load_inception(path).fold().to(self.device)
        self.name = f"inception@{file_sha256(path)[:8]}/{front_end}-bilinear-{SIDE}"
        self._prepare = FRONT_ENDS[front_end]
        self._classes = self.network.fc.weight.detach().double().cpu().T

    def __call__(
        self, pixels: UInt8[np.ndarray, "b h w 3"], labels: Int[np.ndarray, " b"] | None = None
    ) -> FeatureBatch:
        """Features (b, 2048), spatial (b, 2023), probabilities (b, 1008), float32.

        Probabilities are the softmax of the logits without bias, in float64 before it is rounded.
        """
        with exact_float32(self.device):
            taps = self._by_threads(pixels) if self.device.type == "cpu" else [self._taps(pixels)]
            pool, spatial = (torch.cat(parts).cpu() for parts in zip(*taps, strict=True))
            probabilities = (pool.double() @ self._classes).softmax(dim=1).float()
        return FeatureBatch(
            extractor=self.name,
            features=pool.numpy(),
            spatial=spatial.numpy(),
            probabilities=probabilities.numpy(),
            labels=labels,
        )

    def _by_threads(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Taps]:
        """As many single threads as torch has, each with images of its own.

        They never wait for each other, as threads that share a layer do after each layer: that
        costs half the speed when another program wants a core.
        """
        threads = torch.get_num_threads()
        parts = np.split(pixels, range(CPU_BATCH, len(pixels), CPU_BATCH))
        with ThreadPoolExecutor(threads, None, torch.set_num_threads, (1,)) as pool:
            taps = list(pool.map(self._taps, parts))
        torch.set_num_threads(threads)  # threads to come start with the number set last
        return taps

    @torch.inference_mode()
    def _taps(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Taps:
        return self.network(self._prepare(torch.from_numpy(np.array(pixels)).to(self.device)))


def load_inception(path: Path) -> InceptionV3:
    """The network with the weights of a file, in evaluation mode, norms not yet folded.

    ``num_batches_tracked`` may be absent, as it is in the published file.

    Raises:
        ValueError: weights of another network, torchvision's Inception among them.
    """
    state = read_state_dict(path)
    classes = state["fc.weight"].shape[:1] if "fc.weight" in state else (CLASSES,)
    if any(key.startswith("AuxLogits.") for key in state) or tuple(classes) != (CLASSES,):
        raise ValueError(
            f"{path} holds torchvision's ImageNet classifier, which is another network than that "
            f"of FID and gives numbers of its own; give {' or '.join(WEIGHTS.files)}"
        )
    with torch.device("meta"):
        network = InceptionV3()
    counted = {key for key in network.state_dict() if key.endswith(".num_batches_tracked")}
    weights = {key: value.float() for key, value in state.items() if key not in counted}
    expected = {key: v for key, v in network.state_dict().items() if key not in counted}
    check_complete(f"network of FID in {path}", [], weights, expected)
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def tf1_resize(
    pixels: UInt8[Tensor, "b h w c"], size: tuple[int, int]
) -> Float[Tensor, "b height width c"]:
    """Bilinear resize to (height, width) as TensorFlow 1 computes it, bit by bit on a CPU, 0..255.

    Output i reads position i * in / out: pixels have no half-pixel centres and a smaller image is
    not antialiased. Source: tensorflow/tensorflow@6795a8c core/kernels/resize_bilinear_op.cc.
    """
    levels = pixels.float()
    low, high, part = _neighbours(pixels.shape[2], size[1], pixels.device)
    left, right = levels[:, :, low], levels[:, :, high]
    levels = left + (right - left) * part[:, None]
    low, high, part = _neighbours(pixels.shape[1], size[0], pixels.device)
    top, bottom = levels[:, low], levels[:, high]
    return top + (bottom - top) * part[:, None, None]


def _neighbours(
    inputs: int, outputs: int, device: torch.device
) -> tuple[Int[Tensor, " o"], Int[Tensor, " o"], Float[Tensor, " o"]]:
    """Per output the pixel at or before its position, the next one, and how far it is between."""
    scale = torch.tensor(inputs, dtype=torch.float32, device=device) / outputs
    position = torch.arange(outputs, dtype=torch.float32, device=device) * scale
    low = position.long()
    return low, (low + 1).clamp_max(inputs - 1), position - low


def _tf1(pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 299 299"]:
    images = tf1_resize(pixels, (SIDE, SIDE)).sub_(128).div_(128)
    return images.permute(0, 3, 1, 2)  # channels last in memory, as the folded network likes it


def _pytorch_fid(pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 299 299"]:
    images = pixels.permute(0, 3, 1, 2).float().div_(255)
    resized = functional.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return resized.mul_(2).sub_(1)


FRONT_ENDS: dict[str, Callable[[Tensor], Tensor]] = {"tf1": _tf1, "pytorch-fid": _pytorch_fid}
