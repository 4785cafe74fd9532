"""Low-rank adapters (LoRA, arXiv 2106.09685) in place of all weights, through peft.

Adapters and the class embedding are trained. They are merged into the weights before a model is
sampled from or saved, so that a result is a model as any other.
"""

import copy
from importlib.util import find_spec
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from arimage.ar.base import Backbone
from arimage.ar.linear import Linear
from arimage.registry import unknown_name
from arimage.training.generator_recipe import LoraFields

CLASSES = "class_embedding"


def add_adapters(transformer: Backbone, fields: LoraFields) -> None:
    """Gives the named linear layers adapters, in place, and freezes everything but these.

    Raises:
        ModuleNotFoundError: no peft. KeyError: a target that is no linear layer of the model.
    """
    if find_spec("peft") is None:
        raise ModuleNotFoundError(
            "lora needs peft, which is not installed; pip install 'arimage[lora]', or leave the "
            "recipe's lora out",
            name="peft",
        )
    from peft import LoraConfig, inject_adapter_in_model

    linear = (name for name, m in transformer.named_modules() if isinstance(m, nn.Linear))
    known = sorted({name.split(".")[-1] for name in linear if not name.split(".")[-1].isdigit()})
    for target in fields.targets:
        if target not in known:
            raise KeyError(unknown_name("lora target", target, known))
    config = LoraConfig(r=fields.rank, lora_alpha=fields.alpha, target_modules=list(fields.targets))
    config._register_custom_module({Linear: _adapted_linear()})
    inject_adapter_in_model(config, transformer)
    getattr(transformer, CLASSES).requires_grad_(True)


def _adapted_linear() -> Any:
    """peft's layer with what ours takes: a bias of the caller's, and GELU, which comes last."""
    from peft.tuners.lora import Linear as Adapted

    class AdaptedLinear(Adapted):
        def forward(self, x: Tensor, bias: Tensor | None = None, gelu: Any = None) -> Tensor:
            out = super().forward(x, bias)
            return F.gelu(out, approximate=gelu) if gelu else out

    return AdaptedLinear


def merged(transformer: Backbone) -> Backbone:
    """A copy without adapters, which computes the same; the model itself where it has none."""
    if not has_adapters(transformer):
        return transformer
    whole = copy.deepcopy(transformer)
    for name, module in list(whole.named_modules()):
        if hasattr(module, "lora_A"):
            module.merge(safe_merge=True)
            parent, _, last = name.rpartition(".")
            setattr(whole.get_submodule(parent), last, module.get_base_layer())
    return whole.requires_grad_(True)


def has_adapters(transformer: nn.Module) -> bool:
    """Whether any layer has adapters."""
    return any(hasattr(module, "lora_A") for module in transformer.modules())
