"""Latents with the errors that a generator makes: some tokens become one of their nearest codes.

RobustTok (Qiu et al. 2025, arXiv 2503.08354) does this to a share of the images a tokenizer is
trained on, and calls the FID of what it decodes from perturbed images pFID
(``arimage.eval.perturbed.evaluate_perturbed``). Behaviour: lxa9867/ImageFolder@bae3079
tokenizer/tokenizer_image/latent_perturbation.py, which perturbs the first images of a batch; here
each image is drawn on its own, so that nothing depends on batches.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arimage.images import from_pixels, to_pixels
from arimage.shapes import Bool, Float, Int
from arimage.tokenizers.quantizers import Quantizer
from arimage.tokenizers.quantizers_index import IndexQuantizer
from arimage.tokenizers.quantizers_lattice import FiniteScalarQuantizer
from arimage.tokenizers.quantizers_learned import GumbelQuantizer
from arimage.tokenizers.vq import ConvTokenizer

PIECE = 2**24  # distances held at once: 64 MB, 1,024 tokens of a codebook of 16,384


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """How much is perturbed.

    Args:
        alpha: the probability that a token of a perturbed image is replaced, in [0, 1].
        delta: a replaced token becomes one of its ``delta`` nearest codes, itself among them, all
            equally likely; 1 to vocab_size.
        beta: the probability that an image is perturbed, in [0, 1].

    Raises:
        ValueError: a number out of its range.
    """

    alpha: float
    delta: int
    beta: float = 1.0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"got {name} {getattr(self, name)}; expected a share from 0 to 1")
        if self.delta < 1:
            raise ValueError(
                f"got delta {self.delta}; expected the number of nearest codes to draw from, at "
                "least 1 (the token itself)"
            )


@torch.no_grad()
def perturb(
    tokenizer: ConvTokenizer,
    latents: Float[Tensor, "b c h w"],
    perturbation: Perturbation,
    seeds: Sequence[int],
) -> Int[Tensor, "b slots"]:
    """The ids that the tokenizer gives ``latents``, some replaced by a code nearby.

    Of a multi-scale tokenizer the finer maps code what the perturbed coarser ones left over, as
    they would after a generator's error. With alpha 0 the ids are exactly those of ``encode``.

    Args:
        tokenizer: any with a quantizer; its codebook is not updated.
        latents: what ``encode_latents`` gives.
        perturbation: how much.
        seeds: one per image, integers in [0, 2**128); a seed decides what happens to an image.

    Raises:
        ValueError: another number of seeds than images, more nearest codes than there are codes.
    """
    if len(seeds) != len(latents):
        raise ValueError(f"got {len(seeds)} seeds for {len(latents)} images; give one per image")
    check_delta(tokenizer, perturbation)
    slots = tokenizer.slots
    replaced, ranks = _draw(perturbation, seeds, slots.num_slots)
    latents = latents.to(tokenizer.dtype)
    canvas, found = torch.zeros_like(latents), []
    with torch.autocast(latents.device.type, enabled=False):  # as in ``quantize``
        for scale in range(slots.num_scales):
            start, stop = slots.span(scale)
            rows = tokenizer.view(latents if tokenizer.replaces else latents - canvas, scale)
            ids = tokenizer.quantizer.nearest(rows)
            here, rank = (part[:, start:stop].to(ids.device) for part in (replaced, ranks))
            ids[here] = _ranked(tokenizer.quantizer, rows[here], ids[here], rank[here])
            places = torch.arange(start, stop, device=ids.device)
            canvas = tokenizer.fuse(canvas, scale, places, tokenizer.lookup(ids))
            found.append(ids)
    return torch.cat(found, dim=1)


def check_delta(tokenizer: ConvTokenizer, perturbation: Perturbation) -> None:
    """Raises ValueError for more nearest codes than there are codes."""
    if perturbation.delta > tokenizer.config.vocab_size:
        raise ValueError(
            f"got delta {perturbation.delta}; this tokenizer has {tokenizer.config.vocab_size} "
            "codes: give at most as many"
        )


def perturbed_images(perturbation: Perturbation, seeds: Sequence[int]) -> Bool[Tensor, " b"]:
    """Which images ``perturb`` perturbs: a share ``beta``, each by its own seed."""
    chosen = [_stream(seed).random() < perturbation.beta for seed in seeds]
    return torch.tensor(chosen, dtype=torch.bool)


def perturbed_reconstruct(
    tokenizer: ConvTokenizer,
    alpha: float,
    delta: int,
    seed: int = 0,
    *,
    seen: Callable[[Int[Tensor, "b slots"]], None] | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from uint8 pixels (b, h, w, 3) to what the tokenizer makes of them, perturbed.

    What happens to an image follows from ``seed`` and its own pixels alone. Alpha 0 is plain
    reconstruction. ``seen`` is shown the ids of each batch (to count codes).

    Raises:
        ValueError: as ``Perturbation`` and, when called, ``perturb`` and ``encode``.
    """
    perturbation = Perturbation(alpha=alpha, delta=delta)

    @torch.no_grad()
    def reconstruct(pixels: np.ndarray) -> np.ndarray:
        tokenizer.check_size(*pixels.shape[1:3])
        images = from_pixels(pixels).to(tokenizer.device, tokenizer.dtype)
        seeds = [_seed_of(image, seed) for image in pixels]
        ids = perturb(tokenizer, tokenizer.encode_latents(images), perturbation, seeds)
        if seen is not None:
            seen(ids)
        return to_pixels(tokenizer.decode(ids))

    return reconstruct


