"""Quantizers whose codebook follows its latents by moving averages (arXiv 1711.00937, appendix A).

The codebook is that of vector-quantize-pytorch's ``VectorQuantize``: its buffers, its k-means, its
averages, its replacement of dead codes. Not its ``forward``, which updates the codebook on each
call and holds a row of vocab_size numbers per token.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, distributed, nn
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from arimage.shapes import Float, Int
from arimage.tokenizers.quantizers import (
    COMMITMENT,
    EMA_DECAY,
    Quantized,
    RevivedQuantizer,
    nearest_code,
)

logger.disable("vector_quantize_pytorch")  # it reports k-means on stderr

KMEANS = 2**26  # distances that k-means may hold at once: 256 MB; it takes a sample of more rows


class EMAQuantizer(RevivedQuantizer):
    """Nearest code in Euclidean distance."""

    cosine = False

    def build(self) -> nn.Module:
        """``VectorQuantize``, to be started by k-means.

        Until then the codes are as small as taming's (uniform in +-1 / vocab_size), not zero.
        """
        inner = VectorQuantize(
            dim=self.code_dim,
            codebook_size=self.vocab_size,
            decay=EMA_DECAY,
            kmeans_init=True,
            commitment_weight=COMMITMENT,
            use_cosine_sim=self.cosine,
            rotation_trick=False,
            sync_codebook=False,  # rows come from all processes
        )
        codes = torch.empty(self.vocab_size, self.code_dim).uniform_(-1, 1) / self.vocab_size
        inner.codebook = F.normalize(codes, dim=-1) if self.cosine else codes
        return inner

    @property
    def book(self) -> Any:
        """The library's codebook."""
        return self.inner._codebook

    def points(self, latents: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """As the contract; on the unit sphere for angles."""
        return self.book.transform_input(latents)

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; the loss is the commitment term."""
        ids = self.nearest(latents)
        codes = self.lookup(ids)
        if not self.training:
            return Quantized(codes, ids, latents.new_zeros(()))
        points = self.points(latents)
        loss = self.commitment * F.mse_loss(points, codes) + self.regularization(latents)
        return Quantized(self.through(points, codes), ids, loss)

    def choose(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """As the contract, in float32."""
        codes = self.inner.codebook.float()
        if self.cosine:
            return (latents.float() @ codes.T).argmax(-1)
        return nearest_code(latents, codes)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Rows of the codebook."""
        return self.inner.get_codes_from_indices(ids)

    @torch.no_grad()
    def start(self, rows: Float[Tensor, "m c"]) -> None:
        """K-means, once; the same in all processes."""
        book = self.book
        if book.initted:
            return
        limit = max(self.vocab_size, KMEANS // self.vocab_size)
        chosen = torch.randperm(len(rows), device=rows.device)[:limit]
        book.init_embed_(self.points(rows[chosen].float())[None])
        agree([book.embed, book.embed_avg, book.cluster_size])

    @torch.no_grad()
    def update(self, rows: Float[Tensor, "m c"]) -> None:
        """Moving averages of counts and sums, then new places for dead codes."""
        self.start(rows)
        book, rows = self.book, self.points(rows.float())
        if not book.cluster_size.any():  # loaded: as if its codes had been used alike so far
            book.cluster_size.fill_(len(rows) / self.vocab_size)
            book.embed_avg.copy_(book.embed * len(rows) / self.vocab_size)
        counts, sums = self.tally(rows)
        book.cluster_size[0].lerp_(counts.to(book.cluster_size), 1 - EMA_DECAY)
        book.embed_avg[0].lerp_(sums.to(book.embed_avg), 1 - EMA_DECAY)
        book.update_ema()
        dead = torch.zeros_like(counts, dtype=torch.bool)
        dead[self.find_dead(counts, len(rows))] = True
        if dead.any():
            book.reset_cluster_size = book.cluster_size.mean().item()
            book.replace(rows[None], batch_mask=dead[None])

    def tally(self, rows: Float[Tensor, "m c"]) -> tuple[Tensor, Tensor]:
        """How many rows each code is nearest to (v,), and their sum (v, c).

        By matrix products: sums by index are not the same twice on a GPU.
        """
        counts = rows.new_zeros(self.vocab_size)
        sums = rows.new_zeros(self.vocab_size, self.code_dim)
        codes = torch.arange(self.vocab_size, device=rows.device)
        for piece, ids in self.pieces(rows):
            chosen = (codes[:, None] == ids).to(rows.dtype)
            counts += chosen.sum(1)
            sums += chosen @ piece
        return counts, sums

    def take(self, codes: Float[Tensor, "v c"]) -> None:
        """As the contract; counts of zero say that nothing was counted yet."""
        book = self.book
        book.embed[0].copy_(self.points(codes))
        book.embed_avg.zero_()
        book.cluster_size.zero_()
        book.initted.fill_(True)
        self.idle = None


class CosineQuantizer(EMAQuantizer):
    """Nearest code in angle; codes have unit length (ViT-VQGAN, arXiv 2110.04627)."""

    cosine = True


class RotationQuantizer(EMAQuantizer):
    """As ``EMAQuantizer``; gradients are rotated from code to latent (arXiv 2410.06424)."""

    def through(
        self, latents: Float[Tensor, "b n c"], codes: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b n c"]:
        """As the contract, by the rotation (and stretch) that turns each latent into its code."""
        turned = rotate_to(latents.float(), codes.detach().float()).to(codes.dtype)
        return turned + (codes - codes.detach())


class ResidualQuantizer(EMAQuantizer):
    """One stage of a residual quantizer with a shared codebook (RQ-VAE, arXiv 2203.01941).

    The tokenizer's ``depth`` is the number of stages: each of its maps codes what those before
    left over, as ``ResidualVQ(shared_codebook=True)`` of the library does.
    """


def agree(tensors: Sequence[Tensor]) -> None:
    """The first process's values for all: k-means adds in any order on a GPU."""
    if distributed.is_available() and distributed.is_initialized():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
