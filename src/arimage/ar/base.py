"""The contracts between a transformer, the order it is run in and the loop that runs it.

A *sequence* is the prefix (class, text) followed by one position per token that is fed back. A
*step* is one pass of the model: the positions it embeds, the cache rows it writes, what it may
see, and the slots it predicts. Unknown tokens have id -1 everywhere.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from arimage.ar.config import BackboneConfig
from arimage.ar.linear import are_few, pack, unpack
from arimage.ar.parts import InParts
from arimage.ar.quantized import Quantizable
from arimage.pretrained import ArimageModel
from arimage.shapes import Bool, Float, Int
from arimage.slots import SlotTable

C = TypeVar("C", bound="Context")

UNKNOWN = -1
NO_SLOT = -1
PREFIX, CONTENT, QUERY = 0, 1, 2


@dataclass(frozen=True)
class Descriptors:
    """What a context rule may know of sequence positions; one entry per position.

    kind: PREFIX, CONTENT or QUERY (no token of the image); group: which step reads it first (the
    prefix is group 0); rank: its place inside the group; row, column: its place in the token map.
    """

    kind: Int[Tensor, " n"]
    group: Int[Tensor, " n"]
    rank: Int[Tensor, " n"]
    row: Int[Tensor, " n"]
    column: Int[Tensor, " n"]

    def part(self, start: int, stop: int) -> "Descriptors":
        """Positions start..stop-1."""
        fields = (f.name for f in dataclasses.fields(self))
        return Descriptors(**{name: getattr(self, name)[start:stop] for name in fields})

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True)
class Step:
    """One pass of the model over positions start..stop-1.

    Attributes:
        index, num_steps: which step of how many; the index is a tensor where ``moves``.
        scale: token map of the predicted slots.
        slots: (n,) slots predicted; their logits come from the last n positions, or from those
            that ``reads`` names. Where images are in different orders: (b, n).
        positions: (m,) sequence positions embedded.
        start, stop: the same as a range; position 0 to prefix_length-1 come from the context.
        cached: whether keys and values are written to rows start..stop-1 of the cache.
        mask: (m, visible) True where a position may see another; None where it may see all. A model
            may hand its blocks numbers to add to scores instead, (r, 1, m, visible); a trainer, the
            same rule in blocks (block_mask.py).
        holds: (m,) or (b, m) slot whose place in the image each position has; NO_SLOT in the
            prefix.
        reads: (n,) or (b, n) which of the m positions give logits; None for the last n.
        scattered: rows of the cache are written at ``positions``, (m,) or (b, m), which are not in
            a row; start is above 0 and stop as ever.
    """

    index: int | Tensor
    num_steps: int
    scale: int
    slots: Tensor
    positions: Tensor
    start: int
    stop: int
    cached: bool
    mask: Tensor | BlockMask | None
    holds: Tensor
    reads: Tensor | None = None
    scattered: bool = False
    ahead: bool = False  # whether its tokens are those of as many steps, from ``index`` on
    moves: ClassVar[bool] = False  # whether its place is in tensors alone, not in start and stop

    def take(self, table: Tensor) -> Tensor:
        """The step's rows of a table that has one for every position."""
        return table[self.start : self.stop]

    @property
    def predicts(self) -> int:
        """How many positions give logits."""
        return self.slots.shape[-1]

    def read(self, x: Float[Tensor, "r m c"]) -> Float[Tensor, "r n c"]:
        """The rows of ``x`` whose positions give logits."""
        if self.reads is None:
            return x[:, -self.predicts :]
        if self.reads.ndim == 1:
            return x[:, self.reads]
        return x.gather(1, self.reads.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    def tiled(self, copies: int) -> "Step":
        """The same step for ``copies`` batches, one after the other."""
        names = ("slots", "holds", "reads", "positions")
        names = [name for name in names if per_image(getattr(self, name))]
        return dataclasses.replace(self, **{n: getattr(self, n).repeat(copies, 1) for n in names})


@dataclass(frozen=True)
class Known:
    """Tokens that are given: ids (b, num_slots), mask (b, num_slots) True where given."""

    ids: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.ids.shape != self.mask.shape or self.mask.dtype != torch.bool:
            raise ValueError(
                f"got known ids of shape {tuple(self.ids.shape)} and a {self.mask.dtype} mask of "
                f"shape {tuple(self.mask.shape)}; expected one shape and a bool mask"
            )

    def part(self, rows: slice) -> "Known":
        """Some images of the batch."""
        return Known(self.ids[rows], self.mask[rows])

    def to(self, device: torch.device | str) -> "Known":
        """The same on another device."""
        return Known(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class State:
    """Where a generation stands.

    ids (b, num_slots), UNKNOWN where not chosen; canvas (b, c, h, w), what the chosen tokens add
    up to; step, passes done; known, tokens that were given; path (b, num_slots), the order of each
    image, where it has one of its own; broken (), the first step whose logits had NaN or infinity.
    """

    ids: Tensor
    canvas: Tensor
    step: int
    known: Known | None = None
    path: Tensor | None = None
    broken: Tensor | None = None


@dataclass(frozen=True)
class Draw:
    """What a sampler chose: ids (b, n) and their log-probabilities after truncation (b, n).

    weights (b, n, vocab), if given: the codes are mixed by them instead of looked up by ids.
    """

    ids: Tensor
    log_probs: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True)
class Lesson:
    """Teacher forcing: inputs, targets (b, n), which count (b, n), and the one uncached step."""

    inputs: Tensor
    targets: Tensor
    counts: Tensor
    step: Step


@runtime_checkable
class Noise(Protocol):
    """Random draws of a batch of images. A step draws a fixed amount whatever the data say."""

    batch: int

    def __init__(self, seeds: Sequence[int], device: torch.device | str) -> None: ...

    def labels(self, num_classes: int) -> list[int]:
        """A class label per image."""

    def choose(
        self, probabilities: Float[Tensor, "b n v"], kept: int | None = None
    ) -> Int[Tensor, "b n"]:
        """One exact draw from each row of probabilities, of which the ``kept`` largest are left."""

    def argmax(self, logits: Float[Tensor, "b n v"], heat: float) -> Int[Tensor, "b n"]:
        """The largest of logits + heat * Gumbel noise in each row."""

    def gumbel(self, count: int, inverse: bool = False) -> Float[Tensor, "b n"]:
        """``count`` standard Gumbel numbers per image; ``inverse``: as published masked models."""

    def permutations(self, count: int, shared: bool = False) -> Int[Tensor, "b n"]:
        """A random permutation of 0..count-1 for each image; ``shared``: one where streams are."""

    def integers(self, count: int) -> Int[Tensor, " b"]:
        """One of 0..count-1 for each image."""

    def among(self, places: Tensor, total: int) -> "Noise":
        """The same stream for ``places`` where published code draws at all ``total`` of them."""

    def apart(self) -> "Noise":
        """The same stream for ``Backbone.draws_apart``."""

    def skip(self, count: int) -> None:
        """Passes over ``count`` uniform numbers per image, which published code draws unused."""


@runtime_checkable
class Cache(Protocol):
    """What a model remembers of earlier steps: a frozen dataclass of tensors, written in place.

    A step may be run again before the next one (captures do) and must leave the same behind.
    """

    def rows(self, count: int) -> "Cache":
        """The same memory for the first ``count`` rows of the batch."""


@runtime_checkable
class KeyValueCache(Cache, Protocol):
    """What attention remembers of earlier steps."""

    def update(
        self,
        layer: int,
        step: Step,
        keys: Float[Tensor, "r h m d"],
        values: Float[Tensor, "r h m d"],
    ) -> tuple[Tensor, Tensor]:
        """Writes rows start..stop-1 and returns all rows up to stop: (r, h, stop, d) each."""


@dataclass(frozen=True)
class CacheShape:
    """What a model needs of a key-value cache."""

    layers: int
    heads: int
    head_dim: int


@dataclass(frozen=True)
class Context:
    """All that depends on the condition alone, made once per call; every tensor has rows first.

    prefix: (r, prefix_length, width) embeddings of the first positions.
    """

    prefix: Tensor

    def rows(self: C, count: int) -> C:
        """The first ``count`` rows."""
        fields = (f.name for f in dataclasses.fields(self))
        return type(self)(**{name: getattr(self, name)[:count] for name in fields})


class Backbone(Quantizable, InParts, ArimageModel):
    """Base of all transformers that predict image tokens.

    Invariant, tested for every registered model: the full forward under the order's decoding rule
    equals the incremental cached decode.
    """

    main_input_name = "inputs"
    prefix_length: ClassVar[int] = 1
    takes_text: ClassVar[bool] = False
    unused_draws: ClassVar[int] = 0  # uniform numbers per image, before the first token
    pass_draws: ClassVar[int] = 0  # the same, at each pass, with a class and without one
    draws_apart: ClassVar[bool] = False  # published code draws the tokens of a step one by one
    opening_width: int = 0  # of its first step's result, where that follows from the class alone
    keeps_tables: bool = True  # whether ``prepare`` makes tables for all steps (sampling/cads.py)
    config: BackboneConfig

    @property
    @abstractmethod
    def slots(self) -> SlotTable:
        """The slots of one image that the model was built for."""

    def at(self, grids: Sequence[tuple[int, int]]) -> Any:
        """The same weights over other token maps, for models that can.

        Raises:
            ValueError: the maps, or any, cannot be had.
        """
        raise ValueError(
            f"got token maps {list(grids)}; a {type(self).__name__} has learned the places of "
            f"{list(self.slots.grids)} and runs over these alone: leave scales out, or take a "
            "model for any scales, such as flexvar-d16"
        )

    @property
    def code_dim(self) -> int | None:
        """Dimension of the codes that it reads; None for models that read ids."""
        return None

    @property
    def num_choices(self) -> int:
        """Logits of one row of the head: the vocabulary, as a rule."""
        return self.config.vocab_size

    @property
    def order_options(self) -> dict[str, Any]:
        """What its order must be told of it, besides the length of the prefix."""
        return {}

    @property
    def cache_shape(self) -> CacheShape:
        """Layers, heads and head_dim of the key-value cache."""
        return CacheShape(self.config.depth, self.config.num_heads, self.config.head_dim)

    def new_cache(self, rows: int, device: torch.device) -> Cache | None:
        """A memory of the model's own kind, or None; steps come in order, from ``start`` 0 on."""
        return None

    @property
    def prefix_rows(self) -> int:
        """Rows of width that the first step computes for one condition; for estimates of memory."""
        return self.prefix_length

    @property
    def table_bytes(self) -> tuple[int, int]:
        """Bytes that ``prepare`` keeps for each distinct condition, and the most for all of them.

        What it keeps for each row is small and not counted.
        """
        return 0, 0

    @abstractmethod
    def prepare(self, condition: Any) -> Context:
        """All that depends on the condition alone: class labels, int64 (r,), or, where
        ``takes_text``, ``text.TextFeatures``.
        """

    def settled(self, context: Any) -> Any:
        """A context whose shapes follow from its number of rows alone, for captured steps."""
        return context

    def with_null(self, condition: Any) -> Any:
        """The rows of a condition, then as many that ask for nothing, which guidance needs."""
        return torch.cat([condition, torch.full_like(condition, self.config.null_class)])

    def nothing(self) -> Any:
        """A condition of one row that asks for nothing."""
        return torch.tensor([self.config.null_class], device=self.device)

    @abstractmethod
    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """One step. ``inputs`` is what the order feeds (None when only the prefix is embedded).

        Returns the normalised hidden states of the last ``step.predicts`` positions.
        """

    @abstractmethod
    def head(self, hidden: Float[Tensor, "r n width"]) -> Float[Tensor, "r n vocab"]:
        """Hidden states to logits; affine, so that guidance may be mixed before it."""

    def pack(self, rows: int) -> None:
        """Has the weights in the order that steps of ``rows`` read fastest; see ar/linear.py."""
        (unpack if are_few(rows, self.dtype) else pack)(self)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """As every module's; packed weights are put back first."""
        unpack(self)
        return super().named_parameters(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Of the first parameter, packed or not."""
        return self._first_parameter().device

    @property
    def dtype(self) -> torch.dtype:
        """Of the first parameter, packed or not."""
        return self._first_parameter().dtype

    def _first_parameter(self) -> nn.Parameter:
        return next(super().named_parameters())[1]


def per_image(places: Tensor | None) -> bool:
    """Whether every image of a step has places of its own, a row each."""
    return places is not None and places.ndim == 2


def may_see(mask: Bool[Tensor, "m n"]) -> Tensor | None:
    """The mask, or None where everything is visible (attention is faster without one)."""
    return None if bool(mask.all()) else mask
