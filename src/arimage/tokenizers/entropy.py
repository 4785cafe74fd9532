"""Entropy of the choice of codes: each token sure of its code, all codes used alike.

MAGVIT-v2 (arXiv 2310.05737) section 3.1: mean over tokens of H(p(code | token)), minus the entropy
of the mean distribution. Constants and temperature: markweberdev/maskbit@5ea3d73
modeling/quantizer/lookup_free.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from arimage.shapes import Float

ENTROPY_WEIGHT = 0.1  # of the term in a quantizer's loss; MaskBit's own configs say 0.02
TEMPERATURE = 0.01  # logits are minus squared distances over this
GAMMA = 1.0  # weight of the second entropy
EXACT_BITS = 18  # as many bits are counted jointly: 2 ** 18 codes, MAGVIT-v2's largest


def entropy_loss(logits: Float[Tensor, "*n v"], gamma: float = GAMMA) -> Float[Tensor, ""]:
    """Mean entropy of softmax(logits), minus ``gamma`` times the entropy of its mean.

    The mean is over all processes (of equally many tokens each), and the gradient, averaged over
    processes, that of one process with all tokens. In nats.
    """
    log_p = logits.flatten(0, -2).float().log_softmax(-1)
    p = log_p.exp()
    own = -(p * log_p).sum(-1).mean()
    return own - gamma * entropy(mean_over_processes(p.mean(0)))


def bit_entropy_loss(log_odds: Float[Tensor, "*n c"], gamma: float = GAMMA) -> Float[Tensor, ""]:
    """``entropy_loss`` of 2 ** c codes whose c bits are independent in each token.

    Exact, without a row of 2 ** c numbers per token, up to ``EXACT_BITS``; of more bits the
    second entropy is the sum over groups of as many, an upper bound; BSQ (arXiv 2406.07548) groups
    bits, too.

    Args:
        log_odds: of each bit, log p(1) - log p(0); the first bit counts most in an id.
        gamma: weight of the second entropy.
    """
    with torch.autocast(log_odds.device.type, enabled=False):
        z = log_odds.flatten(0, -2).float()
        own = (F.softplus(z) - z * z.sigmoid()).sum(-1).mean()
        groups = z.split(EXACT_BITS, dim=-1)
        means = [mean_over_processes(mean_joint(group)) for group in groups]
        return own - gamma * torch.stack([entropy(mean) for mean in means]).sum()


def mean_joint(log_odds: Float[Tensor, "n c"]) -> Float[Tensor, " v"]:
    """Mean probability of each of the 2 ** c codes.

    A token's distribution is an outer product of that of its first and its last bits, so the mean
    of all is one matrix product.
    """
    half = log_odds.shape[1] // 2
    first, last = joint(log_odds[:, :half]), joint(log_odds[:, half:])
    return (first.T @ last).flatten() / len(log_odds)


def joint(log_odds: Float[Tensor, "n c"]) -> Float[Tensor, "n v"]:
    """Probability of each of the 2 ** c codes in each row."""
    p = log_odds.new_ones(len(log_odds), 1)
    for bit in log_odds.unbind(1):
        p = torch.stack([p * (-bit).sigmoid()[:, None], p * bit.sigmoid()[:, None]], -1).flatten(1)
    return p


def entropy(p: Float[Tensor, " v"]) -> Float[Tensor, ""]:
    """Of one distribution, in nats; 0 log 0 = 0, with a finite gradient."""
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum()


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of ``x`` over processes, with its gradient; ``x`` itself in a single one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    return _Mean.apply(x)


class _Mean(torch.autograd.Function):
    """Own code: torch.distributed.nn.functional.all_reduce is deprecated in torch 2.13."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        distributed.all_reduce(total)
        return total / distributed.get_world_size()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Each process's ``x`` is in every process's mean."""
        return _Mean.apply(grads[0])
