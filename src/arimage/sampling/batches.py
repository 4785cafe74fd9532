"""Many images: batches that fit into memory, each decoded beside the sampling of the next."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from arimage.ar.base import State
from arimage.images import Rounding, to_levels
from arimage.shapes import Float, Int, UInt8

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Fit:
    """How many images go through the models at once; fewer once memory has run out.

    Attributes:
        size: as planned or given.
        plan: the plan anew, from what is free then; None leaves running out of memory to the
            caller.
    """

    size: int
    plan: Callable[[], int] | None = None

    @classmethod
    def of(cls, given: int | None, plan: Callable[[], int], shared: bool) -> "Fit":
        """As given; or as planned, and planned anew unless the images share their noise."""
        return cls(plan(), None if shared else plan) if given is None else cls(given)

    def batches(self, make: Callable[[slice], T], count: int, start: int = 0) -> Iterator[T]:
        """``make(slice)`` of images start..count-1 in order, at most ``size`` together.

        Where memory runs out, the size is halved or, if that is less, what the new plan says, and
        the batch is made again: its images come from their seeds, as the others' do.

        Raises:
            MemoryError: not even one image fits. torch.OutOfMemoryError: without ``plan``.
        """
        while start < count:
            part = slice(start, min(start + self.size, count))
            try:
                made = make(part)
            except torch.OutOfMemoryError as error:
                if self.plan is None:
                    raise
                reason = str(error).partition(". ")[0]
            else:
                yield made
                start = part.stop
                continue
            self._shrink(part.stop - part.start, reason)  # what the error kept is free by now

    def _shrink(self, size: int, reason: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise MemoryError(
                f"a single image does not fit into memory ({reason}); use a device with more, or "
                "free what others hold"
            )
        assert self.plan is not None
        self.size = max(1, min(size // 2, self.plan()))
        warnings.warn(
            f"memory ran out with {size} images at once ({reason}); going on with {self.size}",
            RuntimeWarning,
            stacklevel=2,
        )


class Arrival:
    """The pixels and ids of a batch that was sampled, on their way to the host.

    On CUDA, decoding and copying run on a stream of their own, beside whatever the caller starts
    next; elsewhere they are done at once. Captured graphs share their memory and must not run
    beside each other: then decoding waits its turn, and only the host does not wait.

    Args:
        state: the last one of the batch.
        decode: its float images (b, 3, H, W), nominally in [-1, 1].
        rounding: of floats to 8 bits.
        captured: whether ``decode`` or what comes next replays graphs.
    """

    def __init__(
        self,
        state: State,
        decode: Callable[[State], Float[Tensor, "b 3 h w"]],
        rounding: Rounding = "nearest",
        captured: bool = False,
    ) -> None:
        device = state.ids.device
        self._done: torch.cuda.Event | None = None
        self._state: State | None = None
        if device.type != "cuda":
            self._host = [to_levels(decode(state), rounding).cpu(), state.ids.cpu()]
            return
        now = torch.cuda.current_stream(device)
        stream = now if captured else side_stream(device)
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            self._host = [_to_host(t) for t in (to_levels(decode(state), rounding), state.ids)]
            self._done = stream.record_event()
        self._state = state  # memory of the other stream: not free before this one has read it

    @property
    def is_there(self) -> bool:
        """Whether ``take`` does not wait for a device."""
        return self._done is None

    def take(self) -> tuple[UInt8[np.ndarray, "b h w 3"], Int[Tensor, "b n"]]:
        """Pixels and ids, once they are there."""
        if self._done is None:
            return self._host[0].numpy(), self._host[1]
        self._done.synchronize()
        self._state = None
        pixels, ids = (tensor.clone() for tensor in self._host)  # pinned memory goes back
        return pixels.numpy(), ids


@lru_cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a GPU that decodes; one, so that its memory is used again."""
    return torch.cuda.Stream(device)


def _to_host(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def arriving(
    arrivals: Iterable[Arrival],
) -> Iterator[tuple[UInt8[np.ndarray, "b h w 3"], Int[Tensor, "b n"]]]:
    """What each arrival takes; one that is still on its way when the next one has been started."""
    before: Arrival | None = None
    for arrival in arrivals:
        if before is not None:
            yield before.take()
        before = None if arrival.is_there else arrival
        if arrival.is_there:
            yield arrival.take()
    if before is not None:
        yield before.take()


def finished(items: Iterable[T], finish: Callable[[T], R], waiting: int = 1) -> Iterator[R]:
    """``finish(item)`` of each in order, in another thread, while the next items are made.

    Args:
        waiting: finished or unfinished ones that are held before the next item is made.

    Raises:
        Whatever ``finish`` raises, as it is; later items are then not finished. When the caller
        stops (Ctrl-C), those that were made are.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1, "finish") as pool:
        try:
            for item in items:
                pending.append(pool.submit(finish, item))
                del item  # its memory is the other thread's alone
                while len(pending) > waiting or (pending and pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except Exception:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
