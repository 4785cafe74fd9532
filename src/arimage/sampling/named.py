"""Objects of a registry, given by name, by a text or record with options, or as they are."""

import json
from dataclasses import asdict, fields
from typing import Any, TypeVar

from arimage.registry import Registry, unknown_name

T = TypeVar("T")


def make_named(registry: Registry[type[T]], base: type[T], given: Any) -> T:
    """The object that ``given`` means; its class is a dataclass, whose fields are its options.

    Args:
        registry: where names are looked up.
        base: what an object that is given as it is must be.
        given: such an object; ``{"name": "interval", "first": 1}``; or a text, ``"interval"`` or
            ``"interval first=1 last=2"``, the values as JSON writes them.

    Raises:
        KeyError: an unknown name or option, with the nearest known ones.
        ValueError: a text that cannot be read, or what the class refuses.
    """
    if isinstance(given, base):
        return given
    options = words(registry.kind, given) if isinstance(given, str) else dict(given)
    name = str(options.pop("name", ""))
    cls = registry[name]
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise KeyError(unknown_name(f"option of the {registry.kind} {name!r}", option, known))
    return cls(**options)


def words(kind: str, text: str) -> dict[str, Any]:
    """ "interval first=1 last=2" as a record."""
    name, *pairs = text.split() or [""]
    found: dict[str, Any] = {"name": name}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        try:
            if not equals:
                raise ValueError("no =")
            found[option] = json.loads("null" if value in ("none", "None") else value)
        except ValueError as error:
            raise ValueError(
                f"got {pair!r} in the {kind} {text!r}; write options as name=value without spaces, "
                "for example 'interval first=1 last=2'"
            ) from error
    return found


def record_of(registry: Registry[type[T]], made: T) -> dict[str, Any]:
    """The name and the options of an object; ``make_named`` reads them.

    Raises:
        ValueError: one whose class is not registered.
    """
    for name in registry:
        if registry[name] is type(made):
            return {"name": name, **asdict(made)}  # type: ignore[call-overload]
    raise ValueError(
        f"{type(made).__name__} is not a registered {registry.kind}; add it to the registry, so "
        "that its settings can be saved"
    )
