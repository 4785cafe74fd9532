"""Quantizers on a fixed lattice, from vector-quantize-pytorch: nothing to start or to update."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, LFQ

from arimage.shapes import Float, Int
from arimage.tokenizers.entropy import ENTROPY_WEIGHT, TEMPERATURE, bit_entropy_loss
from arimage.tokenizers.quantizers import Quantized, Quantizer


class LatticeQuantizer(Quantizer):
    """Codes that nothing changes."""

    def choose(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """As the contract."""
        return self.inner(latents)[1].long()

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Lattice points."""
        return self.inner.indices_to_codes(ids)


class LookupFreeQuantizer(LatticeQuantizer):
    """Signs of the latents (LFQ, MAGVIT-v2, arXiv 2310.05737): 2 ** code_dim codes.

    The library's lattice alone: its entropy is that of one process (and half of it in two).
    """

    entropy_weight = ENTROPY_WEIGHT
    spherical = False

    def check(self) -> None:
        """vocab_size must be 2 ** code_dim."""
        super().check()
        if self.vocab_size != 2**self.code_dim:
            raise ValueError(
                f"a quantizer of signs has 2 ** code_dim codes: got vocab_size {self.vocab_size} "
                f"with code_dim {self.code_dim}; set code_dim to log2(vocab_size)"
            )

    def build(self) -> nn.Module:
        """``LFQ``, always in eval mode, where it has no loss."""
        return LFQ(
            dim=self.code_dim, codebook_size=self.vocab_size, spherical=self.spherical
        ).eval()

    def train(self, mode: bool = True) -> "LookupFreeQuantizer":
        """As every module's; not the library's."""
        super().train(mode)
        self.inner.eval()
        return self

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; the loss is entropy and commitment."""
        codes, ids, none = self.inner(latents)
        if not self.training:
            return Quantized(codes, ids.long(), none)
        points = self.points(latents)
        loss = self.commitment * F.mse_loss(points, codes.detach()) + self.regularization(latents)
        return Quantized(self.through(points, codes.detach()), ids.long(), loss)

    def entropy(self, latents: Float[Tensor, "b n c"]) -> Float[Tensor, ""]:
        """As the contract, bit by bit: |x + a|^2 - |x - a|^2 = 4 a x where bits are +a and -a."""
        size = self.code_dim**-0.5 if self.spherical else 1.0
        return bit_entropy_loss(4 * size / TEMPERATURE * self.points(latents).float())


class SphericalQuantizer(LookupFreeQuantizer):
    """Signs of normalised latents; codes have unit length (BSQ, arXiv 2406.07548)."""

    spherical = True

    def points(self, latents: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """As the contract; on the unit sphere."""
        return F.normalize(latents, dim=-1)


class FiniteScalarQuantizer(LatticeQuantizer):
    """Rounding to a few levels per dimension (FSQ, arXiv 2309.15505): prod(levels) codes.

    Without commitment, which would draw small latents to zero, where one code is.
    """

    commitment = 0.0

    def check(self) -> None:
        """levels must have code_dim entries whose product is vocab_size."""
        levels = self.levels or []
        if len(levels) != self.code_dim or math.prod(levels) != self.vocab_size:
            raise ValueError(
                f"fsq needs code_dim levels whose product is vocab_size: got levels {self.levels}, "
                f"code_dim {self.code_dim}, vocab_size {self.vocab_size}"
            )

    def build(self) -> nn.Module:
        """``FSQ`` without projections."""
        return FSQ(levels=list(self.levels or []), dim=self.code_dim)

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; there is nothing to learn, so the loss is zero."""
        codes, ids = self.inner(latents)
        return Quantized(codes, ids.long(), self.regularization(latents))

    def points(self, latents: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """As the contract: squashed, not rounded (arXiv 2309.15505, appendix A.1)."""
        levels = self.inner._levels
        half = (levels - 1) * (1 + 1e-3) / 2  # the library's margin
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        return ((latents + (offset / half).atanh()).tanh() * half - offset) / (levels // 2)
