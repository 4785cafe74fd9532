"""The contract of quantizers: latent vectors <-> ids; what all of them share.

Swapping one is a word in a tokenizer's config (``quantizer: "vq_ema"``). Their classes are in
quantizers_ema.py, quantizers_learned.py and quantizers_lattice.py. The library's different returns
(two or three values), index types and buffers outside the checkpoint end there.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from arimage.shapes import Float, Int
from arimage.tokenizers.entropy import TEMPERATURE, entropy_loss

COMMITMENT = 0.25  # VQ-VAE (arXiv 1711.00937) eq. 3
EMA_DECAY = 0.99  # VQ-VAE-2 (arXiv 1906.00446) section 3; the library's own default is 0.8
PIECE = 2**24  # similarities held at once while a codebook is updated: 64 MB

# A code is dead when nothing chose it for as long as one that has 0.08 of the average use, where
# FoundationVision/VAR@78b9539 models/quant.py begins to count codes as used, is chosen 3 times.
# In tokens per code, so that it means the same for any batch and codebook.
IDLE = 3 / 0.08


class Quantized(NamedTuple):
    """Codes (b, n, c), straight-through while training; ids (b, n) int64; a scalar loss."""

    codes: Tensor
    ids: Tensor
    loss: Tensor


class Quantizer(nn.Module, ABC):
    """Latent vectors <-> ids in [0, vocab_size).

    ``forward`` changes nothing, also while training. A trainer calls ``start`` with the rows of its
    first batch before it uses what ``forward`` gives, then ``update`` once per optimizer step with
    all rows of that step: of all micro-batches, all token maps and, gathered in one order, all
    processes, whose global random state must be equal.

    Args:
        vocab_size: number of codes.
        code_dim: dimension of one code.
        levels: values per dimension, for quantizers on a fixed lattice; None elsewhere.

    Attributes:
        learned: (of the class) the codebook gets gradients through ``lookup``, so that a loss on
            what codes add up to is enough to train it.
        commitment: (of the class) weight of latents' squared distance to their codes in the loss.
        entropy_weight: of ``entropy`` in the loss while training; a recipe may set it.
    """

    learned: ClassVar[bool] = False
    commitment: ClassVar[float] = COMMITMENT
    entropy_weight: float = 0.0

    def __init__(self, vocab_size: int, code_dim: int, levels: list[int] | None = None) -> None:
        super().__init__()
        self.vocab_size, self.code_dim, self.levels = vocab_size, code_dim, levels
        self.check()
        with torch.device("cpu"):  # these modules cannot be built on the meta device
            self.inner = self.build()

    def check(self) -> None:
        """Raises ValueError when vocab_size, code_dim and levels do not go together."""
        if self.levels is not None:
            raise ValueError(
                f"{type(self).__name__} takes no levels, got {self.levels}; leave null"
            )

    @abstractmethod
    def build(self) -> nn.Module:
        """A fresh library module."""

    @abstractmethod
    def forward(self, latents: Float[Tensor, "b n c"]) -> Quantized:
        """Quantizes; the loss is the quantizer's own. Changes no codebook."""

    @abstractmethod
    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Codes of ids; exactly the codes that ``forward`` returns in eval mode."""

    @abstractmethod
    def choose(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """``nearest``, for latents that need no gradient, in full precision."""

    @torch.no_grad()
    def nearest(self, latents: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """The ids that ``forward`` gives in eval mode, also while training."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.choose(latents)

    def points(self, latents: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """Where latents lie among the codes."""
        return latents

    def through(
        self, latents: Float[Tensor, "b n c"], codes: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b n c"]:
        """``codes``, whose gradient also reaches ``latents`` as if they were the same."""
        return codes + (latents - latents.detach())

    def entropy(self, latents: Float[Tensor, "b n c"]) -> Float[Tensor, ""]:
        """Entropy of the choice of codes per token, minus that of their mean (entropy.py)."""
        codes = self.lookup(torch.arange(self.vocab_size, device=latents.device)[None])[0].float()
        with torch.autocast(latents.device.type, enabled=False):
            close = 2 * self.points(latents).float() @ codes.T - codes.square().sum(-1)
            return entropy_loss(close / TEMPERATURE)

    def regularization(self, latents: Float[Tensor, "b n c"]) -> Float[Tensor, ""]:
        """The part of the loss that concerns the choice of codes alone; zero in eval mode."""
        if not self.training or not self.entropy_weight:
            return torch.zeros((), device=latents.device)
        return self.entropy_weight * self.entropy(latents)

    def start(self, rows: Float[Tensor, "m c"]) -> None:
        """Fits an untrained codebook to its first rows; does nothing where there is none."""

    def update(self, rows: Float[Tensor, "m c"]) -> None:
        """One step of a codebook's own learning rule; does nothing where there is none."""

    @torch.no_grad()
    def load_codebook(self, codes: Float[Tensor, "v c"]) -> None:
        """Takes over trained codes.

        Raises:
            ValueError: codes of other sizes, or a quantizer whose codes are fixed.
        """
        if codes.shape != (self.vocab_size, self.code_dim):
            raise ValueError(
                f"got a codebook of {len(codes)} codes with {codes.shape[1]} numbers each; this "
                f"quantizer has {self.vocab_size} with {self.code_dim}"
            )
        self.take(codes)

    def take(self, codes: Float[Tensor, "v c"]) -> None:
        """``load_codebook`` for codes of the right sizes."""
        raise ValueError(
            f"{type(self).__name__} has fixed codes, so none can be loaded; start it without"
        )

    def training_state(self) -> dict[str, Tensor]:
        """What ``update`` remembers besides the state dict."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """What ``training_state`` gave.

        Raises:
            ValueError: the state of another kind of quantizer.
        """
        if state:
            raise ValueError(
                f"got a training state with {', '.join(state)}; {type(self).__name__} keeps none: "
                "resume with the quantizer that was trained"
            )

    @torch.no_grad()
    def rebuild_buffers(self) -> None:
        """Refills buffers that are not in the checkpoint, which loading leaves as garbage."""
        saved = self.inner.state_dict()
        with torch.device("cpu"):
            fresh = dict(self.build().named_buffers())
        for name, buffer in self.inner.named_buffers():
            if name not in saved:
                buffer.copy_(fresh[name])

    def pieces(
        self, rows: Float[Tensor, "m c"]
    ) -> Iterator[tuple[Float[Tensor, "p c"], Int[Tensor, " p"]]]:
        """Rows and their ids, as many at once as memory allows."""
        for piece in rows.split(max(1, PIECE // self.vocab_size)):
            yield piece, self.nearest(piece[None])[0]


class RevivedQuantizer(Quantizer):
    """A quantizer that moves codes that nothing chooses to latents of the step.

    So does Jukebox (arXiv 2005.00341). How long codes have been idle is no part of the state dict
    but of ``training_state``; a loaded codebook begins with none.
    """

    def __init__(self, vocab_size: int, code_dim: int, levels: list[int] | None = None) -> None:
        super().__init__(vocab_size, code_dim, levels)
        self.idle: Tensor | None = None

    def find_dead(self, counts: Float[Tensor, " v"], most: int) -> Int[Tensor, " d"]:
        """Counts a step; the codes to move, at most ``most``, which are no longer idle."""
        idle = torch.zeros_like(counts) if self.idle is None else self.idle.to(counts)
        self.idle = torch.where(counts > 0, 0.0, idle + counts.mean())
        dead = (self.idle >= IDLE).nonzero()[:, 0]
        dead = dead[torch.randperm(len(dead), device=dead.device)[:most]]
        self.idle[dead] = 0
        return dead

    def training_state(self) -> dict[str, Tensor]:
        """As the contract: for how many tokens per code each has been idle."""
        return {} if self.idle is None else {"idle": self.idle}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """As the contract."""
        self.idle = state.get("idle")
        super().load_training_state({k: v for k, v in state.items() if k != "idle"})


@torch.no_grad()
def nearest_code(
    latents: Float[Tensor, "b n c"], codebook: Float[Tensor, "v c"]
) -> Int[Tensor, "b n"]:
    """Ids of the nearest rows of the codebook in Euclidean distance, in float32."""
    codes = codebook.float()
    return (2 * (latents.float() @ codes.T) - codes.square().sum(-1)).argmax(-1)
