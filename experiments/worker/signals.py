"""Stop requests: a flag that signal handlers set and a stage polls between steps, and signals between processes."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn


class StopFlag:
    """Set once, for good, from any thread and from signal handlers.

    Not `threading.Event`: a second signal that arrives while the handler of the first holds the event's lock waits
    for that lock for ever, in the thread that holds it. A process whose parent dies gets its signal several times.
    """

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Request a stop; repeated requests change nothing."""
        self._is_set = True

    def is_set(self) -> bool:
        """Return whether a stop was requested."""
        return self._is_set


HANGS = StopFlag()
"""Set if a thread of this process hangs in a library: Python would wait for it at exit."""


def leave(code: int) -> NoReturn:
    """Flush the output and exit with a code, without waiting for threads if one hangs."""
    if HANGS.is_set():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


ORPHAN_POLL_S = 1.0


def end_with(parent: int, by: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send a signal to this process when its parent dies for any reason (Linux)."""
    set_parent_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_parent_death_signal, by)
    if os.getppid() != parent:
        os.kill(os.getpid(), by)


def kill_orphan(parent: int, after_s: float) -> None:
    """Kill this process `after_s` seconds after its parent has died, unless it ends before."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_POLL_S)
        time.sleep(after_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="orphan", daemon=True).start()


def set_by_signals(stop: StopFlag) -> None:
    """Have SIGTERM, SIGINT and SIGUSR2 set the flag, as long as this process lives."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda *_: stop.set())


@contextmanager
def stop_on_signals(
    stop: Callable[[], None], *, second_interrupts: bool = True, redeliver: bool = False
) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM within this scope; in another thread than the main one, do nothing.

    Args:
        stop: requests an orderly end.
        second_interrupts: a second SIGINT raises KeyboardInterrupt at once.
        redeliver: after the scope, the first signal is delivered as if it came only then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received and second_interrupts and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        received.append(number)
        stop()

    previous: dict[int, Any] = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received and redeliver:
        signal.raise_signal(received[0])
