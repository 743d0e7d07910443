"""Work on many items by several processes, with its results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from smaug_core.data.loading.child_process import end_with_parent
from smaug_core.errors import SmaugError

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 4
"""Items that wait for each process, so that it never waits for this one."""


def in_processes(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Yield `function(item)` of each item in order, computed ahead by so many processes; by this one if it is one.

    Raises:
        SmaugError: a process died.
    """
    if workers == 1:
        yield from map(function, items)
        return
    rest, pending = iter(items), deque[Future[R]]()
    # Fresh processes, not forks: the caller may have threads.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent)
    try:
        for item in islice(rest, workers * AHEAD):
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()
            for item in islice(rest, 1):
                pending.append(pool.submit(function, item))
    except BrokenProcessPool as error:
        raise SmaugError(
            f"one of {workers} processes died (killed, or out of memory); try fewer (--workers)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
