"""A request to save and end, made by a signal handler and looked at between steps."""

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
        """Ask for the end; more often is the same as once."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether the end was asked for."""
        return self._is_set


HANGS = StopFlag()
"""Set where a thread of this process hangs in a library: Python would wait for that at its end."""


def leave(code: int) -> NoReturn:
    """End this process with an exit code; what was printed is written out, and no thread is waited for if one hangs."""
    if HANGS.is_set():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


ORPHAN_LOOK_S = 1.0


def end_with(parent: int, by: signal.Signals = signal.SIGTERM) -> None:
    """Have a signal sent to this process when the process `parent`, which started it, dies, however it dies (Linux)."""
    set_parent_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_parent_death_signal, by)
    if os.getppid() != parent:
        os.kill(os.getpid(), by)


def kill_orphan(parent: int, after_s: float) -> None:
    """Have this process killed so long after the process `parent`, which started it, has died, if it has not ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_LOOK_S)
        time.sleep(after_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="orphan", daemon=True).start()


@contextmanager
def signals_call(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM request a stop; a second SIGINT interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's affair
        return
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        asked = True
        stop()

    previous: dict[int, Any] = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
