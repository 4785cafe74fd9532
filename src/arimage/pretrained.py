"""The one base of every saved model and its config: strict, complete, safe on poisoned memory.

transformers 5 builds a model on the meta device when it loads it and leaves whatever is not in the
file (non-persistent buffers) as uninitialised memory; it also accepts unknown config fields and
fills missing weights with random numbers after a warning. Here each of these is an error.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import dataclasses as hub_dataclasses
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from arimage import hub
from arimage.files import new_files, read_json
from arimage.registry import unknown_name

M = TypeVar("M", bound="ArimageModel")
S = TypeVar("S", bound="ArimageConfig")

# What transformers itself writes into or passes through a config, besides names that begin with
# "_": its own fields and those that PreTrainedConfig.__post_init__ takes (5.4 to 5.23).
_HOUSE_FIELDS = {field.name for field in dataclasses.fields(PreTrainedConfig)} | {
    "attn_implementation",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "torch_dtype",
}


class ArimageConfig(PreTrainedConfig):
    """Base of our configs: keyword-only, typed, no unknown field, complete when read from a file.

    Subclasses declare their fields with defaults, are decorated with ``strict`` (types are checked)
    and check values in methods called ``validate_...`` (ValueError), which run in the order of
    their names.
    """

    model_type = "arimage_base"
    positive: ClassVar[tuple[str, ...]] = ()  # fields that are at least 1
    newer: ClassVar[tuple[str, ...]] = ()  # fields that older files lack and mean by their default

    @classmethod
    def own_fields(cls) -> list[str]:
        """Names of the fields that this model family defines."""
        return [f.name for f in dataclasses.fields(cls) if f.name not in _HOUSE_FIELDS]

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = [name for name in kwargs if not name.startswith("_")]
        unknown = [name for name in unknown if name not in _HOUSE_FIELDS]
        if unknown:
            raise ValueError(
                unknown_name(f"field of {type(self).__name__}", unknown[0], self.own_fields())
            )
        for name in self.positive:
            if getattr(self, name) < 1:
                raise ValueError(f"got {name} {getattr(self, name)}; expected an integer >= 1")
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', but a field that it lacks is an error, unless ``newer``."""
        missing = [name for name in cls.own_fields() if name not in (*config_dict, *cls.newer)]
        if missing:
            raise ValueError(
                f"the config lacks {', '.join(missing)}; {cls.__name__} needs every one of "
                f"{', '.join(cls.own_fields())}: add the field or save the model again"
            )
        return super().from_dict(config_dict, **kwargs)


def strict(cls: type[S]) -> type[S]:
    """huggingface_hub's ``strict`` for configs, whose first problem becomes one ValueError."""
    checked = hub_dataclasses.strict(cls)
    initialize = checked.__init__

    @functools.wraps(initialize)
    def initialize_or_tell(self: S, *args: Any, **kwargs: Any) -> None:
        try:
            initialize(self, *args, **kwargs)
        except StrictDataclassError as error:
            raise ValueError(f"{cls.__name__}: {error.__cause__}") from error

    checked.__init__ = initialize_or_tell
    return checked


