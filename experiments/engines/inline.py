"""Run a stage in this process, while it is submitted: for tests and for a debugger."""

import logging
from collections.abc import Mapping

from experiments.engines.base import Engine, Inventory, Job, JobState, goes_back, local_inventory
from experiments.worker.main import run_command
from experiments.worker.signals import StopFlag, stop_on_signals

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
        with stop_on_signals(stop.set, redeliver=True):
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
