"""Published checkpoint files -> our weights: opened without running code, renamed strictly.

A ``Layout`` is one family of published state dicts. It says how its keys are called here, which
keys are dropped and why, and what config the keys and shapes imply; names of files say nothing.
"""

import re
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor

from arimage.pretrained import ArimageConfig, ArimageModel

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
SHARD = "2GB"  # written one after the other: converting needs little more memory than one of them
WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")  # of torch.compile, DDP, FSDP
DEPTH = 3  # of dicts in dicts that are searched for weights
CODE = re.compile(r"GLOBAL|Unsupported (global|class)")
INDEXED = re.compile(r"(.+)\[(\d+)\]")
JOINED = re.compile(r"(.+)\+(\d+)")

# Classes that trainers leave beside the weights: Lightning's callbacks, the arguments of a script.
# An empty class of ours stands in for each; whatever else a pickle names is refused.
BYSTANDERS = [
    type(name, (), {"__module__": module})
    for module, name in (
        ("argparse", "Namespace"),
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    )
]

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """A flat state dict found in a file: where it was (keys joined by dots), and its tensors."""

    where: str
    weights: Weights


@dataclass(frozen=True)
class Converted:
    """A config, the weights under our names, and the keys that were dropped."""

    config: ArimageConfig
    weights: Weights
    dropped: list[str] = field(default_factory=list)


class NothingFound(FileNotFoundError):
    """No weights of a kind in some files."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Layout(ABC):
    """One family of published state dicts.

    Class attributes: ``model``, our class; ``anchors``, keys by which the family is recognised;
    ``renames``, (pattern of a whole key, our name) where ``name[i]`` is entry i of a stack and
    ``name+i`` part i of a tensor that is split along its first axis;
    ``droppable``, pattern of a whole key -> why it is not needed.
    """

    name: ClassVar[str]
    model: ClassVar[type[ArimageModel]]
    anchors: ClassVar[tuple[str, ...]]
    renames: ClassVar[tuple[tuple[str, str], ...]]
    droppable: ClassVar[dict[str, str]]
    sampling: ClassVar[dict[str, Any]] = {}  # defaults, fields of sampling.settings.Settings

    @abstractmethod
    def config(self, weights: Weights, **hints: Any) -> ArimageConfig:
        """What keys and shapes imply.

        Raises:
            ValueError: shapes that fit no config, or hints that contradict them.
        """

    def count_blocks(self, weights: Weights, wanted: int | None, prefix: str = "blocks") -> int:
        """How many blocks the keys have.

        Raises:
            ValueError: another number than ``wanted``.
        """
        start = f"{prefix}."
        found = len({k[len(start) :].split(".")[0] for k in weights if k.startswith(start)})
        if wanted not in (None, found):
            raise ValueError(
                f"the file holds a {self.name} of depth {found}, not {wanted}; give the file or "
                "the variant of that depth"
            )
        return found

    def split(self, weights: Weights, config: Any) -> Weights:
        """The weights, with tensors that hold several of ours cut apart."""
        return weights

    def recognizes(self, weights: Weights) -> bool:
        """Whether the keys are of this family."""
        return all(key in weights for key in self.anchors)

    def rename(self, key: str, config: Any) -> str | None:
        """Our name of a published key; None if there is none."""
        for pattern, name in self.renames:
            if match := re.fullmatch(pattern, key):
                return match.expand(name)
        return None

    def drops(self, key: str) -> bool:
        """Whether the key is listed as droppable."""
        return any(re.fullmatch(pattern, key) for pattern in self.droppable)

    def convert(self, weights: Weights, **hints: Any) -> Converted:
        """The config and the weights under our names; every key used, every parameter filled.

        Raises:
            ValueError: keys that are left over or missing, or of another shape; three are named.
        """
        try:
            config = self.config(weights, **hints)
        except KeyError as error:
            raise ValueError(
                f"the checkpoint looks like a {self.name} and lacks {error.args[0]}; it is not "
                "whole: get it again"
            ) from error
        ours: Weights = {}
        stacks: dict[str, dict[int, Tensor]] = {}
        joins: dict[str, dict[int, Tensor]] = {}
        unknown, dropped = [], []
        for key, value in self.split(weights, config).items():
            name = self.rename(key, config)
            if name is None:
                (dropped if self.drops(key) else unknown).append(key)
            elif match := INDEXED.fullmatch(name):
                stacks.setdefault(match[1], {})[int(match[2])] = value
            elif match := JOINED.fullmatch(name):
                joins.setdefault(match[1], {})[int(match[2])] = value
            else:
                ours[name] = value
        for name, entries in stacks.items():
            parts = [entries[i].flatten(0, -3) for i in sorted(entries)]
            ours[name] = torch.cat(parts)
        ours |= {name: join([parts[i] for i in sorted(parts)]) for name, parts in joins.items()}
        with torch.device("meta"):
            expected = self.model(config).state_dict()
        check_complete(self.name, unknown, ours, expected)
        return Converted(
            config, {k: ours[k].reshape(v.shape) for k, v in expected.items()}, dropped
        )


def join(parts: Sequence[Tensor]) -> Tensor:
    """Parts along the first axis; those that do not fit give a tensor that fits nowhere, either."""
    fit = len({part.shape[1:] for part in parts}) == 1
    return torch.cat([part if fit else part.flatten() for part in parts])


def check_complete(name: str, unknown: list[str], ours: Weights, expected: Weights) -> None:
    """Raises ValueError unless ``ours`` fills ``expected`` and no key is left over.

    Axes of length 1 do not count: published parameters often carry some.
    """
    shapes = [
        f"{key} {list(ours[key].shape)}, not {list(value.shape)}"
        for key, value in expected.items()
        if key in ours and squeezed(ours[key]) != squeezed(value)
    ]
    problems = [
        f"{len(keys)} {kind} ({', '.join(sorted(keys)[:3])}{', ...' * (len(keys) > 3)})"
        for kind, keys in (
            ("left over", unknown + [key for key in ours if key not in expected]),
            ("missing", [key for key in expected if key not in ours]),
            ("of another shape", shapes),
        )
        if keys
    ]
    if problems:
        raise ValueError(
            f"the checkpoint is not a {name} that we know: tensors {'; '.join(problems)}. Nothing "
            "was loaded; check which repository the file belongs to"
        )


def squeezed(value: Tensor) -> list[int]:
    """The shape without axes of length 1."""
    return [n for n in value.shape if n != 1]


def read(path: str | Path) -> Any:
    """What a checkpoint file holds, memory-mapped where the format allows; never runs code.

    Raises:
        FileNotFoundError: no such file. ValueError: not a checkpoint, or one that carries code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give a checkpoint that exists")
    path.open("rb").close()  # what the system refuses is told in its own words
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mmap = zipfile.is_zipfile(path)
            with torch.serialization.safe_globals(BYSTANDERS):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except Exception as error:  # torch, safetensors and the unpickler each raise their own
        raise ValueError(_refusal(path, str(error))) from error


