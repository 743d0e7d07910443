"""Run a stage in this process, while it is submitted: for tests and for a debugger."""

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from experiments.engines.base import Engine, Inventory, Job, JobState, goes_back, local_inventory
from experiments.worker.main import run_command
from experiments.worker.signals import StopFlag

_log = logging.getLogger(__name__)


class InlineEngine(Engine):
    """Runs one job at a time, in this process; its output stays on the terminal, and `job.env` is not applied."""

    def __init__(self) -> None:
        self._states: dict[str, JobState] = {}
        self._running: tuple[str, StopFlag] | None = None

    def submit(self, job: Job) -> None:
        """Run the job to its end.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed meanwhile, and the caller does not handle it otherwise; the stage
                has saved its state and ended.
        """
        if job.exclude:
            _log.warning("%s", goes_back(job))
        python_dash_m_worker = 3
        stop = StopFlag()
        self._running = job.name, stop
        with _signals_request(stop):
            code, message = run_command(job.command[python_dash_m_worker:], stop, log=False)
            self._states[job.name] = JobState(True, code, message)

    def poll(self) -> Mapping[str, JobState]:
        """The state of every job ever submitted: they have all ended."""
        return dict(self._states)

    def cancel(self, name: str) -> None:
        """Ask the job to end, from another thread than the one that runs it."""
        if self._running is not None and self._running[0] == name:
            self._running[1].set()

    def inventory(self) -> Inventory:
        """This machine."""
        return local_inventory()

    def close(self) -> None:
        """Do nothing: no resources are held."""


@contextmanager
def _signals_request(stop: StopFlag) -> Iterator[None]:
    """Request a stop on SIGINT and SIGTERM, and deliver them at the end; a second SIGINT is delivered at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            signal.default_int_handler(number, None)
        received.append(number)
        stop.set()

    previous: dict[int, Any] = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
