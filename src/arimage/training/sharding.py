"""One transformer shared out over processes: FSDP2 (torch's ``fully_shard``) through accelerate.

Each process keeps its share of every parameter, gradient, AdamW moment and averaged weight. The
weights of a unit (a class of the model's ``_no_split_modules``) are gathered while it computes.
Saved states hold whole tensors in the form of a run that is not sharded, so either goes on from
the other's.
"""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin

ASKED = "ACCELERATE_USE_FSDP"  # set by ``accelerate launch --use_fsdp``
COMPUTED_IN = {"bf16": torch.bfloat16, "fp16": torch.float16}


def launcher_shards() -> bool:
    """Whether ``accelerate launch`` asks for it."""
    return os.environ.get(ASKED, "false").lower() == "true"


def sharding_plugin(shard: bool | None) -> "FullyShardedDataParallelPlugin | None":
    """accelerate's settings, or None where nothing is sharded.

    Args:
        shard: True shards, False where the launcher says so; None is a training that cannot.

    Raises:
        ValueError: asked of a training that cannot be sharded, of FSDP's first version, or together
            with the launcher's checkpointing.
    """
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin

    launched = launcher_shards()
    if not (shard or launched):
        return None
    if shard is None:
        raise ValueError(
            "got FSDP for a training that is not sharded; only `arimage train generator` is: start "
            "the others without --use_fsdp, and every process holds the whole model"
        )
    if not hasattr(Accelerator, "is_fsdp2"):
        raise ValueError("this accelerate knows no FSDP2; pip install -U accelerate")
    if launched and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("got FSDP of the first version from the launcher; add --fsdp_version 2")
    if os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() == "true":
        raise ValueError(
            "got the launcher's activation checkpointing, which draws other dropout when it "
            "computes again; leave it out and add --set gradient_checkpointing=true"
        )
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        cpu_ram_efficient_loading=False,  # it would leave tokenizers empty in all but one process
    )


@contextmanager
def asked_for(plugin: Any) -> Iterator[None]:
    """Around the making of an accelerator, which notes a plugin in the environment for good."""
    before = os.environ.get(ASKED)
    try:
        yield
    finally:
        if plugin is not None and before is None:
            os.environ.pop(ASKED, None)


def use(plugin: "FullyShardedDataParallelPlugin", accelerator: "Accelerator") -> None:
    """Makes several processes of CPUs shard, too; accelerate itself does on GPUs alone.

    Raises:
        ValueError: one process.
    """
    from accelerate.utils import DistributedType

    if accelerator.num_processes == 1:
        raise ValueError(
            "got fsdp with one process, which has nobody to share with; start several by "
            "accelerate launch or torchrun, or leave fsdp out"
        )
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def is_sharded(accelerator: "Accelerator") -> bool:
    """Whether it shards what it prepares."""
    return getattr(accelerator, "is_fsdp2", False)


def shard(
    accelerator: "Accelerator",
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    units: Sequence[str],
) -> nn.Module:
    """Shares out a module and what its optimizer steps, both in place.

    Under mixed precision units compute with rounded weights, gradients are averaged in float32 and
    the forward pass is autocast, as without sharding.

    Args:
        units: names of the classes whose modules are gathered one by one.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = accelerator.state.fsdp_plugin
    present = {type(part).__name__ for part in module.modules()}
    plugin.transformer_cls_names_to_wrap = [name for name in units if name in present]
    dtype = COMPUTED_IN.get(accelerator.mixed_precision)
    plugin.mixed_precision_policy = MixedPrecisionPolicy()
    if dtype is not None:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(dtype, reduce_dtype=torch.float32)
        module.forward = autocast(accelerator, module.forward)
    module, _ = accelerator.prepare(module, optimizer)
    module.set_reshard_after_forward(False, recurse=False)  # its Loss is no tensor to hang hooks on
    return module


def autocast(accelerator: "Accelerator", forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` in the accelerator's precision."""

    def under(*args: Any, **kwargs: Any) -> Any:
        with accelerator.autocast():
            return forward(*args, **kwargs)

    return under


def sharded_average(blank: nn.Module, model: nn.Module, move: Any) -> AveragedModel:
    """As ``AveragedModel(model, multi_avg_fn=move)``, of this process' shares."""
    average = AveragedModel(blank, multi_avg_fn=move)
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    average.module.load_state_dict(own, assign=True)
    return average


def filled(blank: nn.Module, model: nn.Module, keep: bool) -> nn.Module:
    """A copy of ``blank`` with the whole weights of a sharded model; called in every process.

    ``keep``: whether this process needs them; else its copy stays blank.
    """
    model_of, whole = copy.deepcopy(blank), {}
    for name, value in model.state_dict().items():
        gathered = whole_tensor(value)
        if keep:
            whole[name] = gathered
    if keep:
        model_of.load_state_dict(whole, assign=True)
    return model_of


def whole_tensor(value: Tensor) -> Tensor:
    """All of a tensor that is shared out, gathered by every process; others as they are."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def whole_state(state: Any, keep: bool) -> Any:
    """A state (dicts, lists, tensors) with whole tensors on the CPU; called in every process.

    ``keep``: whether this process needs them; else they are None.
    """
    if isinstance(state, dict):
        return {name: whole_state(value, keep) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole_state(value, keep) for value in state)
    if not hasattr(state, "full_tensor"):
        return state
    gathered = whole_tensor(state)
    return gathered.cpu() if keep else None


def shares(whole: dict[str, Tensor], sharded: dict[str, Tensor]) -> dict[str, Tensor]:
    """A saved state of a module as this process' shares, to be loaded."""
    return {
        name: share_of(value, sharded[name]) if name in sharded else value
        for name, value in whole.items()
    }


def optimizer_shares(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A saved state of an optimizer as this process' shares, to be loaded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found = {
        i: {
            name: share_of(value, parameters[i]) if value.shape == parameters[i].shape else value
            for name, value in values.items()
        }
        for i, values in state["state"].items()
    }
    return {**state, "state": found}


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """The share of a whole tensor that this process has of ``like``."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    places = (like.device_mesh, like.placements)
    return distribute_tensor(value.to(like.device), *places, src_data_rank=None)
