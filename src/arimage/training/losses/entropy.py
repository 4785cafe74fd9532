"""``entropy``: each latent sure of its code, the batch using all codes (arXiv 2310.05737 eq. 5).

The quantizer's own formula (arimage.tokenizers.entropy), with a weight of the recipe's: LlamaGen's
``compute_entropy_loss`` (FoundationVision/LlamaGen@ce98ec4 tokenizer/tokenizer_image/vq_model.py)
and MaskBit's (arXiv 2409.16211). Over all processes.
"""

from torch import Tensor

from arimage.shapes import Float
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.vq import to_rows
from arimage.training.losses.base import Seen, TokenizerLoss


class EntropyLoss(TokenizerLoss):
    """Mean entropy of a latent's codes minus the entropy of the batch's, in nats."""

    def prepare(self, tokenizer: ImageTokenizer) -> None:
        """Takes the term out of the quantizer's own loss, where some kinds have it.

        Raises:
            ValueError: several token maps, as what each of them codes has no gradient.
        """
        if tokenizer.slots.num_scales > 1:
            raise ValueError(
                f"got the loss 'entropy' for a tokenizer with {tokenizer.slots.num_scales} token "
                "maps; it is defined for one map: leave it out of the recipe"
            )
        tokenizer.quantizer.entropy_weight = 0.0

    def forward(self, seen: Seen) -> Float[Tensor, ""]:
        """The difference; at most log(vocab_size) below 0."""
        return seen.tokenizer.quantizer.entropy(to_rows(seen.latents))
