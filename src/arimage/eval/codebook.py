"""How much of a codebook a set of tokens uses."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from arimage.eval.base import Score

ENOUGH = 20  # tokens per code; of fewer, codes that are merely rare look unused


@dataclass(frozen=True)
class CodebookUse:
    """``share`` of the codes that occur at all, in [0, 1]; ``perplexity``, exp of the entropy of
    their frequencies (nats): vocab_size when all are equally frequent, 1 when one is used."""

    share: float
    perplexity: float


class CodeCounter:
    """Counts the ids of a stream of tokens; ``merge`` adds those of another process."""

    def __init__(self, vocab_size: int) -> None:
        self.counts = np.zeros(vocab_size, dtype=np.int64)

    def add(self, ids: Any) -> None:
        """Counts ids of any shape (array or tensor).

        Raises:
            ValueError: no ids, ids that are not integers in [0, vocab_size).
        """
        flat = np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids).ravel()
        if not flat.size or flat.dtype.kind not in "iu":
            raise ValueError(
                f"got {flat.size} ids of type {flat.dtype}; expected integers, at least 1"
            )
        size = len(self.counts)
        if flat.min() < 0 or flat.max() >= size:
            raise ValueError(
                f"got ids from {flat.min()} to {flat.max()}; vocab_size {size} allows 0 to "
                f"{size - 1}"
            )
        self.counts += np.bincount(flat, minlength=size)

    def merge(self, other: "CodeCounter") -> None:
        """Adds the counts of ``other``; ValueError when its codebook has another size."""
        if len(other.counts) != len(self.counts):
            raise ValueError(
                f"cannot merge counts of {len(other.counts)} codes into {len(self.counts)}; count "
                "the ids of one codebook"
            )
        self.counts += other.counts

    @property
    def use(self) -> CodebookUse:
        """The use so far; ValueError before the first id."""
        total = self.counts.sum()
        if not total:
            raise ValueError("the code counter has seen no id; call add first")
        used = self.counts[self.counts > 0] / total
        entropy = -(used * np.log(used)).sum()
        return CodebookUse(share=len(used) / len(self.counts), perplexity=float(np.exp(entropy)))

    def few(self) -> list[str]:
        """A sentence where fewer than 20 tokens a code were counted."""
        tokens, codes = int(self.counts.sum()), len(self.counts)
        if tokens >= ENOUGH * codes:
            return []
        return [
            f"{tokens} tokens are fewer than {ENOUGH} for each of {codes} codes: codebook_share "
            "and codebook_perplexity would be higher for more images"
        ]

    def scores(self, count: int) -> list[Score]:
        """``codebook_share`` and ``codebook_perplexity`` of the tokens of ``count`` images."""
        use, size = self.use, float(len(self.counts))
        details = {"vocab_size": size, "tokens": float(self.counts.sum())}
        return [
            Score(
                name=f"codebook_{part}",
                value=getattr(use, part),
                higher_is_better=True,
                count=count,
                details=details,
            )
            for part in ("share", "perplexity")
        ]


def codebook_use(ids: Any, vocab_size: int) -> CodebookUse:
    """How much of a codebook a set of token ids uses; ids of any shape (array or tensor).

    Raises:
        ValueError: as ``CodeCounter.add``.
    """
    counter = CodeCounter(vocab_size)
    counter.add(ids)
    return counter.use
