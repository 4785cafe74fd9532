"""Quantizers whose codebook is learned by gradient: the published ones, and SimVQ."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.shapes import Float, Int
from arimage.tokenizers.derived import Derived
from arimage.tokenizers.entropy import entropy_loss
from arimage.tokenizers.quantizers import (
    Quantized,
    Quantizer,
    RevivedQuantizer,
    nearest_code,
)

GUMBEL_KL = 5e-4  # CompVis/taming-transformers@3ba01b2 taming/modules/vqvae/quantize.py


class LearnedQuantizer(RevivedQuantizer):
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
        points = self.points(latents)
        with torch.autocast(latents.device.type, enabled=False):
            ids = self.choose_point(points.detach())
        codes = self.lookup(ids)
        commitment = F.mse_loss(points, codes.detach())
        loss = F.mse_loss(codes, points.detach()) + self.commitment * commitment
        if self.training:
            loss = loss + self.regularization(latents)
            codes = self.through(points, codes.detach())
        return Quantized(codes, ids, loss)

    def choose(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """As the contract, in float32."""
        return self.choose_point(self.points(latents))

    def choose_point(self, points: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """Ids of the nearest codes."""
        return nearest_code(points, self.inner.weight)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Rows of the codebook."""
        return self.inner(ids)

    @torch.no_grad()
    def update(self, rows: Float[Tensor, "m c"]) -> None:
        """Moves idle codes to latents of the step; gradients do the rest."""
        counts = torch.zeros(self.vocab_size, device=rows.device)
        for _, ids in self.pieces(rows):
            counts += torch.bincount(ids, minlength=self.vocab_size)
        dead = self.find_dead(counts, len(rows))
        places = torch.randperm(len(rows), device=rows.device)[: len(dead)]
        weight = self.inner.weight
        weight[dead] = self.points(rows[places]).to(weight)

    def take(self, codes: Float[Tensor, "v c"]) -> None:
        """As the contract."""
        self.inner.weight.copy_(codes)
        self.idle = None


class LearnedCosineQuantizer(LearnedQuantizer):
    """Nearest code in angle, codebook by gradient and normalised where it is read.

    LlamaGen's: FoundationVision/LlamaGen@ce98ec4 tokenizer/tokenizer_image/vq_model.py with
    ``codebook_l2_norm``. Rows of the file have any length; the codes of this quantizer have 1.
    """

    def __init__(self, vocab_size: int, code_dim: int, levels: list[int] | None = None) -> None:
        super().__init__(vocab_size, code_dim, levels)
        self.unit_codes = Derived()

    def points(self, latents: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """As the contract: normalised, in the loss, too."""
        return F.normalize(latents, dim=-1)

    @torch.no_grad()
    def choose_point(self, points: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """Ids of the codes with the smallest angle, in float32."""
        codes = self.unit_codes.get(lambda: unit_rows(self.inner.weight), self.inner.weight)
        return (points.float() @ codes.T.float()).argmax(-1)

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

    def scores(self, latents: Float[Tensor, "b n c"]) -> Float[Tensor, "b n v"]:
        """Logits of the codes, in float32."""
        projection = self.inner["projection"]
        with torch.autocast(latents.device.type, enabled=False):
            return F.linear(latents.float(), projection.weight.float(), projection.bias.float())

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; the loss is the divergence from equally frequent codes."""
        logits = self.scores(latents)
        log_p = logits.log_softmax(-1)
        divergence = (log_p.exp() * (log_p + math.log(self.vocab_size))).sum(-1).mean()
        loss = GUMBEL_KL * divergence + self.regularization(latents)
        if not self.training:
            ids = logits.argmax(-1)
            return Quantized(self.lookup(ids), ids, loss)
        drawn = F.gumbel_softmax(logits, hard=True)
        codes = drawn.to(latents.dtype) @ self.inner["embedding"].weight
        return Quantized(codes, drawn.argmax(-1), loss)

    def choose(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """As the contract: the mode."""
        return self.scores(latents).argmax(-1)

    def entropy(self, latents: Float[Tensor, "b n c"]) -> Float[Tensor, ""]:
        """As the contract, of the distribution that is drawn from."""
        return entropy_loss(self.scores(latents))

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Rows of the codebook."""
        return self.inner["embedding"](ids)

    def take(self, codes: Float[Tensor, "v c"]) -> None:
        """As the contract; the nearest code is the most probable one."""
        self.inner["embedding"].weight.copy_(codes)
        self.inner["projection"].weight.copy_(2 * codes)
        self.inner["projection"].bias.copy_(-codes.square().sum(-1))


class SimQuantizer(Quantizer):
    """A frozen random codebook behind one learned linear map (SimVQ, arXiv 2411.02038).

    The map moves all codes at once, so none is replaced. It starts with codes that are spread as
    the first rows are (ours): in a multi-scale tokenizer half of them stay unused otherwise.
    """

    def __init__(self, vocab_size: int, code_dim: int, levels: list[int] | None = None) -> None:
        super().__init__(vocab_size, code_dim, levels)
        self.untrained = True

    def build(self) -> nn.Module:
        """``SimVQ`` with plain straight-through gradients."""
        from vector_quantize_pytorch import SimVQ  # published tokenizers do without the package

        return SimVQ(self.code_dim, self.vocab_size, rotation_trick=False)

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; the loss has the codebook and commitment terms."""
        codes, ids, loss = self.inner(latents)
        loss = loss + self.regularization(latents)
        return Quantized(codes if self.training else self.lookup(ids), ids.long(), loss)

    def choose(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """As the contract."""
        return self.inner(latents)[1].long()

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Rows of the mapped codebook; mapped as a whole, so that each row always rounds alike."""
        return self.inner.codebook[ids]

    @torch.no_grad()
    def start(self, rows: Float[Tensor, "m c"]) -> None:
        """The map that gives the codes the covariance of the rows; once, and not to loaded ones."""
        if self.untrained:
            (wide, _), (_, narrow) = map(root_covariance, (rows, self.inner.frozen_codebook))
            self.inner.code_transform.weight.copy_(wide @ narrow)
        self.untrained = False

    def take(self, codes: Float[Tensor, "v c"]) -> None:
        """As the contract: they are the frozen ones, and the map is the identity."""
        self.inner.frozen_codebook.copy_(codes)
        nn.init.eye_(self.inner.code_transform.weight)
        self.untrained = False

    def rebuild_buffers(self) -> None:
        """As the contract; called when weights were loaded."""
        super().rebuild_buffers()
        self.untrained = False

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.untrained = False
        super()._load_from_state_dict(*args, **kwargs)


def root_covariance(rows: Float[Tensor, "m c"]) -> tuple[Tensor, Tensor]:
    """The symmetric square root (c, c) of the rows' covariance and its inverse, on the CPU."""
    values = rows.double().cpu()
    spread, axes = torch.linalg.eigh(torch.cov(values.T, correction=0).reshape(2 * [rows.shape[1]]))
    root = spread.clamp_min(torch.finfo(torch.float32).eps).sqrt()
    return (axes * root) @ axes.T, (axes / root) @ axes.T


def unit_rows(codes: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
    """Rows of length 1, in float32 at least."""
    return F.normalize(codes.to(torch.promote_types(codes.dtype, torch.float32)), dim=-1)
