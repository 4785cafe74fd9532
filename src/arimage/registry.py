"""Registry: a lazy table from a name to the class behind it."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
LISTED = 20  # names at most, when an error lists what is known


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """One sentence for a name nobody registered: what came, the nearest known names, all."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    listed = ", ".join(names) if len(names) <= LISTED else f"{len(names)} names"
    return f"unknown {kind} {name!r}.{hint} Known: {listed}"


class Registry(Generic[T]):
    """Maps names to objects given as ``"module:attribute"``, imported when first asked for.

    ``registry[name]`` raises KeyError with the nearest known names; ``add`` raises ValueError for
    a name that is taken.
    """

    def __init__(self, kind: str, table: dict[str, str]) -> None:
        self.kind = kind
        self._table: dict[str, str] = {}
        for name, target in table.items():
            self.add(name, target)

    def add(self, name: str, target: str) -> None:
        """Register ``name`` for ``"module:attribute"``."""
        if name in self._table:
            raise ValueError(
                f"{self.kind} {name!r} is already registered as {self._table[name]}; "
                "choose another name"
            )
        if target.count(":") != 1:
            raise ValueError(f"got target {target!r} for {self.kind} {name!r}; give 'module:Class'")
        self._table[name] = target

    def __getitem__(self, name: str) -> T:
        if name not in self._table:
            raise KeyError(unknown_name(self.kind, name, self._table))
        module, attribute = self._table[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)
