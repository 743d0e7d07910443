"""A request to save and end, made by a signal handler and looked at between steps."""

import ctypes
import os
import signal
import sys


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


def end_with(parent: int, by: signal.Signals = signal.SIGTERM) -> None:
    """Have a signal sent to this process when the process `parent`, which started it, dies, however it dies (Linux)."""
    set_parent_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_parent_death_signal, by)
    if os.getppid() != parent:
        os.kill(os.getpid(), by)
