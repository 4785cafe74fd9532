"""Two reports side by side: refused unless they were made by one protocol."""

import math
from dataclasses import dataclass

from arimage.eval.report import Report


@dataclass(frozen=True)
class Difference:
    """A metric of two reports, and the standard error of b - a where both values have one."""

    name: str
    a: float
    b: float
    standard_error: float | None

    @property
    def value(self) -> float:
        """b - a."""
        return self.b - self.a


def compare(a: Report, b: Report, *, force: bool = False) -> list[Difference]:
    """What changed from ``a`` to ``b``, for every metric that both have.

    Raises:
        ValueError: reports of different protocols, unless ``force``; no metric in common.
    """
    found = conflicts(a, b)
    if found and not force:
        raise ValueError(
            f"the reports cannot be compared: {'; '.join(found)}. Score both by one protocol, or "
            "force it and do not read much into it"
        )
    names = [name for name in a if name in b]
    if not names:
        raise ValueError(f"no metric in common: {', '.join(a)} and {', '.join(b)}")
    return [_difference(name, a, b) for name in names]


def conflicts(a: Report, b: Report) -> list[str]:
    """In what two reports' protocols differ, apart from the model."""
    pairs = {
        "protocol": (a.protocol.name, b.protocol.name),
        "number of images": (a.protocol.count, b.protocol.count),
        "image size": (a.protocol.size, b.protocol.size),
        "features": (a.protocol.features, b.protocol.features),
    }
    for name in (name for name in a if name in b):
        one, two = a[name], b[name]
        pairs[f"features of {name}"] = (one.features, two.features)
        pairs[f"settings of {name}"] = (one.settings, two.settings)
    for key in ("labels", "rounding"):
        pairs[key] = (a.protocol.settings.get(key), b.protocol.settings.get(key))
    for role in sorted(a.protocol.references.keys() | b.protocol.references.keys()):
        hashes = [r.protocol.references.get(role, {}).get("sha256") for r in (a, b)]
        pairs[f"{role} set (sha256)"] = tuple(h and h[:12] for h in hashes)
    return [f"{what} {one} and {two}" for what, (one, two) in pairs.items() if one != two]


def _difference(name: str, a: Report, b: Report) -> Difference:
    errors = [report[name].standard_error for report in (a, b)]
    known = None if None in errors else math.hypot(*(e for e in errors if e is not None))
    return Difference(name, a[name].value, b[name].value, known)
