"""Ways to capture a function over static buffers, by name: CUDA graphs, torch.compile, a trace.

All three take the same *body*: a function of a tree of tensors that changes some of them in place
and returns nothing. It may read nothing else that changes, draw nothing, and never wait for the
device. ``trace`` is the CPU's stand-in for graphs: it runs what was recorded, with every Python
number, branch and foreign tensor of the first run baked in, exactly as a graph does, and refuses
operations that a graph cannot hold.
"""

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from arimage.ar.linear import as_packed_linear

Buffers = Any  # a tree of tensors
Body = Callable[[Buffers], None]
Replay = Callable[[Buffers], None]

WARM_UPS = 2  # runs before a capture: kernels are chosen, workspaces and tables made
# Operations whose result a host must read, or whose shapes follow from data; and a tensor made from
# Python numbers, which would be a copy from the host.
UNCAPTURABLE = (
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "lift_fresh_copy",
    "lift_fresh",
    "multinomial",
    "bernoulli",
    "exponential",
    "rand",
    "randn",
    "randint",
    "randperm",
)


class CaptureError(RuntimeError):
    """A function that a graph cannot hold."""


@runtime_checkable
class Capture(Protocol):
    """Makes a replay of a body; one object for all captures of a generator.

    whole: whether it takes steps that come once in an image, and decoders, too.
    """

    whole: bool

    def __init__(self, device: torch.device) -> None: ...

    def __call__(self, body: Body, buffers: Buffers) -> Replay:
        """Captures ``body``; the buffers may be changed by it, and are restored by the caller."""
        ...


class CudaGraphs:
    """CUDA graphs, which share one pool of memory.

    Nothing of the pool is read after a replay (results go to the buffers), so graphs may be
    replayed in any order.
    """

    whole = True

    def __init__(self, device: torch.device) -> None:
        self.device, self.pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, body: Body, buffers: Buffers) -> Replay:
        """As the protocol says."""
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    body(buffers)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                body(buffers)

        def replay(_: Buffers) -> None:
            graph.replay()

        return replay


class Inductor:
    """torch.compile over what the trace recorded: fused kernels, on CUDA in graphs of its own."""

    options: ClassVar[dict[str, dict[str, Any]]] = {
        "cuda": {"mode": "reduce-overhead"},
        "cpu": {"options": {"size_asserts": False}},  # packed weights have no strides to look at
    }

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.whole = device.type != "cpu"  # there they are products and convolutions, as before

    def __call__(self, body: Body, buffers: Buffers) -> Replay:
        """As the protocol says."""
        for tensor in pytree.tree_leaves(buffers):
            if isinstance(tensor, torch.Tensor):
                torch._dynamo.mark_static_address(tensor)
        graph = traced(body, buffers)
        as_packed_linear(graph)
        chosen = self.options.get(self.device.type, {})
        return torch.compile(graph, fullgraph=True, dynamic=False, **chosen)


class Trace:
    """Runs the recorded operations one by one: for tests, on any device."""

    whole = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, body: Body, buffers: Buffers) -> Replay:
        """As the protocol says."""
        return traced(body, buffers)


@torch.no_grad()
def traced(body: Body, buffers: Buffers) -> GraphModule:
    """The operations of ``body`` on the buffers.

    Raises:
        CaptureError: a host would have to wait, a shape follows from data, numbers are drawn.
    """
    body(buffers)  # tables that are made once are made before
    try:
        with contextlib.redirect_stderr(None):
            graph = make_fx(body)(buffers)
    except RuntimeError as error:
        if "_local_scalar_dense" not in str(error):
            raise
        raise CaptureError(
            "a captured step reads a tensor on the host (item, bool or int of a tensor); keep it a "
            "tensor"
        ) from error
    devices = {leaf.device for leaf in pytree.tree_leaves(buffers) if leaf is not None}
    check_capturable(graph, devices)
    return graph


def check_capturable(graph: GraphModule, devices: set[torch.device]) -> None:
    """Raises CaptureError if an operation cannot be captured, or leaves ``devices``."""
    for node in graph.graph.nodes:
        name = getattr(node.target, "_schema", None)
        name = name.name.partition("::")[2].rstrip("_") if name else ""
        where = node.kwargs.get("device")
        masks = name.startswith("index") and any(is_bool(arg) for arg in node.all_input_nodes[1:])
        if (
            masks
            or name in UNCAPTURABLE
            or (where is not None and torch.device(where) not in devices)
        ):
            raise CaptureError(
                f"a captured step calls {node.target}, which makes the host wait, draws numbers or "
                "has a shape that follows from data; use tensors that are there before"
            )


def is_bool(node: Node) -> bool:
    """Whether a mask comes out of a node; an index by one has a shape that follows from data."""
    return getattr(node.meta.get("val"), "dtype", None) == torch.bool