def _seed_of(image: np.ndarray, seed: int) -> int:
    """A Philox key (128 bits) for an image."""
    digest = hashlib.sha256(seed.to_bytes(16, "little", signed=True))
    digest.update(np.ascontiguousarray(image).data)
    return int.from_bytes(digest.digest()[:16], "little")


def _draw(
    perturbation: Perturbation, seeds: Sequence[int], count: int
) -> tuple[Bool[Tensor, "b slots"], Int[Tensor, "b slots"]]:
    """Which tokens are replaced, and by the how-many-nearest code (0 is the nearest)."""
    replaced, ranks = [], []
    for seed in seeds:
        stream = _stream(seed)
        chosen = stream.random() < perturbation.beta
        replaced.append(chosen & (stream.random(count) < perturbation.alpha))
        ranks.append(stream.integers(perturbation.delta, size=count))
    return torch.from_numpy(np.stack(replaced)), torch.from_numpy(np.stack(ranks))


def _stream(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def _ranked(
    quantizer: Quantizer,
    rows: Float[Tensor, "m c"],
    own: Int[Tensor, " m"],
    ranks: Int[Tensor, " m"],
) -> Int[Tensor, " m"]:
    """The code of rank ``ranks`` around each row: 0 is the quantizer's own choice."""
    if not len(rows):
        return own
    most = int(ranks.max()) + 1
    pieces = []
    for piece, mine in zip(
        *(part.split(max(1, PIECE // quantizer.vocab_size)) for part in (rows, own)), strict=True
    ):
        near = closeness(quantizer, piece, mine).scatter_(1, mine[:, None], torch.inf)
        pieces.append(near.topk(most, dim=1).indices)
    return torch.cat(pieces).gather(1, ranks[:, None])[:, 0]


def closeness(
    quantizer: Quantizer, rows: Float[Tensor, "m c"], own: Int[Tensor, " m"]
) -> Float[Tensor, "m v"]:
    """How close each code is to each latent, in float32; greater is closer.

    |x|^2 - |x - c|^2 for latent x and code c; codes of one length (cosine, lfq) are then ranked by
    angle. A quantizer's own scores where it does not choose by distance (gumbel, ibq); and
    around the code ``own`` that x is rounded to where x is squashed first (fsq).
    """
    if isinstance(quantizer, GumbelQuantizer | IndexQuantizer):
        return quantizer.scores(rows[None])[0]
    everything = torch.arange(quantizer.vocab_size, device=rows.device)
    codes = quantizer.lookup(everything[None])[0].float()
    points = codes[own] if isinstance(quantizer, FiniteScalarQuantizer) else rows.float()
    return 2 * points @ codes.T - codes.square().sum(-1)
