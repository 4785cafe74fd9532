"""Processes that decode images ahead of the training, and end with it."""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

AHEAD = 2  # batches that each process prepares ahead


def decoded(dataset: Dataset, keys: Any, workers: int) -> Iterator[Any]:
    """``dataset[key]`` for every key, in order; or, without keys, what it iterates over.

    An exception that a process *returns* is raised here as it is, without the traceback of the
    other process around it. Global random state is not touched.

    Args:
        keys: endless iterable; None for an iterable data set, which every process reads on its own,
            and whose items come in turns.
        workers: processes; 0 decodes in this one.

    Raises:
        RuntimeError: a process ended on its own.
    """
    loader = _loader(dataset, keys, workers)
    if workers:
        with _quiet_start(_method() == "forkserver"):
            items = iter(loader)
    else:
        items = iter(loader)
    try:
        while True:
            item = _next(items)
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        del items  # else the traceback of an error keeps the processes


def _next(items: Iterator[Any]) -> Any:
    try:
        return next(items)
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error) and "killed by signal" not in str(error):
            raise
        raise RuntimeError(
            "a process that decodes images was ended from outside, perhaps since memory ran out; "
            "use fewer workers, or workers=0 to decode in this process"
        ) from error


def _loader(dataset: Dataset, keys: Any, workers: int) -> DataLoader:
    """A forkserver where there is one: a fork of this process would inherit locks that its other
    threads (CUDA, gloo, Arrow, a progress bar) hold, and their sockets; a spawned process imports
    torch each time."""
    several: dict[str, Any] = {}
    if workers:
        context = multiprocessing.get_context(_method())
        if _method() == "forkserver":
            tables = [name for name in ("datasets",) if name in sys.modules]
            context.set_forkserver_preload(["arimage.training.images", *tables])
        several = {"multiprocessing_context": context, "prefetch_factor": AHEAD}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are CPUs
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=keys,
            collate_fn=_as_it_is,
            num_workers=workers,
            worker_init_fn=settle,
            generator=torch.Generator(),  # else a number of the global one is drawn
            **several,
        )


def _method() -> str:
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


def _as_it_is(item: Any) -> Any:
    return item


def settle(worker: int) -> None:
    """Makes a new worker deaf to Ctrl-C, and ends it at once when its parent is killed: PyTorch's
    own watch looks at the parent process, which is the forkserver, and that lives as long as a
    worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _quiet_start(server: bool) -> Iterator[None]:
    """Starts processes that do not run the user's script again and that Ctrl-C, which a terminal
    sends to all, does not reach; it reaches this one when they are started."""
    interrupts: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    handled = before is not None and threading.current_thread() is threading.main_thread()
    if handled:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server and its forks inherit it
    if server:
        from multiprocessing import forkserver

        forkserver.ensure_running()
    if handled:
        signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # multiprocessing imports its file elsewhere
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if handled:
            signal.signal(signal.SIGINT, before)
    if interrupts:
        signal.raise_signal(signal.SIGINT)
