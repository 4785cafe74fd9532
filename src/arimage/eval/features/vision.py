"""``dinov2`` and ``clip``: the features of FD-DINOv2 and of CMMD, by transformers' own models.

Source: Stein et al. 2023, "Exposing flaws of generative model evaluation metrics" (FD-DINOv2), as
NVlabs/edm2@4bf8162 calculate_metrics.py computes it; Jayasumana et al. 2024, "Rethinking FID"
(CMMD), as sayakpaul/cmmd-pytorch@f7673a9 does.
"""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from arimage.eval.base import FeatureBatch
from arimage.eval.features.exact import exact_float32
from arimage.images import to_pil
from arimage.pretrained import chosen_device, quiet_transformers
from arimage.registry import unknown_name
from arimage.shapes import Float, Int, UInt8

BATCH = 32  # images in the model at a time, whatever the caller passes
DINOV2_SIDE = 224
# Of ImageNet's pixels in [0, 1]; NVlabs/edm2@4bf8162 calculate_metrics.py
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of CLIP's training pixels in [0, 1]; openai/CLIP@a1d0717 clip/clip.py
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Added to the side of the wanted grid; facebookresearch/dinov2@e1277af hub/backbones.py
HUB_OFFSET = 0.1


class VisionFeatures(ABC):
    """A model of transformers as an extractor; a subclass says which, and how pixels go in.

    Args:
        model: a folder with config.json and weights, or a hub id.
        device: where the model runs (None: torch's default device), in float32 without TF32.

    Raises:
        FileNotFoundError: no such model here and no network.
        ValueError: weights of another kind of model.
    """

    def __init__(self, model: str | Path, device: torch.device | str | None) -> None:
        self.device = chosen_device(device)
        caller = type(self).__name__
        word = caller.removesuffix("Features").lower()
        self.model = load_model(
            self.model_class(),
            str(model),
            need=f"the features of {caller} need",
            instead=f"pass it as {caller}(model=FOLDER), or --features {word}=FOLDER",
        )
        self.digest = _digest(self.model)
        self.model.to(self.device)
        self.name = ""

    @abstractmethod
    def model_class(self) -> Any:
        """The class of transformers."""

    @abstractmethod
    def prepare(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 side side"]:
        """What the model is given, on its device."""

    @abstractmethod
    def embed(self, images: Float[Tensor, "b 3 side side"]) -> Float[Tensor, "b d"]:
        """One row per image."""

    def __call__(
        self, pixels: UInt8[np.ndarray, "b h w 3"], labels: Int[np.ndarray, " b"] | None = None
    ) -> FeatureBatch:
        """Features (b, d), float32."""
        with exact_float32(self.device):
            rows = [
                self.embed(self.prepare(np.array(part))).cpu()
                for part in np.split(pixels, range(BATCH, len(pixels), BATCH))
            ]
        return FeatureBatch(extractor=self.name, features=torch.cat(rows).numpy(), labels=labels)


class DINOv2Features(VisionFeatures):
    """``dinov2``: the class token after the last norm, of images of 224 px.

    The whole image is resized (bicubic, antialiased, in float). The model was trained on another
    size, so its position embeddings are interpolated, and by which rule shows in the features:

        hub  torch.hub's: a scale factor of (16 + 0.1) / 37, which the published statistics of EDM2
             and dgm-eval rest on
        hf   transformers' own: to a grid of 16 x 16

    Args:
        model: a folder or hub id of a ``Dinov2Model``.
        device: where it runs, by default torch's default device.
        positions: "hub" or "hf".
    """

    def __init__(
        self,
        model: str | Path = "facebook/dinov2-large",
        *,
        device: torch.device | str | None = None,
        positions: str = "hub",
    ) -> None:
        if positions not in ("hub", "hf"):
            raise ValueError(unknown_name("rule for positions", positions, ("hub", "hf")))
        super().__init__(model, device)
        if positions == "hub":
            embeddings = self.model.embeddings
            grid = DINOV2_SIDE // self.model.config.patch_size
            table = hub_positions(embeddings.position_embeddings.detach(), grid)
            # Of the right size already, so the model does not interpolate it again.
            embeddings.position_embeddings = nn.Parameter(table, requires_grad=False)
        self.name = f"dinov2@{self.digest[:8]}/bicubic-aa-{DINOV2_SIDE}/positions-{positions}"

    def model_class(self) -> Any:
        """``Dinov2Model``."""
        from transformers import Dinov2Model

        return Dinov2Model

    def prepare(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 side side"]:
        """Resized to 224 px, then normalised by ImageNet's mean and deviation."""
        levels = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float()
        side = (DINOV2_SIDE, DINOV2_SIDE)
        resized = functional.interpolate(levels, side, mode="bicubic", antialias=True)
        return _normalised(resized, IMAGENET_MEAN, IMAGENET_STD)

    def embed(self, images: Float[Tensor, "b 3 side side"]) -> Float[Tensor, "b d"]:
        """The class token."""
        return self.model(pixel_values=images).last_hidden_state[:, 0]


class CLIPFeatures(VisionFeatures):
    """``clip``: projected image embeddings of length 1, as CMMD compares them.

    The centred square is resized by PIL (bicubic, antialiased, to uint8) to the model's size.

    Args:
        model: a folder or hub id of a CLIP model; its text half is not read.
        device: where it runs, by default torch's default device.
    """

    def __init__(
        self,
        model: str | Path = "openai/clip-vit-large-patch14-336",
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(model, device)
        self.side = self.model.config.image_size
        self.name = f"clip@{self.digest[:8]}/center-pil-bicubic-{self.side}/l2"

    def model_class(self) -> Any:
        """``CLIPVisionModelWithProjection``."""
        from transformers import CLIPVisionModelWithProjection

        return CLIPVisionModelWithProjection

    def prepare(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 side side"]:
        """Cut, resized, then normalised by CLIP's mean and deviation."""
        squares = np.stack([np.asarray(_clip_square(i, self.side)) for i in to_pil(pixels)])
        levels = torch.from_numpy(squares).to(self.device).permute(0, 3, 1, 2).float()
        return _normalised(levels, CLIP_MEAN, CLIP_STD)

    def embed(self, images: Float[Tensor, "b 3 side side"]) -> Float[Tensor, "b d"]:
        """The projection, at length 1."""
        return functional.normalize(self.model(pixel_values=images).image_embeds, dim=1)


def hub_positions(table: Float[Tensor, "1 n d"], grid: int) -> Float[Tensor, "1 m d"]:
    """A table of class and patch positions for ``grid`` x ``grid`` patches, by torch.hub's rule.

    Bicubic with the scale factor (grid + 0.1) / side and no antialiasing, which is not the
    interpolation to grid x grid: samples lie closer together. Unchanged if the grid is its own.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if side == grid:
        return table
    patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (grid + HUB_OFFSET) / side
    patches = functional.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def _clip_square(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cut = image.crop((left, top, left + side, top + side))
    return cut.resize((size, size), Image.Resampling.BICUBIC)


def _normalised(levels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Levels 0..255 (b, 3, h, w) to the units of a model."""
    centre, spread = (levels.new_tensor(three).view(3, 1, 1) for three in (mean, std))
    return (levels / 255 - centre) / spread


def load_model(
    model_class: Any,
    source: str,
    *,
    need: str,
    instead: str,
    unread: tuple[str, ...] = (),
) -> Any:
    """A frozen float32 model of transformers in evaluation mode, with all of its weights.

    Args:
        model_class: of transformers.
        source: a folder with config.json and weights, or a hub id.
        need: for sentences, what needs it: "the features of ... need".
        instead: for sentences, what else to do than to have that repository.
        unread: beginnings of names of tensors that nobody reads, which may be missing.

    Raises:
        FileNotFoundError: no such model here and no network.
        ValueError: weights of another kind of model.
    """
    try:
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                source,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below
            )
    except (OSError, ValueError, KeyError) as error:
        raise FileNotFoundError(
            f"cannot load {source} ({type(error).__name__}), which {need}: it is no folder with a "
            "model and neither the cache nor the hub gave it; download config.json and the weights "
            f"(model.safetensors) of that repository into one folder and {instead}"
        ) from error
    absent = sorted(info["missing_keys"]) or sorted(key for key, *_ in info["mismatched_keys"])
    absent = [key for key in absent if not key.startswith(unread)]
    if absent:
        raise ValueError(
            f"{source} is not a whole {model_class.__name__}: {len(absent)} of its tensors are "
            f"missing or of another shape ({', '.join(absent[:3])}); give another model"
        )
    return model.eval().requires_grad_(False)


def _digest(model: nn.Module) -> str:
    """Sha256 of the weights: the same for the same numbers, whatever file they came from.

    Names are left out, because releases of transformers call the same tensors differently.
    """
    tensors = (tensor.contiguous().numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(t).digest() for t in tensors))).hexdigest()
