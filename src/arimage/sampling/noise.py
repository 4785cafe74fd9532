"""Noise: a stream of random numbers per image, so that a seed names an image.

``ReferenceNoise`` is the one exception: the shared stream of published code, to repeat its images.
The streams are Philox counters on the host, the same on every device; a draw inverts the
cumulative distribution in float64 with one uniform number per token.
"""

import copy
import operator
import secrets
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from arimage.shapes import Float, Int

MAX_SEED = 2**63
BLOCK = 256  # numbers of each image drawn ahead: one call per image and token would cost more
DRAWS = 2**192  # where in an image's stream its label is drawn: no image gets there by sampling
NORMALS, APART = 2**193, 2**64  # where normal numbers begin, and how far those of two steps are
Seeds = Sequence[int] | int | None


class PerImageNoise:
    """One independent stream per image.

    Args:
        seeds: one integer in [0, 2**63) per image.
        device: where draws are needed.

    Raises:
        ValueError: a seed out of range.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str) -> None:
        check_seeds(seeds)
        self.batch, self.device = len(seeds), torch.device(device)
        self._seeds = list(seeds)
        self._streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
        self._ahead = torch.empty(self.batch, 0, dtype=torch.float64, device=self.device)
        self._last = self._ahead

    def uniform(self, count: int) -> Float[Tensor, "b n"]:
        """``count`` float64 numbers in [0, 1) per image."""
        missing = count - self._ahead.shape[1]
        if missing > 0:
            rows = [stream.random(max(missing, BLOCK)) for stream in self._streams]
            more = torch.from_numpy(np.stack(rows)).to(self.device)
            self._ahead = torch.cat([self._ahead, more], dim=1)
        drawn, self._ahead = self._ahead[:, :count], self._ahead[:, count:]
        self._last = drawn
        return drawn.contiguous()

    def give_back(self, count: int) -> None:
        """The next draw begins with them; nothing where nothing was drawn (greedy sampling)."""
        if count and self._last.shape[1]:
            self._ahead = torch.cat([self._last[:, -count:], self._ahead], dim=1)

    def labels(self, num_classes: int) -> list[int]:
        """A class label per image, uniform, from a far part of its stream.

        The draws of the image itself do not change: the label given in so many words gives the
        same image.
        """
        streams = (np.random.Philox(key=seed, counter=DRAWS) for seed in self._seeds)
        return [int(np.random.Generator(stream).integers(num_classes)) for stream in streams]

    def normal(self, count: int, index: int) -> Float[Tensor, "b n"]:
        """``count`` standard normal numbers per image, float64, others for each ``index``.

        From a far part of its stream: the draws of the image itself do not change.
        """
        place = NORMALS + index * APART
        streams = (np.random.Philox(key=seed, counter=place) for seed in self._seeds)
        rows = [np.random.Generator(stream).standard_normal(count) for stream in streams]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def gumbel(self, count: int, inverse: bool = False) -> Float[Tensor, "b n"]:
        """``count`` standard Gumbel numbers per image, float64; always from uniform numbers."""
        tiny = torch.finfo(torch.float64).tiny
        return -(-self.uniform(count).clamp_min(tiny).log()).clamp_min(tiny).log()

    def permutations(self, count: int, shared: bool = False) -> Int[Tensor, "b n"]:
        """A random permutation of 0..count-1 for each image; ``shared`` or not."""
        return self.gumbel(count).argsort(-1)

    def integers(self, count: int) -> Int[Tensor, " b"]:
        """One of 0..count-1 for each image."""
        return (self.uniform(1)[:, 0] * count).long()

    def among(self, places: Tensor, total: int) -> "PerImageNoise":
        """As it is: nothing is drawn for tokens that are not chosen."""
        return self

    def apart(self) -> "PerImageNoise":
        """As it is: a number belongs to a token however many are drawn at once."""
        return self

    def skip(self, count: int) -> None:
        """Nothing: these streams are of no published code."""

    def choose(
        self, probabilities: Float[Tensor, "b n v"], kept: int | None = None
    ) -> Int[Tensor, "b n"]:
        """Draws an id from each row by inverting its cumulative sum; zero rows never win."""
        cumulative = probabilities.double().cumsum(-1)
        total = cumulative[..., -1:]
        threshold = self.uniform(probabilities.shape[1]).unsqueeze(-1) * total
        ids = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
        last = (cumulative < total).sum(-1)  # the last id with a probability above zero
        return torch.minimum(ids, last)

    def argmax(self, logits: Float[Tensor, "b n v"], heat: float) -> Int[Tensor, "b n"]:
        """The largest of logits + heat * Gumbel noise: a draw from softmax(logits / heat), which
        takes one number per token instead of one per logit; none without heat.
        """
        if heat == 0:
            return logits.argmax(-1)
        return self.choose((logits / heat).softmax(-1))


class ReferenceNoise:
    """One torch generator for the whole batch, drawn from in the order of the published code.

    FoundationVision/VAR@78b9539 models/var.py autoregressive_infer_cfg: labels first, if they are
    drawn; then, per step, torch.multinomial over all rows of the batch, which is the largest
    p / Exponential(1); then the Gumbel noise. Next-token code draws as that does, RAR's after a
    number per image that it does not use (``Backbone.unused_draws``). An image depends on its
    place in the batch.

    Args:
        seeds: the same integer for each image.
        device: where the generator lives; other devices draw other numbers.

    Raises:
        ValueError: several seeds.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str) -> None:
        if len(set(seeds)) > 1:
            raise ValueError(
                f"got seeds {list(seeds)[:4]}; rng='reference' has one stream for all images: give "
                "one integer"
            )
        self.batch, self.device = len(seeds), torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(seeds[0])
        self.one_by_one = False
        self.places: tuple[Tensor, int] | None = None

    def labels(self, num_classes: int) -> list[int]:
        """A class label per image; must come before any other draw."""
        uniform = torch.full((num_classes,), 1 / num_classes, device=self.device)
        drawn = torch.multinomial(uniform, self.batch, replacement=True, generator=self._generator)
        return drawn.tolist()

    def gumbel(self, count: int, inverse: bool = False) -> Float[Tensor, "b n"]:
        """``count`` standard Gumbel numbers per image, float32; ``inverse`` as
        ``torch.distributions.Gumbel`` draws them (markweberdev/maskbit@5ea3d73
        modeling/modules/sampling.py, on the CPU whatever the device: another stream elsewhere).
        """
        if inverse:
            uniform = torch.rand(self.batch, count, generator=self._generator, device=self.device)
            return -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()
        return -self._exponential((self.batch, count)).log()

    def permutations(self, count: int, shared: bool = False) -> Int[Tensor, "b n"]:
        """``torch.randperm`` on the CPU, one image after the other (ziqipang/RandAR@d374a72
        RandAR/model/randar_gpt.py generate); ``shared``: one for all, the order of as many float32
        numbers (hp-l33/ARPG@1a1758c models/arpg.py generate).
        """
        if shared:
            numbers = torch.rand(count, generator=self._generator, device=self.device)
            return numbers.argsort().expand(self.batch, -1)
        stream = self._on_host()
        rows = [torch.randperm(count, generator=stream) for _ in range(self.batch)]
        return torch.stack(rows).to(self.device)

    def integers(self, count: int) -> Int[Tensor, " b"]:
        """``torch.randint`` on the CPU: valeoai/Halton-MaskGIT@f61b0a1, halton_sampler.py."""
        stream = self._on_host()
        return torch.randint(0, count, (self.batch,), generator=stream).to(self.device)

    def among(self, places: Tensor, total: int) -> "ReferenceNoise":
        """The same stream; numbers of all ``total`` places are drawn, those of ``places`` used.

        With top-k they are drawn for the k largest alone, the largest first (the same file).
        """
        other = copy.copy(self)
        other.places = places, total
        return other

    def apart(self) -> "ReferenceNoise":
        """The same stream; the tokens of a step are drawn one after the other."""
        other = copy.copy(self)
        other.one_by_one = True
        return other

    def give_back(self, count: int) -> None:
        """Raises ValueError: the numbers are gone."""
        if count:
            raise ValueError(
                "rng='reference' draws from a stream that only goes forward, and the order "
                "'jacobi' draws some numbers again; use 'raster', whose images are the same"
            )

    def skip(self, count: int) -> None:
        """Draws ``count`` uniform numbers per image, float32, and forgets them."""
        if count:
            torch.rand(self.batch, count, generator=self._generator, device=self.device)

    def choose(
        self, probabilities: Float[Tensor, "b n v"], kept: int | None = None
    ) -> Int[Tensor, "b n"]:
        """What ``torch.multinomial`` draws from each row: it runs the same race."""
        if self.places is not None:
            return self._chosen_among(probabilities, *self.places, kept)
        if self.one_by_one and probabilities.shape[1] > 1:
            drawn = [self._exponential(p.shape) for p in probabilities.unbind(1)]
            return (probabilities / torch.stack(drawn, dim=1)).argmax(-1)
        return (probabilities / self._exponential(probabilities.shape)).argmax(-1)

    def argmax(self, logits: Float[Tensor, "b n v"], heat: float) -> Int[Tensor, "b n"]:
        """The largest of logits + heat * Gumbel noise, the numbers drawn whatever ``heat`` is."""
        drawn = self.gumbel(logits[0].numel(), inverse=True).reshape(logits.shape)
        return (logits + heat * drawn.to(logits)).argmax(-1)

    def _chosen_among(
        self, probabilities: Float[Tensor, "b n v"], places: Tensor, total: int, kept: int | None
    ) -> Int[Tensor, "b n"]:
        best = probabilities.topk(kept) if kept is not None else None
        rivals = probabilities if best is None else best.values
        drawn = self._exponential((self.batch, total, rivals.shape[-1]))
        rows = places.expand(self.batch, -1).unsqueeze(-1).expand_as(rivals)
        winner = (rivals / drawn.gather(1, rows)).argmax(-1, keepdim=True)
        return (winner if best is None else best.indices.gather(-1, winner)).squeeze(-1)

    def _on_host(self) -> torch.Generator:
        """The CPU's stream; where another device draws, their one seed is that of both."""
        stream = self._generator
        if self.device.type == "cpu":
            return stream
        return torch.Generator().manual_seed(stream.initial_seed())

    def _exponential(self, shape: Sequence[int]) -> Tensor:
        empty = torch.empty(*shape, device=self.device)
        return empty.exponential_(1, generator=self._generator)


def make_seeds(
    seeds: Seeds, count: int, *, shared: bool = False, of: str = "class labels"
) -> list[int]:
    """One seed per image: as given, counted up from one integer, or fresh.

    Args:
        seeds: what the user gave.
        count: of images.
        shared: all images draw from one stream: one integer is the seed of all.
        of: what was counted, for messages.

    Raises:
        ValueError: another number of seeds than images, or a seed out of range.
    """
    if seeds is None:
        fresh = [secrets.randbelow(2**31) for _ in range(count)]
        return fresh[:1] * count if shared else fresh
    if isinstance(seeds, int | np.integer):
        made = [int(seeds) + (0 if shared else i) for i in range(count)]
    else:
        made = [operator.index(seed) for seed in seeds]
    if len(made) != count:
        raise ValueError(
            f"got {count} {of} for {len(made)} seeds; pass one seed per image or a single seed"
        )
    check_seeds(made)
    return made


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises ValueError unless every seed is in [0, 2**63)."""
    for seed in seeds:
        if not 0 <= seed < MAX_SEED:
            raise ValueError(f"got seed {seed}; expected an integer from 0 to 2**63 - 1")
