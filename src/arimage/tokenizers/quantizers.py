"""Quantizers behind one contract; from vector-quantize-pytorch, but for the published ones.

Swapping one is a word in a tokenizer's config (``quantizer: "vq_ema"``). The library's different
returns (two or three values), index types and buffers outside the checkpoint end here.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, LFQ, SimVQ, VectorQuantize

from arimage.shapes import Float, Int
from arimage.tokenizers.derived import Derived

logger.disable("vector_quantize_pytorch")  # it reports k-means on stderr

EMA_DECAY = 0.99  # VQ-VAE-2 (arXiv 1906.00446) section 3; the library's own default is 0.8
COMMITMENT = 0.25  # VQ-VAE (arXiv 1711.00937) eq. 3
GUMBEL_KL = 5e-4  # CompVis/taming-transformers@3ba01b2 taming/modules/vqvae/quantize.py
DEAD_CODE_COUNT = 2  # codes used less often than this per batch (moving average) are replaced


class Quantized(NamedTuple):
    """Codes (b, n, c), straight-through while training; ids (b, n) int64; a scalar loss."""

    codes: Tensor
    ids: Tensor
    loss: Tensor


class Quantizer(nn.Module, ABC):
    """Latent vectors <-> ids in [0, vocab_size).

    Args:
        vocab_size: number of codes.
        code_dim: dimension of one code.
        levels: values per dimension, for quantizers on a fixed lattice; None elsewhere.

    Class attribute ``learned``: the codebook gets gradients through ``lookup``, so that a loss on
    what codes add up to is enough to train it.
    """

    learned: ClassVar[bool] = False

    def __init__(self, vocab_size: int, code_dim: int, levels: list[int] | None = None) -> None:
        super().__init__()
        self.vocab_size, self.code_dim, self.levels = vocab_size, code_dim, levels
        self.check()
        with torch.device("cpu"):  # these modules cannot be built on the meta device
            self.inner = self.build()

    def check(self) -> None:
        """Raises ValueError when vocab_size, code_dim and levels do not go together."""
        if self.levels is not None:
            raise ValueError(
                f"{type(self).__name__} takes no levels, got {self.levels}; leave null"
            )

    @abstractmethod
    def build(self) -> nn.Module:
        """A fresh library module."""

    @abstractmethod
    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """Quantizes; in training mode it also updates the codebook or returns its loss."""

    @abstractmethod
    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Codes of ids; exactly the codes that ``forward`` returns in eval mode."""

    @torch.no_grad()
    def rebuild_buffers(self) -> None:
        """Refills buffers that are not in the checkpoint, which loading leaves as garbage."""
        saved = self.inner.state_dict()
        with torch.device("cpu"):
            fresh = dict(self.build().named_buffers())
        for name, buffer in self.inner.named_buffers():
            if name not in saved:
                buffer.copy_(fresh[name])


class EMAQuantizer(Quantizer):
    """Nearest code in Euclidean distance, codebook by moving averages (arXiv 1711.00937)."""

    cosine = False

    def build(self) -> nn.Module:
        """``VectorQuantize`` with replacement of dead codes; the first training batch starts it.

        Until then the codes are as small as taming's (uniform in +-1 / vocab_size), not zero.
        """
        inner = VectorQuantize(
            dim=self.code_dim,
            codebook_size=self.vocab_size,
            decay=EMA_DECAY,
            kmeans_init=True,
            threshold_ema_dead_code=DEAD_CODE_COUNT,
            commitment_weight=COMMITMENT,
            use_cosine_sim=self.cosine,
            rotation_trick=False,
            sync_codebook=torch.distributed.is_available() and torch.distributed.is_initialized(),
        )
        codes = torch.empty(self.vocab_size, self.code_dim).uniform_(-1, 1) / self.vocab_size
        inner.codebook = F.normalize(codes, dim=-1) if self.cosine else codes
        return inner

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; the loss is the commitment term."""
        if not self.training:  # the library starts its k-means on any first batch, in eval too
            ids = self.nearest(latents)
            return Quantized(self.lookup(ids), ids, latents.new_zeros(()))
        codes, ids, loss = self.inner(latents)
        return Quantized(codes, ids.long(), loss.sum())

    def nearest(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """Ids of the nearest codes, in float32."""
        codes = self.inner.codebook.float()
        if self.cosine:
            return (latents.float() @ codes.T).argmax(-1)
        return nearest_code(latents, codes)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Rows of the codebook."""
        return self.inner.get_codes_from_indices(ids)


class CosineQuantizer(EMAQuantizer):
    """Nearest code in angle; codes have unit length (ViT-VQGAN, arXiv 2110.04627)."""

    cosine = True


class LearnedQuantizer(Quantizer):
    """Nearest code in Euclidean distance, codebook by gradient (arXiv 1711.00937 eq. 3).

    The published tokenizers of VAR, taming's VQGAN and MaskGIT. Own code: the library only learns a
    codebook that it also normalises or transforms. Codes start as FoundationVision/VAR@78b9539
    models/quant.py leaves them, as an ``nn.Embedding`` starts.
    """

    learned = True

    def build(self) -> nn.Module:
        """One vector per code, standard normal."""
        return nn.Embedding(self.vocab_size, self.code_dim)

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; the loss has the codebook and commitment terms."""
        ids = self.nearest(latents)
        codes = self.lookup(ids)
        commitment = F.mse_loss(latents, codes.detach())
        loss = F.mse_loss(codes, latents.detach()) + COMMITMENT * commitment
        if self.training:
            codes = latents + (codes - latents).detach()
        return Quantized(codes, ids, loss)

    def nearest(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """Ids of the nearest codes, in float32."""
        return nearest_code(latents, self.inner.weight)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Rows of the codebook."""
        return self.inner(ids)


