"""Loader processes: batches are read ahead of the steps that use them."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from multiprocessing import resource_tracker
from types import ModuleType
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader

from smaug_core.data.loading.child_process import end_with_parent
from smaug_core.errors import SmaugError
from smaug_core.stage_protocol import PREFETCH

Request = TypeVar("Request")
Loaded = TypeVar("Loaded")

ASKING = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2}
"""Signals that ask for a checkpoint, and often go to a whole job."""


class LoaderDiedError(Exception):
    """A loader process was killed, e.g. for want of memory. It is no fault of the data: another try may do."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """Answer of a loader process to a request."""

    loaded: Any
    error: SmaugError | None
    """Raised where the answer is used, and not before."""
    cpu_s: float
    """CPU time of reading it."""

    def pin_memory(self) -> "_Answer":
        """Page-locked, for fast copies to a GPU; torch's DataLoader calls this."""
        return _Answer(None if self.loaded is None else self.loaded.pin_memory(), self.error, self.cpu_s)


_STARTED = _Answer(None, None, 0.0)


@dataclass(frozen=True, slots=True)
class _Reading(Generic[Request, Loaded]):
    """A reading function as a torch data set; its item None says that the process is up."""

    read: Callable[[Request], Loaded]

    def __getitem__(self, request: Request | None) -> _Answer:
        if request is None:
            return _STARTED
        start = time.thread_time()
        try:
            loaded, error = self.read(request), None
        except SmaugError as found:
            loaded, error = None, found
        return _Answer(loaded, error, time.thread_time() - start)


class Loader(Generic[Request, Loaded]):
    """The results of `read(request)` for each request, in order, read by other processes ahead of their use.

    They are the same for any number of processes, which start from a fork server that has torch but not the caller's
    modules, use one thread each, and end with this process.
    """

    def __init__(
        self,
        read: Callable[[Request], Loaded],
        requests: Iterable[Request],
        *,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """Start the processes, and wait until all are up.

        Args:
            read: called in the processes; it and what it returns can be pickled, and the latter has `pin_memory()`.
            requests: read from as the processes become free.
            workers: number of processes; 0 reads in this one.
            pin_memory: whether results are moved to page-locked memory.

        Raises:
            LoaderDiedError: a loader process was killed.
        """
        self.workers = workers
        self.wait_s = 0.0
        """Wall time that the caller has waited for results."""
        self.used_cpu_s = 0.0
        """CPU time of loader processes for the results that were used; 0 without such processes."""
        loader: DataLoader[Any] = DataLoader(
            _Reading(read),  # type: ignore[arg-type]  # it has all that is used of a Dataset
            batch_size=None,
            sampler=chain(repeat(None, workers), requests),  # one for each process, in turn
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=_start if workers else None,
            prefetch_factor=PREFETCH if workers else None,
        )
        with _plain_children():
            self._answers: Iterator[_Answer] = iter(loader)
        for _ in range(workers):
            self._next()

    def __iter__(self) -> "Loader[Request, Loaded]":
        return self

    def __next__(self) -> Loaded:
        """The next result.

        Raises:
            SmaugError: `read` raised it for this request.
            LoaderDiedError: a loader process was killed.
        """
        start = time.monotonic()
        answer = self._next()
        self.wait_s += time.monotonic() - start
        self.used_cpu_s += answer.cpu_s if self.workers else 0.0
        if answer.error is not None:
            raise answer.error
        loaded: Loaded = answer.loaded
        return loaded

    def cpu_s(self) -> float:
        """CPU time of the loader processes since they exist, read ahead or not; 0 without such processes."""
        if not self.workers:
            return 0.0
        import psutil

        used = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
        return float(sum(times.user + times.system for times in used))

    def close(self) -> None:
        """End the processes."""
        self._answers = iter(())

    def _next(self) -> _Answer:
        try:
            return next(self._answers)
        except RuntimeError as error:
            raise self._explained(error) from error

    def _explained(self, error: RuntimeError) -> Exception:
        """Name the signal that killed a loader process, in the words of torch's own message for it."""
        for process in getattr(self._answers, "_workers", []):
            if process.exitcode:
                code = process.exitcode
                how = f"is killed by signal: {signal.strsignal(-code)}" if code < 0 else f"ended with exit code {code}"
                return LoaderDiedError(f"DataLoader worker (pid {process.pid}) {how}")
        return error


def _as_it_is(answer: Any) -> Any:
    return answer


def _start(worker: int) -> None:
    end_with_parent()
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)  # torch has set its own handlers


@contextmanager
def _plain_children() -> Iterator[None]:
    """Start processes that import nothing of the program's main module, and that signals to its group do not end.

    The fork server inherits the mask of blocked signals.
    """
    multiprocessing.set_forkserver_preload(["smaug_core.data.loading.loader"])
    main = sys.modules["__main__"]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    resource_tracker.ensure_running()  # its start unblocks some of them
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
