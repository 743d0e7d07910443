"""Background threads: a task that is repeated while a context lasts."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class BackgroundThread:
    """Daemon thread that calls a task at equal times, from the entry of a context to its exit.

    Args:
        task: returns whether to call it again; must not raise.
        every_s: seconds between two calls, and before the first.
        name: of the thread.
    """

    def __init__(self, task: Callable[[], bool], every_s: float, name: str) -> None:
        self._task, self._every_s, self._ended = task, every_s, threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread, after the call that may be running."""
        self._ended.set()
        self._thread.join()

    def is_alive(self) -> bool:
        """Return whether the task may be called again."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            if not self._task():
                return
