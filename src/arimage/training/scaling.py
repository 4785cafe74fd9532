"""Power laws of the validation loss, L = (beta X)^alpha, fitted over runs of different sizes.

X is N, the parameters without embedding tables (arXiv 2001.08361), or C, the FLOPs of training so
far, along the Pareto frontier: what no other run reaches with as little compute (VAR, arXiv
2404.02905 section 4.3).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from arimage.shapes import Float
from arimage.training.run_records import VALIDATION, VALIDATION_SCALE, RunRecord

FEWEST = 3  # points of a fit: two always lie on a line
FLAT = 1e-9  # relative; below it losses are equal but for rounding
PARAMETERS, COMPUTE = "N", "C"


@dataclass(frozen=True)
class Law:
    """L = (beta X)^alpha.

    Attributes:
        x: "N" or "C".
        loss: what was measured.
        alpha, factor: least squares of log L over log X; L = factor X^alpha.
        r: Pearson's correlation of log L and log X; -1 is a perfect law.
        points: that were fitted.
    """

    x: str
    loss: str
    alpha: float
    factor: float
    r: float
    points: int

    def at(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The loss at these X."""
        return self.factor * x**self.alpha

    @property
    def beta(self) -> float:
        """As in (beta X)^alpha; 0 or infinity where a flat law leaves the range of floats."""
        with np.errstate(over="ignore", under="ignore"):
            return float(np.exp(np.log(self.factor) / self.alpha))

    def label(self) -> str:
        """For a legend."""
        law = f"L = ({self.beta:.2g} {self.x})$^{{{self.alpha:.3f}}}$"
        if not 0 < self.beta < np.inf:
            law = f"L = {self.factor:.3g} {self.x}$^{{{self.alpha:.2g}}}$"
        return f"{law}, r = {self.r:.3f}, {self.points} points"


@dataclass(frozen=True)
class Group:
    """Runs that are points of one law, smallest first; ``losses``: what is fitted."""

    name: str
    runs: list[RunRecord]
    losses: list[str]


def fit_law(
    x: Float[np.ndarray, " n"], losses: Float[np.ndarray, " m"], symbol: str, loss: str
) -> Law:
    """Least squares in log-log.

    Raises:
        ValueError: fewer than three different X, numbers that are not above 0, equal losses.
    """
    from scipy.stats import linregress

    if len(set(x.tolist())) < FEWEST:
        raise ValueError(f"got {len(set(x.tolist()))} different {symbol}; a law needs {FEWEST}")
    if not (x > 0).all() or not (losses > 0).all():
        raise ValueError(f"got {symbol} or losses that are not above 0; a power law has none")
    if np.ptp(losses) < FLAT * losses.max():
        raise ValueError(f"got the same loss for every {symbol}; there is no law in it")
    line = linregress(np.log(x), np.log(losses))
    factor = float(np.exp(line.intercept))
    return Law(symbol, loss, float(line.slope), factor, float(line.rvalue), len(x))


def frontier(
    compute: Float[np.ndarray, " n"], losses: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """(C, L) of the points that none with as little compute undercuts, by growing compute."""
    order = np.lexsort((losses, compute))
    compute, losses = compute[order], losses[order]
    best = np.minimum.accumulate(losses)
    kept = losses < np.concatenate([[np.inf], best[:-1]])
    return compute[kept], losses[kept]


def group_runs(runs: Sequence[RunRecord]) -> tuple[list[Group], list[str]]:
    """Groups of at least three comparable runs, and sentences on what is in none."""
    left, alike = [], {}
    for run in runs:
        if not run.is_generator:
            continue
        cost, validated = run.record.get("cost"), len(run.curve(VALIDATION)[0])
        if not cost or not validated or not run.finished:
            why = "has no cost in run.json" if not cost else "has no validation loss"
            left.append(f"{run.name} {why if not cost or not validated else 'is not finished'}")
        else:
            alike.setdefault(run.same_law(), []).append(run)
    groups = []
    if len(alike) > 1:
        left.append(
            f"the runs differ in family, order, tokens or held-out images: {len(alike)} groups, "
            "each with a law of its own"
        )
    for key, members in alike.items():
        if len(members) < FEWEST:
            names = ", ".join(run.name for run in members)
            left.append(f"{names}: {len(members)} comparable runs, a law needs {FEWEST}")
            continue
        members.sort(key=parameters)
        maps = [k for k in members[0].keys if k.startswith(VALIDATION_SCALE)]
        groups.append(Group(group_name(key, members), members, [*maps[-1:], VALIDATION]))
    return groups, left


def group_name(key: tuple[str, ...], members: Sequence[RunRecord]) -> str:
    """Family and data, for a title."""
    data = (members[0].record.get("data") or {}).get("name", "")
    return " on ".join(word for word in (key[0], data) if word)


def parameters(run: RunRecord) -> float:
    """N."""
    return float(run.record["cost"]["parameters_without_embeddings"])


def compute_curve(run: RunRecord, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """(C, L) at every validation."""
    steps, values = run.curve(loss)
    return steps * float(run.record["cost"]["flops_per_step"]), values


def laws(group: Group) -> tuple[list[Law], list[str]]:
    """Over N and over C, for each loss; and sentences on those that cannot be fitted."""
    found, left = [], []
    for loss in group.losses:
        sizes = np.asarray([parameters(run) for run in group.runs])
        final = np.asarray([run.curve(loss)[1][-1] for run in group.runs])
        curves = [compute_curve(run, loss) for run in group.runs]
        front = frontier(*(np.concatenate(part) for part in zip(*curves, strict=True)))
        for symbol, x, values in ((PARAMETERS, sizes, final), (COMPUTE, *front)):
            try:
                found.append(fit_law(x, values, symbol, loss))
            except ValueError as error:
                left.append(f"{group.name}, {loss} over {symbol}: {error}")
    return found, left


def to_json(group: Group, found: Sequence[Law]) -> dict[str, Any]:
    """Names of the runs and the laws, for the last line."""
    return {
        "group": group.name,
        "runs": [run.name for run in group.runs],
        "laws": [{**asdict(law), "beta": law.beta} for law in found],
    }
