"""Records of what made the files of a folder, compared before a run goes on there."""

from collections.abc import Sequence
from typing import Any


def flatten(values: Any, place: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}; lists stay values."""
    if not isinstance(values, dict):
        return {
            place: list(values)
            if isinstance(values, Sequence) and not isinstance(values, str)
            else values
        }
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flatten(value, f"{place}.{name}" if place else name)
    return found


def changed(
    old: dict[str, Any], new: dict[str, Any], uncompared: tuple[str, ...] = ()
) -> dict[str, tuple[Any, Any]]:
    """Key -> (old value, new value) of what differs; ``uncompared`` are beginnings of keys."""
    before, now = flatten(old), flatten(new)
    return {
        key: (before.get(key), now.get(key))
        for key in dict.fromkeys([*before, *now])
        if not key.startswith(uncompared) and before.get(key) != now.get(key)
    }
