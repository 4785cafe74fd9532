"""Open-MAGVIT2's transformer: a token in two parts, the second given the first (arXiv 2409.04410).

Behaviour of TencentARC/SEED-Voken@b9a17ea src/Open_MAGVIT2/modules/transformer/gpt.py: Llama's
blocks over tokens, whose vector is the sum of those of its parts; then a few blocks over the parts
of one token, the first of which stands in the place of the class, the second in that of the first
cell; a head for each part.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from arimage.ar.base import Step
from arimage.ar.linear import Linear
from arimage.ar.llama import Block, LlamaConfig, LlamaModel
from arimage.ar.parts import split_ids
from arimage.pretrained import strict
from arimage.shapes import Float, Int


@strict
class OpenMAGVIT2Config(LlamaConfig):
    """Sizes of an Open-MAGVIT2 transformer.

    first_part: choices of a token's first part (64 of 262,144 in published models); inner_depth:
    blocks over the parts of a token.
    """

    model_type = "arimage_open_magvit2"
    orders: ClassVar[tuple[str, ...]] = ("raster",)
    positive: ClassVar[tuple[str, ...]] = (*LlamaConfig.positive, "first_part", "inner_depth")

    first_part: int = 8
    inner_depth: int = 2

    def validate_parts(self) -> None:
        """The vocabulary is a multiple of the first part's."""
        if self.vocab_size % self.first_part:
            raise ValueError(
                f"got first_part {self.first_part} with vocab_size {self.vocab_size}, which is no "
                "multiple of it; give a divisor"
            )

    @property
    def parts(self) -> tuple[int, int]:
        """Choices of both parts."""
        return self.first_part, self.vocab_size // self.first_part


class OpenMAGVIT2Model(LlamaModel):
    """Predicts the next token part by part."""

    config_class = OpenMAGVIT2Config
    config: OpenMAGVIT2Config

    def make_embedding(self, config: OpenMAGVIT2Config) -> nn.Module:
        """One vector per choice of each part."""
        return nn.ModuleList(nn.Embedding(size, config.width) for size in config.parts)

    def make_output(self, config: OpenMAGVIT2Config) -> nn.Module:
        """A linear layer for each part; the blocks before them are made here, too."""
        layers = range(config.depth, config.depth + config.inner_depth)
        self.inner_blocks = nn.ModuleList(Block(config, layer) for layer in layers)
        return nn.ModuleList(Linear(config.width, size, bias=False) for size in config.parts)

    @property
    def parts(self) -> tuple[int, ...]:
        """As the config says."""
        return self.config.parts

    @property
    def heads(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """A linear layer for each part."""
        return tuple(self.output)

    def embed(self, ids: Int[Tensor, "r m"], step: Step) -> Float[Tensor, "r m width"]:
        """The sum of the vectors of a token's parts."""
        first, second = split_ids(ids, self.parts)
        return self.token_embedding[0](first) + self.token_embedding[1](second)

    def finish(self, x: Float[Tensor, "r n width"]) -> Float[Tensor, "r n width"]:
        """Nothing: the norm follows the blocks over the parts."""
        return x

    def within(
        self, hidden: Float[Tensor, "r n width"], chosen: Sequence[Int[Tensor, "r n"]]
    ) -> Float[Tensor, "r n width"]:
        """The blocks over the parts of each token.

        The first part has no keys and queries, as the class has none, so it sees its own value.
        """
        parts = (table(ids) for table, ids in zip(self.token_embedding, chosen, strict=False))
        x = torch.stack([hidden, *parts], dim=2).flatten(0, 1)  # (r n, parts, width)
        step = inner_step(1 + len(chosen), x.device)
        for block in self.inner_blocks:
            x = block(x, self.rotary(step), step, None) if chosen else block.prefix(x, None)[0]
        return self.norm(x[:, -1].unflatten(0, hidden.shape[:2]))

    def head(self, hidden: Float[Tensor, "r n width"]) -> Float[Tensor, "r n vocab"]:
        """Log-probabilities of whole tokens, every first part tried: for small vocabularies.

        Sampling and training go part by part; this is their slow twin.
        """
        first, second = self.heads
        before = first(self.within(hidden, [])).log_softmax(-1)
        rows = []
        for part in range(self.parts[0]):
            chosen = torch.full(hidden.shape[:2], part, device=hidden.device)
            after = second(self.within(hidden, [chosen])).log_softmax(-1)
            rows.append(after + before[..., part : part + 1])
        return torch.stack(rows, dim=-1).flatten(-2)


@lru_cache(maxsize=16)
def inner_step(count: int, device: torch.device) -> Step:
    """A pass over the first ``count`` parts of a token, each of which sees those before it."""
    with torch.inference_mode(False):  # a mask made while sampling may serve training later
        positions = torch.arange(count, device=device)
        mask: Any = positions[:, None] >= positions
    return Step(
        index=0,
        num_steps=1,
        scale=0,
        slots=positions,
        positions=positions,
        start=0,
        stop=count,
        cached=False,
        mask=mask,
        holds=positions,
    )
