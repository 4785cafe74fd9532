"""Index back-propagation: all codes are trained through the choice itself (arXiv 2412.02692).

Behaviour of TencentARC/SEED-Voken@b9a17ea src/IBQ/modules/vqvae/quantize.py. A code is chosen by
its product with the latent, not by distance; codes have any length.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.shapes import Float, Int
from arimage.tokenizers.entropy import TEMPERATURE, entropy_loss
from arimage.tokenizers.quantizers import Quantized, Quantizer

CODEBOOK = 0.25  # beta of configs/IBQ/gpu/imagenet_ibqgan_16384.yaml, of the same commit
ENTROPY = 0.05  # entropy_loss_weight of the same file


class IndexQuantizer(Quantizer):
    """The code with the largest product; gradients reach every code through a softmax of them.

    The code of an id need not be quantized to that id, where another one is longer.
    """

    learned = True
    entropy_weight = ENTROPY

    def build(self) -> nn.Module:
        """One vector per code, standard normal."""
        return nn.Embedding(self.vocab_size, self.code_dim)

    def scores(self, latents: Float[Tensor, "b n c"]) -> Float[Tensor, "b n v"]:
        """Products with all codes, in float32."""
        with torch.autocast(latents.device.type, enabled=False):
            return F.linear(latents.float(), self.inner.weight.float())

    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """As the contract; the loss has two commitment terms and the codebook's."""
        scores = self.scores(latents)
        ids = scores.detach().argmax(-1)
        chosen = codes = self.lookup(ids)
        if self.training:
            soft = scores.softmax(-1).to(latents.dtype) @ self.inner.weight.detach()
            codes = chosen + (soft - soft.detach())
        loss = F.mse_loss(codes, latents) + F.mse_loss(chosen.detach(), latents)
        loss = loss + CODEBOOK * F.mse_loss(chosen, latents.detach())
        return Quantized(codes, ids, loss + self.regularization(latents))

    def choose(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """As the contract."""
        return self.scores(latents).argmax(-1)

    def entropy(self, latents: Float[Tensor, "b n c"]) -> Float[Tensor, ""]:
        """As the contract, of the softmax of products."""
        return entropy_loss(self.scores(latents) / TEMPERATURE)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Rows of the codebook."""
        return self.inner(ids)

    def take(self, codes: Float[Tensor, "v c"]) -> None:
        """As the contract."""
        self.inner.weight.copy_(codes)
