"""Training on perturbed codes, as a generator would get them wrong (RobustTok, arXiv 2503.08354).

Behaviour of lxa9867/ImageFolder@76ddfb9: tokenizer/tokenizer_image/latent_perturbation.py for the
perturbation, xqgan_train.py ``get_random_ratio`` for its annealing, configs/RobustTok.yaml for the
constants. There the first images of a batch are perturbed, here each is chosen by its own seed.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arimage.shapes import Float
from arimage.tokenizers.base import Encoding
from arimage.tokenizers.perturb import Perturbation, check_delta, perturb, perturbed_images
from arimage.tokenizers.vq import ConvTokenizer
from arimage.training.losses.base import exactly


@dataclass(frozen=True, kw_only=True)
class PerturbationSchedule:
    """``alpha`` and ``delta`` fall to a share of themselves in the middle of the training.

    Args:
        alpha: at first, as ``Perturbation``.
        delta: at first.
        beta: all the time.
        final: the share of alpha and delta that is left at the end.
        start: the share of the training after which they begin to fall, linearly.
        end: where they have fallen.

    Raises:
        ValueError: a number out of its range.
    """

    alpha: float = 1.0
    delta: int = 100
    beta: float = 0.1
    final: float = 0.5
    start: float = 0.2
    end: float = 0.6

    def __post_init__(self) -> None:
        self.at(0.0)
        if not 0 <= self.final <= 1:
            raise ValueError(f"got final {self.final}; expected a share from 0 to 1")
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"got start {self.start} and end {self.end}; expected shares of the training "
                "from 0 to 1, in this order"
            )

    def at(self, progress: float) -> Perturbation:
        """The perturbation after a share ``progress`` of the training, in [0, 1)."""
        if progress <= self.start:
            left = 1.0
        elif progress >= self.end:
            left = self.final
        else:
            left = 1 - (progress - self.start) / (self.end - self.start) * (1 - self.final)
        delta = max(1, int(left * self.delta)) if self.delta > 0 else self.delta
        return Perturbation(alpha=left * self.alpha, delta=delta, beta=self.beta)


def perturbed_encoding(
    tokenizer: ConvTokenizer,
    latents: Float[Tensor, "b c h w"],
    encoding: Encoding,
    perturbation: Perturbation,
    seeds: Sequence[int],
) -> Encoding:
    """``encoding`` with perturbed codes and ids in a share of the images; its loss stays.

    Gradients are those of the codes that were not perturbed (straight-through). What the quantizer
    learns from, ``encoding.loss`` and the rows, is not perturbed.

    Args:
        tokenizer: any with a quantizer.
        latents: what ``encode_latents`` gave.
        encoding: what ``quantize`` made of them.
        perturbation: how much.
        seeds: one per image; ``image_seeds``.

    Raises:
        ValueError: another number of seeds than images, more nearest codes than there are codes.
    """
    check_delta(tokenizer, perturbation)
    chosen = perturbed_images(perturbation, seeds)
    if len(chosen) != len(latents):
        raise ValueError(f"got {len(seeds)} seeds for {len(latents)} images; give one per image")
    if not chosen.any():
        return encoding
    some = [seed for seed, is_chosen in zip(seeds, chosen, strict=True) if is_chosen]
    here = chosen.to(latents.device)
    with torch.no_grad(), exactly(latents):
        found = perturb(tokenizer, latents[here].to(tokenizer.dtype), perturbation, some)
        canvas = tokenizer.canvas_of(found)
        ids, shift = encoding.ids.clone(), torch.zeros_like(encoding.codes)
        ids[here] = found
        shift[here] = canvas.to(shift.dtype) - encoding.codes[here]
    return dataclasses.replace(encoding, codes=encoding.codes + shift, ids=ids)


def image_seeds(seed: int, index: Sequence[int] | Tensor) -> list[int]:
    """A seed for each image of a step: the step's (in [0, 2**64)) and the image's index, joined."""
    return [(seed << 64) | int(image) for image in index]
