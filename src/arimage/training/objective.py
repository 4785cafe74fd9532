"""What a tokenizer is trained on: one pass and its weighted losses.

VQGAN (arXiv 2012.09841) eq. 4 and 6 with the terms of a recipe.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arimage.tokenizers.base import ImageTokenizer
from arimage.training.common import Loss
from arimage.training.loop import Moment
from arimage.training.losses.adversarial import (
    LIMIT,
    adaptive_weight,
    generator_loss,
    last_layer,
)
from arimage.training.losses.base import Balance, Seen, TokenizerLoss, exactly
from arimage.training.losses.perturbation import (
    PerturbationSchedule,
    image_seeds,
    perturbed_encoding,
)

RECONSTRUCTION = ("l1", "l2", "perceptual")  # what the adversarial loss is balanced with


@dataclass(frozen=True)
class Images:
    """A batch: images (b, 3, h, w) in [-1, 1] and the index of each, which names its draws."""

    images: Tensor
    index: Tensor


@dataclass(frozen=True)
class Term:
    """A loss and its weight."""

    weight: float
    loss: TokenizerLoss


@dataclass(frozen=True)
class Adversary:
    """A critic and how it is used.

    Attributes:
        critic: images to logits.
        kind: of the loss (``losses.adversarial``).
        weight: of the tokenizer's adversarial loss.
        adaptive: the weight is multiplied with the ratio of gradients at the last layer.
        start: the step with which both begin.
        lecam: weight of LeCAM.
    """

    critic: nn.Module
    kind: str
    weight: float
    adaptive: bool
    start: int
    lecam: float = 0.0


class Objective(nn.Module):
    """A tokenizer with the terms of its loss: what is wrapped for several processes.

    Args:
        tokenizer: trained in place.
        terms: by name.
        perturbation: of codes while training; None is none.
        adversary: its critic is not a part of this module.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        terms: dict[str, Term],
        perturbation: PerturbationSchedule | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.losses = nn.ModuleDict({name: term.loss for name, term in terms.items()})
        self.weights = {name: term.weight for name, term in terms.items()}
        self.perturbation = perturbation
        self._adversary = (adversary,)  # a tuple: the critic is another player's
        for term in terms.values():
            term.loss.prepare(tokenizer)

    @property
    def reconstructs(self) -> bool:
        """Whether a term compares images."""
        return not set(self.weights).isdisjoint(RECONSTRUCTION)

    def forward(self, batch: Images, moment: Moment) -> tuple[Loss, Seen]:
        """The weighted loss, its unweighted parts by name, and what was seen."""
        seen = self.see(batch, moment)
        parts = {name: loss(seen) for name, loss in self.losses.items()}
        pixels = self._weighted({k: v for k, v in parts.items() if k in RECONSTRUCTION})
        total = pixels
        for name in [name for name in parts if name not in RECONSTRUCTION]:
            ratio = self._ratio(self.losses[name].balance(self.tokenizer), pixels, parts[name])
            total = total + self.weights[name] * ratio * parts[name]
        (adversary,) = self._adversary
        if adversary is not None and moment.step >= adversary.start:
            value = generator_loss(adversary.kind, adversary.critic(seen.output))
            balance = Balance(last_layer(self.tokenizer), LIMIT) if adversary.adaptive else None
            weight = adversary.weight * self._ratio(balance, pixels, value)
            total = total + weight * value
            parts |= {"adversarial": value, "adversarial weight": weight}
        return Loss(total, parts), seen

    def see(self, batch: Images, moment: Moment) -> Seen:
        """Encodes, quantizes (in float32), perturbs and decodes."""
        tokenizer, images = self.tokenizer, batch.images
        latents = tokenizer.encode_latents(images)
        with exactly(images):
            latents = latents.float()
            encoding = tokenizer.quantize(latents)
            shown = encoding
            if self.perturbation is not None:
                perturbation = self.perturbation.at(moment.progress)
                seeds = image_seeds(moment.seed, batch.index)
                shown = perturbed_encoding(tokenizer, latents, encoding, perturbation, seeds)
        output = tokenizer.decode_canvas(shown.codes).float()
        return Seen(tokenizer, images, output, latents, encoding, moment.seed)

    def _weighted(self, parts: dict[str, Tensor]) -> Tensor:
        weighted = [self.weights[name] * value for name, value in parts.items()]
        return torch.stack(weighted).sum() if weighted else torch.zeros(())

    def _ratio(self, balance: Balance | None, pixels: Tensor, other: Tensor) -> Tensor:
        if balance is None:
            return torch.ones_like(other)
        return adaptive_weight(pixels, other, balance.parameter, balance.limit)