class LearnedCosineQuantizer(LearnedQuantizer):
    """Nearest code in angle, codebook by gradient and normalised where it is read.

    LlamaGen's: FoundationVision/LlamaGen@ce98ec4 tokenizer/tokenizer_image/vq_model.py with
    ``codebook_l2_norm``. Rows of the file have any length; the codes of this quantizer have 1.
    """

    def __init__(self, vocab_size: int, code_dim: int, levels: list[int] | None = None) -> None:
        super().__init__(vocab_size, code_dim, levels)
        self.unit_codes = Derived()

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; latents are compared, in the loss too, after they are normalised."""
        return super().forward(F.normalize(latents, dim=-1))

    @torch.no_grad()
    def nearest(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """Ids of the codes with the smallest angle, in float32."""
        codes = self.unit_codes.get(lambda: unit_rows(self.inner.weight), self.inner.weight)
        return (latents.float() @ codes.T.float()).argmax(-1)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Normalised rows of the codebook."""
        weight = self.inner.weight
        if torch.is_grad_enabled():
            return unit_rows(self.inner(ids)).to(weight.dtype)
        return self.unit_codes.get(lambda: unit_rows(weight), weight)[ids].to(weight.dtype)


class GumbelQuantizer(Quantizer):
    """A code drawn from a learned distribution (arXiv 1611.01144), its mode in eval mode.

    taming's f8 tokenizer: CompVis/taming-transformers@3ba01b2 taming/modules/vqvae/quantize.py,
    which draws when it encodes, too. Codes and latents live in different spaces: the code of an id
    need not be quantized to that id.
    """

    learned = True

    def build(self) -> nn.Module:
        """A score per code, linear in the latent; one vector per code."""
        return nn.ModuleDict(
            {
                "projection": nn.Linear(self.code_dim, self.vocab_size),
                "embedding": nn.Embedding(self.vocab_size, self.code_dim),
            }
        )

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; the loss is the divergence from equally frequent codes."""
        projection = self.inner["projection"]
        logits = F.linear(latents.float(), projection.weight.float(), projection.bias.float())
        log_p = logits.log_softmax(-1)
        divergence = (log_p.exp() * (log_p + math.log(self.vocab_size))).sum(-1).mean()
        if not self.training:
            ids = logits.argmax(-1)
            return Quantized(self.lookup(ids), ids, GUMBEL_KL * divergence)
        drawn = F.gumbel_softmax(logits, hard=True)
        codes = drawn.to(latents.dtype) @ self.inner["embedding"].weight
        return Quantized(codes, drawn.argmax(-1), GUMBEL_KL * divergence)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Rows of the codebook."""
        return self.inner["embedding"](ids)


def unit_rows(codes: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
    """Rows of length 1, in float32 at least."""
    return F.normalize(codes.to(torch.promote_types(codes.dtype, torch.float32)), dim=-1)


@torch.no_grad()
def nearest_code(
    latents: Float[Tensor, "b n c"], codebook: Float[Tensor, "v c"]
) -> Int[Tensor, "b n"]:
    """Ids of the nearest rows of the codebook in Euclidean distance, in float32."""
    codes = codebook.float()
    return (2 * (latents.float() @ codes.T) - codes.square().sum(-1)).argmax(-1)


class SimQuantizer(Quantizer):
    """A frozen random codebook behind one learned linear map (SimVQ, arXiv 2411.02038)."""

    def build(self) -> nn.Module:
        """``SimVQ`` with plain straight-through gradients."""
        return SimVQ(self.code_dim, self.vocab_size, rotation_trick=False)

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; the loss has the codebook and commitment terms."""
        codes, ids, loss = self.inner(latents)
        return Quantized(codes if self.training else self.lookup(ids), ids.long(), loss)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Rows of the mapped codebook; mapped as a whole, so that each row always rounds alike."""
        return self.inner.codebook[ids]


class LookupFreeQuantizer(Quantizer):
    """Signs of the latents (LFQ, MAGVIT-v2, arXiv 2310.05737): 2 ** code_dim codes."""

    def check(self) -> None:
        """vocab_size must be 2 ** code_dim."""
        super().check()
        if self.vocab_size != 2**self.code_dim:
            raise ValueError(
                f"lfq has 2 ** code_dim codes: got vocab_size {self.vocab_size} with code_dim "
                f"{self.code_dim}; set code_dim to log2(vocab_size)"
            )

    def build(self) -> nn.Module:
        """``LFQ`` with its entropy loss and a commitment loss."""
        return LFQ(
            dim=self.code_dim, codebook_size=self.vocab_size, commitment_loss_weight=COMMITMENT
        )

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; the loss is entropy and commitment."""
        codes, ids, loss = self.inner(latents)
        return Quantized(codes, ids.long(), loss)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Rows of +1 and -1."""
        return self.inner.indices_to_codes(ids)


class FiniteScalarQuantizer(Quantizer):
    """Rounding to a few levels per dimension (FSQ, arXiv 2309.15505): prod(levels) codes."""

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
        return Quantized(codes, ids.long(), latents.new_zeros(()))

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Lattice points."""
        return self.inner.indices_to_codes(ids)
