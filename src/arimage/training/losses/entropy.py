"""``entropy``: each latent sure of its code, the batch using all codes (arXiv 2310.05737 eq. 5).

For codebooks whose quantizer has no such loss of its own; behaviour of ``compute_entropy_loss`` in
FoundationVision/LlamaGen@ce98ec4 tokenizer/tokenizer_image/vq_model.py, over all processes here.
"""

import torch.nn.functional as F
from torch import Tensor

from arimage.shapes import Float
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.perturb import closeness
from arimage.tokenizers.vq import to_rows
from arimage.training.losses.base import Seen, TokenizerLoss, exactly
from arimage.training.losses.processes import process_mean

FLOOR = 1e-5  # added to probabilities in the logarithm; LlamaGen's, as above


class EntropyLoss(TokenizerLoss):
    """Entropy of a latent's codes minus that of the batch's, of softmax(-distance / temperature).

    Args:
        temperature: of the softmax over codes.

    Raises:
        ValueError: a temperature that is not positive.
    """

    def __init__(self, *, temperature: float = 0.01) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"got temperature {temperature}; expected a positive number")
        self.temperature = temperature

    def prepare(self, tokenizer: ImageTokenizer) -> None:
        """Raises ValueError for several token maps: what each of them codes has no gradient."""
        if tokenizer.slots.num_scales > 1:
            raise ValueError(
                f"got the loss 'entropy' for a tokenizer with {tokenizer.slots.num_scales} token "
                "maps; it is defined for one map: leave it out of the recipe"
            )

    def forward(self, seen: Seen) -> Float[Tensor, ""]:
        """The difference; at most log(vocab_size) below 0."""
        quantizer = seen.tokenizer.quantizer
        with exactly(seen.latents):
            rows = to_rows(seen.latents.float()).flatten(0, 1)
            if "cosine" in seen.tokenizer.config.quantizer:
                rows = F.normalize(rows, dim=1)
            logits = closeness(quantizer, rows, seen.encoding.ids.flatten()) / self.temperature
            each, all_of_them = entropies(logits)
            return each - all_of_them


def entropies(logits: Float[Tensor, "m v"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean entropy of rows' distributions, and entropy of the mean distribution, in nats.

    Over all processes alike; the first is a mean, the second is of their mean distribution.
    """
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    mean = process_mean(p.mean(0))
    return -(p * log_p).sum(1).mean(), -(mean * (mean + FLOOR).log()).sum()
