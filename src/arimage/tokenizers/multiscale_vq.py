"""Multi-scale residual VQ tokenizer (VAR, arXiv 2404.02905, algorithms 1 and 2).

Token maps from coarse to fine; each codes what the coarser ones left over. The canvas is VAR's
``f_hat``: the sum of all maps, each resized to full resolution and passed through a small
convolution ``phi``. Behaviour: FoundationVision/VAR@78b9539 models/quant.py.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.pretrained import strict
from arimage.shapes import Float, Int
from arimage.slots import square_grids
from arimage.tokenizers.vq import (
    ConvTokenizer,
    Grids,
    VQTokenizerConfig,
    repeated,
    to_map,
    to_rows,
)

# Which phi serves which scale of the published 10-scale schedules. Scales 2 and 7 are exact ties
# of the formula, decided by float64 rounding: FoundationVision/VAR@78b9539 models/quant.py.
PUBLISHED_PHI = {(10, 4): (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)}


def phi_index(num_scales: int, num_phi: int) -> tuple[int, ...]:
    """Index of the phi used at each scale (VAR's partially shared phi), computed in float64."""
    if (num_scales, num_phi) in PUBLISHED_PHI:
        return PUBLISHED_PHI[num_scales, num_phi]
    edge = 1 / 3 / num_phi if num_phi == 4 else 1 / 2 / num_phi
    ticks = np.linspace(edge, 1 - edge, num_phi)  # numpy: models are built on the meta device
    where = [k / max(num_scales - 1, 1) for k in range(num_scales)]
    return tuple(int(np.abs(ticks - w).argmin()) for w in where)


@strict
class MultiScaleVQConfig(VQTokenizerConfig):
    """As VQTokenizerConfig, plus the sides of the token maps and the phi convolutions.

    ``scales`` ends with the side of the latent map; ``phi_ratio`` blends
    (1 - r) h + r conv(h).
    """

    model_type = "arimage_multiscale_vq"
    positive: ClassVar[tuple[str, ...]] = (*VQTokenizerConfig.positive, "num_phi")

    scales: list[int] | tuple[int, ...] = (1, 2, 3, 4)
    num_phi: int = 4
    phi_ratio: float = 0.5

    @property
    def grids(self) -> Grids:
        """As VQTokenizerConfig's, one per scale (``depth`` times)."""
        return repeated(square_grids(self.scales), self.depth)

    def validate_quantizer(self) -> None:
        """None whose choice is learned through its scores: a sum of maps passes on none."""
        if self.quantizer in ("gumbel", "ibq"):
            raise ValueError(
                f"got quantizer {self.quantizer!r}, which learns to choose from its own scores; a "
                "multi-scale tokenizer trains on sums of maps: use another quantizer"
            )

    def validate_scales(self) -> None:
        """Scales grow and end at the latent side."""
        check_scales(self.scales, self.side)


class Phi(nn.Module):
    """Blend of the identity and a 3x3 convolution."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.ratio = ratio

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Same shape out."""
        return x * (1 - self.ratio) + self.conv(x) * self.ratio


class MultiScaleVQTokenizer(ConvTokenizer):
    """One codebook for all scales; ``fuse`` accumulates and up-samples.

    With a depth each scale has as many maps, and "scale" below counts maps; ``phi`` goes by scale.
    """

    config_class = MultiScaleVQConfig
    config: MultiScaleVQConfig
    kernel = 3

    def __init__(self, config: MultiScaleVQConfig) -> None:
        super().__init__(config)
        self.phi = nn.ModuleList(
            Phi(config.code_dim, config.phi_ratio) for _ in range(config.num_phi)
        )
        self.post_init()

    def check_grids(self, grids: Grids) -> None:
        """Raises ValueError unless the maps grow (each ``depth`` times)."""
        check_growing(grids, self.config.downsample_factor, self.config.depth)

    def _set_grids(self, grids: Grids) -> None:
        """The phi of a scale depends on its place among the scales, so another number of scales is
        another model to the decoder."""
        super()._set_grids(grids)
        depth = self.config.depth
        index = phi_index(len(grids) // depth, self.config.num_phi)
        self.phi_of_scale = tuple(phi for phi in index for _ in range(depth))

    def _spread(self, codes: Float[Tensor, "b n c"], scale: int) -> Float[Tensor, "b c h w"]:
        """A scale's codes at full resolution: bicubic, then phi."""
        grids = self.slots.grids
        full = to_map(codes, grids[scale])
        if grids[scale] != grids[-1]:
            full = upsample(full, grids[-1])
        return self.phi[self.phi_of_scale[scale]](full)

    def fuse(
        self,
        canvas: Float[Tensor, "b c h w"],
        scale: int,
        slots: Int[Tensor, "*b n"],
        codes: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b c h w"]:
        """Accumulates a whole token map (``slots`` is all of ``scale``)."""
        return canvas + self._spread(codes, scale)

    def view(self, canvas: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b n c"]:
        """The canvas area-resized to the token map of ``scale``."""
        return to_rows(F.interpolate(canvas, self.slots.grids[scale], mode="area"))


def check_scales(scales: Sequence[int], side: int) -> None:
    """Raises ValueError unless the scales grow and end at the latent side."""
    scales = list(scales)
    if not scales or scales != sorted(set(scales)) or scales[-1] != side or scales[0] < 1:
        raise ValueError(
            f"got scales {scales}; expected growing sides that end with the latent side "
            f"{side} (image_size / downsample_factor)"
        )


def check_growing(grids: Grids, factor: int, depth: int = 1) -> None:
    """Raises ValueError unless the maps grow (each ``depth`` times); ``factor`` pixels a cell."""
    scales = grids[::depth]
    falls = any(b == a or b[0] < a[0] or b[1] < a[1] for a, b in itertools.pairwise(scales))
    if not grids or falls or grids != repeated(scales, depth):
        times = f", each {depth} times" if depth > 1 else ""
        raise ValueError(
            f"got grids {list(grids)}; expected growing (height, width){times}, that end with "
            f"the image size divided by {factor}"
        )


def upsample(x: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Bicubic, as two products with matrices that are made once per size; in float32."""
    rows = bicubic(x.shape[2], size[0], x.device)
    columns = bicubic(x.shape[3], size[1], x.device)
    return (rows @ x.float() @ columns.T).to(x.dtype)


@lru_cache(maxsize=128)
def bicubic(small: int, large: int, device: torch.device) -> Float[Tensor, "large small"]:
    """What ``F.interpolate`` does along one axis: each column is the answer to one unit vector."""
    with torch.inference_mode(False), torch.no_grad():  # made while sampling, used in training
        units = torch.eye(small, device=device)[None, None]
        return F.interpolate(units, (small, large), mode="bicubic")[0, 0].T.contiguous()