def _refusal(path: Path, reason: str) -> str:
    if CODE.search(reason):
        named = re.search(r"GLOBAL ([\w.]+)", reason)
        return (
            f"{path} was refused and nothing in it was run: it is a pickle that asks for more than "
            f"tensors ({named[1] if named else 'code'}); ask for a file with weights alone"
        )
    return (
        f"{path} is not a checkpoint that can be read: it is truncated or neither a torch file nor "
        "safetensors; download it again"
    )


def parts(content: Any, where: str = "", depth: int = DEPTH) -> Iterator[Part]:
    """Every flat state dict in what a file holds, wrappers of any name unwrapped."""
    if not isinstance(content, dict):
        return
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and torch.is_tensor(v)}
    if tensors:
        yield Part(where, {plain(key): value for key, value in tensors.items()})
    if depth:
        for key, value in content.items():
            yield from parts(value, f"{where}.{key}".strip("."), depth - 1)


def plain(key: str) -> str:
    """A key without the prefixes that wrapped modules leave."""
    for prefix in WRAPPERS:
        key = key.replace(prefix, "")
    return key


def files_in(folder: Path) -> list[Path]:
    """The checkpoint files of a folder, sorted."""
    return sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())


def find_one(
    sources: Iterable[Path], layouts: Sequence[Layout], kind: str
) -> tuple[Layout, Weights]:
    """The one set of weights in some files that one of ``layouts`` recognises.

    Raises:
        FileNotFoundError: there is none. ValueError: there are several, or a file is no checkpoint.
    """
    sources = list(sources)
    found = [
        (layout, part.weights, f"{source.name} {part.where}".strip())
        for source in sources
        for part in parts(read(source))
        for layout in layouts
        if layout.recognizes(part.weights)
    ]
    if len(found) > 1:
        places = ", ".join(place for *_, place in found)
        raise ValueError(
            f"found {len(found)} sets of {kind} weights ({places}); give the file that is meant, "
            "or save one set into a file of its own"
        )
    if not found:
        known = ", ".join(layout.name.removesuffix(f" {kind}") for layout in layouts)
        raise NothingFound(
            kind,
            f"no {kind} in {', '.join(str(source) for source in sources)}; known layouts: {known}. "
            f"Give the {kind}'s file, too",
        )
    return found[0][:2]


def write(layout: Layout, converted: Converted, folder: Path) -> ArimageModel:
    """Saves config.json and safetensors; the tensors are passed on from the mapped file."""
    with torch.device("meta"):
        part = layout.model(converted.config)
    part.load_state_dict(converted.weights, strict=True, assign=True)
    part.save_pretrained(folder, max_shard_size=SHARD)
    return part
