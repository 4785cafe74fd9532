"""The task of training a tokenizer: its turn, its critic's turn, then one codebook update.

The update is from all rows of the step, whatever scales, micro-batches and processes they are of.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from arimage.eval.codebook import CodeCounter
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.common import Loss, Recipe
from arimage.training.loop import Moment, Player
from arimage.training.losses.adversarial import LeCam, critic_loss
from arimage.training.objective import RECONSTRUCTION, Adversary, Images, Objective
from arimage.training.processes import gathered, rank

PARTS = {  # of a tokenizer that can be frozen, and their modules
    "encoder": ("encoder", "pre_quant"),
    "codebook": ("quantizer", "phi"),
    "decoder": ("post_quant", "decoder"),
}
TOKENS_PER_CODE = 20  # what codebook use is counted over
TOKENIZER, CRITIC = "tokenizer", "critic"


@dataclass(frozen=True)
class Rates:
    """The recipes of both optimizers; the critic's is not used without one."""

    tokenizer: Recipe
    critic: Recipe


class TokenizerTask:
    """Trains a tokenizer in place, with or without a critic.

    Args:
        objective: the tokenizer and its losses.
        adversary: as in the objective.
        rates: of the optimizers.
        parts: of the tokenizer that are trained, of ``PARTS``; the others keep every bit.

    Raises:
        ValueError: a part that does not exist, an adaptive weight on a frozen decoder or without a
            reconstruction loss.
    """

    def __init__(
        self,
        objective: Objective,
        adversary: Adversary | None,
        rates: Rates,
        parts: Sequence[str] = tuple(PARTS),
    ) -> None:
        self.adversary = adversary
        self.model: ImageTokenizer = objective.tokenizer
        freeze_all_but(self.model, parts)
        self.updates_codebook = "codebook" in parts
        if adversary is not None and adversary.adaptive and "decoder" not in parts:
            raise ValueError(
                f"got parts {list(parts)} with an adaptive adversarial weight, which is measured "
                "at the decoder; train the decoder too, or set adversarial.adaptive=false"
            )
        if adversary is not None and adversary.adaptive and not objective.reconstructs:
            raise ValueError(
                "got an adaptive adversarial weight without a loss that it is balanced with; give "
                f"one of {', '.join(RECONSTRUCTION)}, or set adversarial.adaptive=false"
            )
        self.players = [Player(TOKENIZER, objective, rates.tokenizer)]
        if adversary is not None:
            self.players.append(Player(CRITIC, adversary.critic, rates.critic))
        self.lecam = LeCam(adversary.lecam if adversary else 0.0).to(self.model.device)
        self.window = CodeCounter(self.model.config.vocab_size)
        self.share: float | None = None  # of the codes, in the last full window
        self._rows: list[Tensor] = []
        self._ids: list[Tensor] = []

    def split(self, batch: Images, count: int) -> Sequence[Images]:
        """Micro-batches; what the last step gathered is forgotten."""
        self._rows, self._ids = [], []
        if len(batch.index) % count:
            raise ValueError(
                f"got {len(batch.index)} images per process and step and {count} micro-batches; "
                "choose a batch size that they divide"
            )
        pairs = zip(batch.images.chunk(count), batch.index.chunk(count), strict=True)
        return [Images(*pair) for pair in pairs]

    @torch.no_grad()
    def start(self, batch: Images, seed: int) -> None:
        """Starts an untrained codebook from the first batch; leaves a trained one alone."""
        if self.updates_codebook:
            latents = [self.model.encode_latents(x[None]) for x in batch.images]
            rows = self.model.eval().quantize(torch.cat(latents).float()).rows
            torch.manual_seed(seed)
            self.model.quantizer.start(gathered(rows).flatten(0, 1))

    def turns(
        self, modules: dict[str, nn.Module], batch: Images, moment: Moment
    ) -> Iterator[tuple[str, Loss]]:
        """The tokenizer's turn; from the adversary's start on also the critic's."""
        torch.manual_seed(moment.seed + rank())
        adversary = self.adversary
        if adversary is not None:
            adversary.critic.requires_grad_(False)
        loss, seen = modules[TOKENIZER](batch, moment)
        yield TOKENIZER, loss
        self._rows.append(seen.encoding.rows)
        self._ids.append(seen.encoding.ids)
        if adversary is not None and moment.step >= adversary.start:
            adversary.critic.requires_grad_(True)
            yield CRITIC, self._critic_loss(modules[CRITIC], batch.images, seen.output.detach())

    def _critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Loss:
        assert self.adversary is not None
        real_logits, fake_logits = critic(real), critic(fake)
        loss = critic_loss(self.adversary.kind, real_logits, fake_logits)
        means = {
            "real logits": real_logits.float().mean(),
            "fake logits": fake_logits.float().mean(),
        }
        return Loss(loss + self.lecam(real_logits, fake_logits), means)

    @torch.no_grad()
    def after(self, moment: Moment) -> dict[str, Tensor]:
        """One codebook update; the perplexity of the step's ids and the codebook's use.

        The use is the share of codes that occurred among the last window of ``TOKENS_PER_CODE``
        tokens per code; before that is full, among all so far.
        """
        ids = gathered(torch.cat(self._ids))
        if self.updates_codebook:
            torch.manual_seed(moment.seed)
            self.model.quantizer.update(gathered(torch.cat(self._rows)).flatten(0, 1))
        step = CodeCounter(len(self.window.counts))
        step.add(ids)
        self.window.merge(step)
        full = self.window.counts.sum() >= TOKENS_PER_CODE * len(step.counts)
        use = self.window.use.share if full or self.share is None else self.share
        if full:
            self.share, self.window = use, CodeCounter(len(step.counts))
        return {"perplexity": torch.tensor(step.use.perplexity), "codebook use": torch.tensor(use)}

    def state_dict(self) -> dict[str, Any]:
        """Of the quantizer's counts, the window of use and LeCAM."""
        return {
            "quantizer": self.model.quantizer.training_state(),
            "window": torch.from_numpy(self.window.counts),
            "share": self.share,
            "lecam": self.lecam.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse."""
        self.model.quantizer.load_training_state(state["quantizer"])
        self.share = state["share"]
        self.window.counts = state["window"].numpy().copy()
        self.lecam.load_state_dict(state["lecam"])


def freeze_all_but(tokenizer: ImageTokenizer, parts: Sequence[str]) -> None:
    """Parameters of other parts get no gradient, nor does a phi that no token map uses: several
    processes would wait for it.

    Raises:
        ValueError: no part, or an unknown one.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ValueError(f"got parts {list(parts)} to train; expected some of {', '.join(PARTS)}")
    tokenizer.requires_grad_(False)
    for part in parts:
        for name in PARTS[part]:
            if hasattr(tokenizer, name):
                getattr(tokenizer, name).requires_grad_(True)
    for k, phi in enumerate(getattr(tokenizer, "phi", ())):
        if k not in tokenizer.phi_of_scale:
            phi.requires_grad_(False)
