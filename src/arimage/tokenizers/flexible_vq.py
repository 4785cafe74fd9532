"""Multi-scale VQ tokenizer without residuals (FlexVAR, arXiv 2502.20313).

Each token map codes the whole image at its size, so that the last one alone is decoded, and token
maps of any sizes will do. The canvas is the last map that was chosen, resized to full resolution:
replace-and-resize. Behaviour: jiaosiyu1999/FlexVAR@04462cb models/vq_llama.py, whose networks and
codebook are LlamaGen's.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from arimage.pretrained import strict
from arimage.shapes import Float, Int
from arimage.slots import square_grids
from arimage.tokenizers.base import Encoding
from arimage.tokenizers.multiscale_vq import check_growing, check_scales, upsample
from arimage.tokenizers.vq import ConvTokenizer, Grids, VQTokenizerConfig, to_map, to_rows


@strict
class FlexibleVQConfig(VQTokenizerConfig):
    """As VQTokenizerConfig, plus the sides of the token maps, the last of which is decoded."""

    model_type = "arimage_flexible_vq"

    scales: list[int] | tuple[int, ...] = (1, 2, 3, 4)

    @property
    def grids(self) -> Grids:
        """As VQTokenizerConfig's, one per scale."""
        return square_grids(self.scales)

    def validate_quantizer(self) -> None:
        """One that codes a cell by one token."""
        if self.quantizer == "residual_vq":
            raise ValueError(
                "got quantizer 'residual_vq', which codes what is left over; the maps of this "
                "tokenizer are no residuals: use another quantizer"
            )

    def validate_scales(self) -> None:
        """Scales grow and end at the latent side."""
        check_scales(self.scales, self.side)


class FlexibleVQTokenizer(ConvTokenizer):
    """One codebook for all scales; ``fuse`` replaces and up-samples."""

    config_class = FlexibleVQConfig
    config: FlexibleVQConfig
    replaces: ClassVar[bool] = True

    def check_grids(self, grids: Grids) -> None:
        """Raises ValueError unless the maps grow."""
        check_growing(grids, self.config.downsample_factor)

    def _quantize(self, latents: Float[Tensor, "b c h w"]) -> Encoding:
        """Every cell of every map on its own; the codes are those of the last map."""
        maps = self.slots.num_scales
        rows = torch.cat([self.view(latents, scale) for scale in range(maps)], dim=1)
        codes, ids, loss = self.quantizer(rows)
        last = to_map(codes[:, slice(*self.slots.span(maps - 1))], latents.shape[-2:])
        return Encoding(last, ids, loss, rows.detach())

    def canvas_of(self, ids: Int[Tensor, "b slots"]) -> Float[Tensor, "b c h w"]:
        """The codes of the last map.

        Raises:
            ValueError: ids of another length or out of range.
        """
        self.check_ids(ids)
        last = slice(*self.slots.span(self.slots.num_scales - 1))
        return to_map(self.lookup(ids[:, last]), self.slots.grids[-1])

    def fuse(
        self,
        canvas: Float[Tensor, "b c h w"],
        scale: int,
        slots: Int[Tensor, "*b n"],
        codes: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b c h w"]:
        """A whole token map (``slots`` is all of ``scale``) in place of the canvas, bicubic."""
        grids = self.slots.grids
        small = to_map(codes, grids[scale])
        return small if grids[scale] == grids[-1] else upsample(small, grids[-1])

    def view(self, canvas: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b n c"]:
        """The canvas area-resized to the token map of ``scale``."""
        return to_rows(F.interpolate(canvas, self.slots.grids[scale], mode="area"))