class ArimageModel(PreTrainedModel):
    """Base of our models: ``from_pretrained`` fills every tensor from the file or raises.

    Modules that keep tensors outside the checkpoint define ``rebuild_buffers()``, which is called
    after loading. dtype is float32 unless given.
    """

    config_class: ClassVar[type[PreTrainedConfig]] = ArimageConfig
    base_model_prefix = "arimage"  # the default, "", lets any first letter of a key pass
    _supports_sdpa = True

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[M], pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> M:
        """Loads config.json and safetensors; every key must be used and every parameter filled.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            kwargs: transformers' own (dtype, device_map, revision, token, subfolder, ...).

        Raises:
            ValueError: a truncated file, missing, unexpected or wrong-shaped tensors, a bad config.
            FileNotFoundError: no such folder, or one without config.json; and as ``hub.locate``.
        """
        path = Path(pretrained_model_name_or_path)
        if not path.exists() and hub.is_id(pretrained_model_name_or_path):
            path = _from_hub(str(path), kwargs)
        _check_folder(path, kwargs.get("subfolder", ""))
        with_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("dtype", torch.float32)
        kwargs["use_safetensors"] = True
        kwargs["ignore_mismatched_sizes"] = True  # reported below, in our words
        try:
            with quiet_transformers():
                model, info = super().from_pretrained(
                    path, *args, output_loading_info=True, **kwargs
                )
        except SafetensorError as error:
            raise ValueError(
                f"the weights of {path} cannot be read ({error}): the file is truncated or not "
                "safetensors; download or save it again"
            ) from error
        _check_loading(path, info)
        rebuild_buffers(model)
        return (model, info) if with_info else model

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, **kwargs: Any
    ) -> None:
        """Writes config.json and model.safetensors into a folder; each file appears whole."""
        with new_files(save_directory) as temporary, quiet_transformers():
            super().save_pretrained(temporary, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Families initialise in their constructors; nothing is drawn again on loading."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences transformers' progress bars and load report: what matters is raised by us."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def identity(model: "ArimageModel") -> str:
    """Sha256 of a model's config and weights (in float32, whatever they are stored in)."""
    config = model.config
    fields = {name: getattr(config, name) for name in sorted(config.own_fields())}
    fields = {
        k: v for k, v in fields.items() if k not in config.newer or v != getattr(type(config), k)
    }
    total = hashlib.sha256(json.dumps([config.model_type, fields]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu()
        values = values.dequantize().float() if values.is_floating_point() else values
        total.update(f"{name} {list(values.shape)}".encode())
        total.update(values.contiguous().numpy().tobytes())
    return total.hexdigest()


def check_device(device: torch.device | str) -> None:
    """Raises ValueError for a device that is not there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        text = f"cannot use the device {str(device)!r} ({reason}); use 'cpu'"
        raise ValueError(text) from error


def chosen_device(device: torch.device | str | None) -> torch.device:
    """``device``, or torch's default one (``with torch.device("cuda"):``) for None.

    Raises:
        ValueError: a device that is not there.
    """
    found = torch.get_default_device() if device is None else torch.device(device)
    check_device(found)
    return found


def default_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the device computes in it (a CPU with AVX-512-BF16 or AMX), else float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    return torch.bfloat16 if native else torch.float32


def rebuild_buffers(model: nn.Module) -> None:
    """Refills tensors that live outside the checkpoint (``rebuild_buffers`` of each module)."""
    for module in model.modules():
        rebuild = getattr(module, "rebuild_buffers", None)
        if rebuild is not None:
            rebuild()


def _from_hub(repo_id: str, kwargs: dict[str, Any]) -> Path:
    """The folder of one model; takes the hub's options out of ``kwargs``."""
    names = [field.name for field in dataclasses.fields(hub.Access)]
    access = hub.Access(**{name: kwargs.pop(name) for name in names if name in kwargs})
    subfolder = kwargs.get("subfolder", "")
    folder = hub.locate(repo_id, access, subfolder, ("",))
    return Path(*folder.parts[: -len(Path(subfolder).parts) or None])


def _check_folder(path: Path, subfolder: str) -> None:
    if not path.is_dir() and (path.is_absolute() or len(path.parts) > 2):
        raise FileNotFoundError(
            f"no folder {path}; give one made by save_pretrained, or a hub id 'owner/name'"
        )
    if path.is_dir() and not (path / subfolder / "config.json").is_file():
        raise FileNotFoundError(
            f"no config.json in {path / subfolder}; give a folder made by save_pretrained"
        )
    if path.is_dir():
        read_json(path / subfolder / "config.json")
    if path.is_dir() and not any((path / subfolder).glob("*.safetensors")):
        raise FileNotFoundError(
            f"no model.safetensors in {path / subfolder}; pickles are not opened: arimage convert "
            "FILE FOLDER makes safetensors of published ones"
        )


def _check_loading(path: Path, info: dict[str, Any]) -> None:
    mismatched = info["mismatched_keys"]
    problems = [
        f"{len(keys)} {kind} ({', '.join(sorted(map(str, keys))[:3])}{', ...' * (len(keys) > 3)})"
        for kind, keys in (
            ("missing", info["missing_keys"]),
            ("unexpected", info["unexpected_keys"]),
            ("of another shape", [f"{k} {list(a)}, not {list(b)}" for k, a, b in mismatched]),
        )
        if keys
    ]
    if problems:
        raise ValueError(
            f"the weights of {path} do not fit its config: tensors {'; '.join(problems)}. "
            "Load the weights with the config they were saved with"
        )
