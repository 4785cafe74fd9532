"""Condition annealing (CADS, arXiv 2310.17347): noise on the class embedding, less at each step.

Early steps see little of the class, late steps all of it, which gives back the variety that strong
guidance takes. It is no mix of logits but another condition at every step: the context is made
again, and where keys and values are kept, the rows of the first step are written anew, so that what
a step reads of the class is as noisy as the step itself (rows of image tokens stay as they were
written). The null rows of guidance stay what they are. Costs a pass over the prefix per noisy step.
"""

import copy
import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from arimage.ar.base import Backbone, Context, Step
from arimage.sampling.loop import Branch
from arimage.sampling.noise import PerImageNoise
from arimage.shapes import Float


class Annealing(ABC):
    """How much of the condition a step sees; subclasses are dataclasses."""

    @abstractmethod
    def strength(self, index: int, num_steps: int) -> float:
        """gamma at a step, 1 where the condition is whole."""

    @abstractmethod
    def mix(
        self, embeddings: Float[Tensor, "b c"], noise: Float[Tensor, "b c"], strength: float
    ) -> Float[Tensor, "b c"]:
        """The condition that a step of this strength sees; ``noise`` is standard normal."""


@dataclass(frozen=True)
class CADS(Annealing):
    """sqrt(gamma) e + noise_scale sqrt(1 - gamma) n, of e's mean and spread where rescaled.

    gamma grows linearly from 0 at time ``tau2`` to 1 at ``tau1``; time falls from 1 at the first
    step by 1 / num_steps per step (the paper's equation 4, whose time is that of diffusion).

    Attributes:
        tau1, tau2: 0 <= tau1 < tau2 <= 1; a smaller tau1 anneals longer.
        noise_scale: s of the paper, from 0.
        rescale: psi of the paper, from 0 to 1: the share of what is brought back to e's mean and
            standard deviation.

    Raises:
        ValueError: a number out of range.
    """

    tau1: float | int = 0.6
    tau2: float | int = 0.9
    noise_scale: float | int = 0.25
    rescale: float | int = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.tau1 < self.tau2 <= 1:
            raise ValueError(
                f"got tau1 {self.tau1} and tau2 {self.tau2}; expected 0 <= tau1 < tau2 <= 1"
            )
        if not (0 <= self.noise_scale < float("inf") and 0 <= self.rescale <= 1):
            raise ValueError(
                f"got noise_scale {self.noise_scale} and rescale {self.rescale}; expected a number "
                ">= 0 and one from 0 to 1"
            )

    def strength(self, index: int, num_steps: int) -> float:
        """As the class says."""
        if self.noise_scale == 0:
            return 1.0
        time = 1 - index / num_steps
        return min(max((self.tau2 - time) / (self.tau2 - self.tau1), 0.0), 1.0)

    def mix(
        self, embeddings: Float[Tensor, "b c"], noise: Float[Tensor, "b c"], strength: float
    ) -> Float[Tensor, "b c"]:
        """As the class says; mean and spread are each row's own."""
        kept, added = strength**0.5, self.noise_scale * (1 - strength) ** 0.5
        noisy = kept * embeddings + added * noise
        (mean, std), (old_mean, old_std) = moments(noisy), moments(embeddings)
        rescaled = (noisy - mean) / std * old_std + old_mean
        return self.rescale * rescaled + (1 - self.rescale) * noisy


def moments(rows: Float[Tensor, "b c"]) -> tuple[Float[Tensor, "b 1"], Float[Tensor, "b 1"]]:
    """Mean and standard deviation of each row."""
    return rows.mean(-1, keepdim=True), rows.std(-1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class AnnealedBranch(Branch):
    """A branch whose condition changes from step to step.

    Attributes:
        annealing: how.
        rows: class embeddings of the batch, (b, width) float32.
        null: the embedding of no class, (1, width).
        noise: of the batch; its images' own streams.
        begun: inputs of the first step and the step itself, once it was made.
    """

    annealing: Annealing
    rows: Tensor
    null: Tensor
    noise: PerImageNoise
    begun: list[tuple[Tensor | None, Step]] = field(default_factory=list)

    def hidden(self, inputs: Tensor | None, step: Step, batch: int) -> Float[Tensor, "r n width"]:
        """As every branch's, under the condition of this step."""
        index = int(step.index)
        before = self.annealing.strength(index - 1, step.num_steps) if index else 1.0
        strength = self.annealing.strength(index, step.num_steps)
        now = self if strength == 1 else self.at(index, strength)
        if not self.begun:
            self.begun.append((inputs, step))
        elif self.cache is not None and not strength == before == 1:
            Branch.hidden(now, *self.begun[0], batch)  # writes its rows anew
        return Branch.hidden(now, inputs, step, batch)

    def at(self, index: int, strength: float) -> "AnnealedBranch":
        """The branch with the condition of a noisy step; its cache is the same memory."""
        noise = self.noise.normal(self.rows.shape[1], index).to(self.rows)
        rows = self.annealing.mix(self.rows, noise, strength)
        if len(self.context.prefix) > len(rows):
            rows = torch.cat([rows, self.null.expand_as(rows)])
        return dataclasses.replace(self, context=context_of(self.model, rows))


def anneal(branch: Branch, labels: Any, annealing: Annealing, noise: Any) -> AnnealedBranch:
    """``branch`` under the annealed condition of its class labels, int64 (b,).

    Raises:
        ValueError: a model without a class embedding, or with a state of its own.
    """
    table = getattr(branch.model, "class_embedding", None)
    if not isinstance(table, nn.Embedding):
        raise ValueError(
            f"annealing puts noise on the class embedding and {type(branch.model).__name__} has "
            "none; leave annealing out"
        )
    if branch.model.new_cache(1, torch.device("meta")) is not None:
        raise ValueError(
            f"annealing writes the rows of the first step anew and {type(branch.model).__name__} "
            "keeps a state without rows; leave annealing out"
        )
    fields = {f.name: getattr(branch, f.name) for f in dataclasses.fields(branch)}
    with torch.no_grad():
        rows = table(labels).float()
        null = table.weight[branch.model.config.null_class :][:1].float()
    return AnnealedBranch(**fields, annealing=annealing, rows=rows, null=null, noise=noise)


@torch.no_grad()
def context_of(model: Backbone, embeddings: Float[Tensor, "r c"]) -> Context:
    """The context of class embeddings in place of labels: a row of its own for each.

    ``prepare`` runs on a copy of the model that shares everything but the table of classes, and
    keeps no tables for later steps, which will have another condition.
    """
    view = copy.copy(model)
    table = nn.Embedding.from_pretrained(embeddings.to(model.dtype))
    view.__dict__["_modules"] = {**model._modules, "class_embedding": table}
    view.keeps_tables = False
    return view.prepare(torch.arange(len(embeddings), device=embeddings.device))
