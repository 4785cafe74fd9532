"""The linear layer of every transformer: ``F.linear``, or oneDNN where that is faster.

On a CPU and without gradients, float32 ``F.linear`` takes 1.7 to 2.5 times as long as oneDNN, and
oneDNN 1.05 to 2 times as long as oneDNN with weights in its own order (docs/performance.md).
Weights are *packed* into that order before sampling. A packed layer holds no second copy; whatever
asks for its weights (training, saving, moving, copying, ``parameters()``) puts them back first.

On Intel's CPUs one to three rows are an exception: there MKL, behind ``F.linear``, reads plain
weights at the rate of the memory, a sixth to a fifth faster than oneDNN reads any.
"""

import itertools
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, library, nn
from torch.fx import GraphModule

from arimage.shapes import Float

PACKED_LINEAR = "arimage::packed_linear"
Gelu = Literal["none", "tanh"]  # what F.gelu calls the exact function and its approximation


def is_intel() -> bool:
    """Whether this CPU is Intel's: MKL takes its fast paths there alone."""
    told = Path("/proc/cpuinfo")  # on Linux, where platform says nothing of the maker
    return "GenuineIntel" in (told.read_text() if told.is_file() else platform.processor())


INTEL = torch.backends.mkl.is_available() and is_intel()
FEW = 3 if INTEL else 0  # float32 rows that ``F.linear`` takes
# Rows; with AVX-512, not on Intel's, oneDNN reads packed weights for one or two a quarter to a
# third slower. With AVX2 alone it reads them for two a fifth faster than for four.
AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
FULL_RATE = 4 if AVX512 and not INTEL else 1
PACKINGS = itertools.count(1)


def linear(
    x: Float[Tensor, "*rows i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, " o"] | None,
    backend: Literal["auto", "onednn", "torch"] = "auto",
    gelu: Gelu | None = None,
) -> Float[Tensor, "*rows o"]:
    """x W^T + b, then GELU if asked for; "auto" is oneDNN on a CPU without gradients, for more
    rows than ``FEW``.

    oneDNN's operator is private to torch, so it is used here alone; ``F.linear`` is its twin. One
    or two rows by packed weights go in as ``FULL_RATE`` copies: reading the weights is all the
    time there is, and where its kernel for more rows reads faster, it is taken.
    """
    if backend == "auto":
        samples = not torch.is_grad_enabled() and suits_onednn(x)
        few = samples and are_few(x.shape[:-1].numel(), x.dtype)
        backend = "onednn" if samples and not few else "torch"
    if backend == "torch":
        out = F.linear(x, weight, bias)
        return F.gelu(out, approximate=gelu) if gelu else out
    name, algorithm = ("gelu", gelu) if gelu else ("none", "")
    rows = x.shape[:-1].numel()
    if weight.is_mkldnn and 0 < rows < FULL_RATE and FULL_RATE % rows == 0:
        many = torch.cat([x.reshape(rows, -1)] * (FULL_RATE // rows))
        out = torch.ops.mkldnn._linear_pointwise(many, weight, bias, name, [], algorithm)
        return out[:rows].reshape(*x.shape[:-1], -1)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)


library.define(
    PACKED_LINEAR,
    "(Tensor x, Tensor w, Tensor? bias, str name, Scalar?[] scalars, str? algorithm) -> Tensor",
)


@library.impl(PACKED_LINEAR, "default")
def packed_linear(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """oneDNN's operator under a name that Inductor leaves alone: by its own name it takes weights
    that Inductor itself has packed, and no others."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, *rest)


@library.register_fake(PACKED_LINEAR)
def _(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


def as_packed_linear(graph: GraphModule) -> None:
    """Renames the products by packed weights in a recorded graph, for Inductor."""
    if not torch.backends.mkldnn.is_available():
        return
    for node in graph.graph.nodes:
        if node.target is torch.ops.mkldnn._linear_pointwise.default:
            node.target = torch.ops.arimage.packed_linear.default
    graph.recompile()


def suits_onednn(x: Tensor) -> bool:
    """Whether oneDNN takes tensors of this device and dtype."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and bfloat16_by_onednn())


def are_few(rows: int, dtype: torch.dtype) -> bool:
    """Whether so many rows go by plain weights."""
    return rows <= FEW and dtype == torch.float32


def bfloat16_by_onednn() -> bool:
    """Whether oneDNN computes in bfloat16 on this CPU; those with AVX2 alone are refused."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Linear(nn.Linear):
    """``nn.Linear`` through ``linear``, with weights that can be packed.

    While packed, the parameter keeps its shape and dtype and reads as NaN where somebody gets at it
    past the doors below; it is the same object again once unpacked. A quantised layer
    (ar/quantized.py) is never packed: its product is torchao's.
    """

    packed: Tensor | None = None
    packing: int = 0  # which of all packings made ``packed``
    quantized: bool = False

    def forward(
        self,
        x: Float[Tensor, "*rows i"],
        bias: Float[Tensor, " o"] | None = None,
        gelu: Gelu | None = None,
    ) -> Float[Tensor, "*rows o"]:
        """(..., in_features) -> (..., out_features); ``bias`` replaces the own one."""
        bias, packed = self.bias if bias is None else bias, self.packed
        if packed is not None and x.dtype == packed.dtype and not torch.is_grad_enabled():
            return linear(x, packed, bias, "onednn", gelu)
        backend = "torch" if self.quantized else "auto"
        return linear(x, self.weight, bias, backend, gelu)  # asking for the weight unpacks it

    @torch.no_grad()
    def pack(self) -> None:
        """Puts the weights into oneDNN's order, where oneDNN takes them."""
        if self.packed is None and not self.quantized and suits_onednn(self.weight):
            weight = self.weight
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
            weight.data = weight.new_full((), torch.nan).expand(weight.shape)
            self.packed, self.packing = packed, next(PACKINGS)

    @torch.no_grad()
    def unpack(self) -> None:
        """Puts the weights back into the parameter, bit by bit the same."""
        if self.packed is not None:
            packed, self.packed = self.packed, None
            self.weight.data = packed.to_dense()

    def train(self, mode: bool = True) -> "Linear":
        """As every module's; training unpacks."""
        if mode:
            self.unpack()
        return super().train(mode)

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            self.unpack()
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        self.unpack()
        return self.__dict__

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Linear":
        self.unpack()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unpack()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unpack()
        super()._load_from_state_dict(*args, **kwargs)


def pack(model: nn.Module) -> None:
    """Packs every ``Linear``; layer by layer, so that the peak is one layer above the weights."""
    for layer in model.modules():
        if isinstance(layer, Linear):
            layer.pack()


def unpack(model: nn.Module) -> None:
    """Unpacks every ``Linear``."""
    for layer in model.modules():
        if isinstance(layer, Linear):
            layer.unpack()
