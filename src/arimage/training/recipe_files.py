"""Recipes as YAML files: read, changed by ``--set``, built into dataclasses field by field.

An unknown field is an error that names the nearest ones, a value of another type one that names
the field. Packaged files have names; a file of one's own has a path that ends with .yaml.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, get_args, get_origin

import yaml

from arimage.registry import unknown_name

SUFFIXES = (".yaml", ".yml")
NO_CLASSES: Mapping[str, Any] = {}


def packaged_names(folder: str) -> list[str]:
    """Names of the recipes in a folder of ``arimage/training``."""
    files = resources.files("arimage.training").joinpath(folder).iterdir()
    return sorted(file.name[:-5] for file in files if file.name.endswith(".yaml"))


def read_packaged(name: str, folder: str) -> dict[str, Any]:
    """Fields of a packaged recipe; KeyError for an unknown one, with the nearest."""
    known = packaged_names(folder)
    if name not in known:
        raise KeyError(unknown_name("recipe", name, known))
    file = resources.files("arimage.training").joinpath(folder).joinpath(f"{name}.yaml")
    return parsed(file.read_text(encoding="utf-8"), name)


def read_own(path: str | Path) -> dict[str, Any]:
    """Fields of a recipe in a file of one's own."""
    return parsed(Path(path).read_text(encoding="utf-8"), str(path))


def parsed(text: str, name: str) -> dict[str, Any]:
    """YAML text to fields; ValueError where it is none."""
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is no YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{name} holds {type(fields).__name__}; expected fields and values")
    return fields


def change_fields(fields: dict[str, Any], changes: Sequence[str]) -> None:
    """Applies changes like "optimizer.learning_rate=1e-4" in turn, in place.

    Raises:
        ValueError: a change without a value, or inside of something that has no fields.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"got {change!r}; write a field and its value: steps=1000")
        _set(fields, path.strip().split("."), _value(text, change), change)


def build(cls: Any, fields: Any, classes: Mapping[str, Any] = NO_CLASSES, place: str = "") -> Any:
    """A dataclass from plain values.

    Args:
        classes: of the fields that are dataclasses themselves, by name.
        place: what to call it in messages; "" is the recipe itself.

    Raises:
        KeyError: an unknown field, with the nearest known ones. ValueError: a missing one, or a
            value that does not fit.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"got {fields!r} for {place or 'a recipe'}; expected fields and values")
    known = {f.name: f for f in dataclasses.fields(cls)}
    for name in fields:
        if name not in known:
            raise KeyError(unknown_name(f"recipe field{place and ' of ' + place}", name, known))
    needed = [
        name
        for name, f in known.items()
        if name not in fields
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if needed:
        raise ValueError(
            f"the recipe lacks {', '.join((place and place + '.' + n) or n for n in needed)}"
        )
    values = {
        name: build(classes[name], value, classes, name)
        if name in classes and value is not None
        else fitted(f"{place and place + '.'}{name}", value, known[name].type)
        for name, value in fields.items()
    }
    return cls(**values)


class RecipeFile:
    """A dataclass that is a recipe; ``nested``: its fields that are dataclasses, by name."""

    nested: ClassVar[Mapping[str, Any]] = NO_CLASSES

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Any:
        """From plain values, as in YAML.

        Raises:
            KeyError: an unknown field, with the nearest known ones. ValueError: a missing one, or a
                value that does not fit.
        """
        return build(cls, fields, cls.nested)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; ``of`` undoes it."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


def check_optimizer(optimizer: Any, schedules: Sequence[str]) -> None:
    """Raises ValueError unless schedule, shares and betas are what they can be."""
    if optimizer.schedule not in schedules:
        raise ValueError(
            f"got schedule {optimizer.schedule!r}; expected one of {', '.join(schedules)}"
        )
    for name in ("warmup", "final"):
        if not 0 <= getattr(optimizer, name) <= 1:
            raise ValueError(f"got {name} {getattr(optimizer, name)}; expected a share, 0 to 1")
    check_betas(optimizer.betas)


def check_betas(betas: Sequence[float]) -> None:
    """Raises ValueError unless they are two decays."""
    numbers = [b for b in betas if isinstance(b, (int, float)) and 0 <= b < 1]
    if len(betas) != 2 or numbers != list(betas):
        raise ValueError(f"got betas {list(betas)}; expected two numbers from 0 to below 1")


def check_run_fields(recipe: Any, *more: str) -> None:
    """Raises ValueError unless the fields that every run has are in their ranges.

    ``more``: names of other fields that are at least 1.
    """
    names = ("steps", "batch_size", "micro_batches", "save_every", "keep", "sample_every", *more)
    for name in names:
        if getattr(recipe, name) < 1:
            raise ValueError(f"got {name} {getattr(recipe, name)}; expected at least 1")
    if recipe.precision not in (None, "no", "bf16", "fp16"):
        raise ValueError(f"got precision {recipe.precision!r}; expected no, bf16 or fp16")


def fitted(name: str, value: Any, kind: Any) -> Any:
    """The value as the field's type; whole numbers are numbers, and YAML's "no" is a text again.

    Raises:
        ValueError: a value of another type.
    """
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    plain = [get_origin(each) or each for each in kinds]
    if float in plain and isinstance(value, int):
        return float(value)
    if value is False and str in plain and bool not in plain:
        return "no"  # precision: no
    booleans = isinstance(value, bool) and bool not in plain
    texts = isinstance(value, str) and str not in plain
    if booleans or texts or not isinstance(value, tuple(plain)):
        names = " or ".join(getattr(each, "__name__", str(each)) for each in plain)
        raise ValueError(f"got {value!r} for the recipe field {name}; expected {names}")
    return value


def _value(text: str, change: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"got {change!r}; its value is no YAML") from error
    if isinstance(value, str):  # YAML takes 1e-4 for a text
        try:
            return float(value)
        except ValueError:
            return None if value.lower() == "none" else value
    return value


def _set(fields: dict[str, Any], path: list[str], value: Any, change: str) -> None:
    *groups, last = path
    for group in groups:
        if fields.get(group) is None:
            fields[group] = {}
        fields = fields[group]
        if not isinstance(fields, dict):
            raise ValueError(f"got {change!r}; {group!r} has no fields of its own")
    fields[last] = value
