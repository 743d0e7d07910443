"""Cancellation: requests to end stages, forwarded to the engine, and repeated where it could not take one."""

import logging
from collections.abc import Callable, Collection, Iterable

from experiments.background import BackgroundThread
from experiments.engines.base import Engine
from smaug_core.errors import SmaugError

POLL_S = 1.0
"""Time between two polls of the requests."""

_log = logging.getLogger(__name__)


class Canceller:
    """Cancels jobs of an engine. An error of one is logged, and the job is cancelled again later.

    Args:
        engine: has the jobs, or knows them from an earlier driver.
        requests: returns the fingerprints of stages to cancel; polled in another thread.
        is_running: returns whether a stage runs, here or elsewhere.
    """

    def __init__(
        self, engine: Engine, requests: Callable[[], Collection[str]], is_running: Callable[[str], bool]
    ) -> None:
        self._engine, self._requests, self._is_running = engine, requests, is_running
        self._failed: list[str] = []
        """Fingerprints that `cancel` was given and the engine has not taken yet."""
        self._forwarded: set[str] = set()
        self._warned: set[str] = set()
        self.requested: frozenset[str] = frozenset()
        """Stages that are requested to end, as of the last poll."""

    def watch(self) -> BackgroundThread:
        """Forward requests while the engine blocks the thread of the run, as `inline` does."""
        return BackgroundThread(self._poll, POLL_S, "cancellations")

    def cancel(self, names: Iterable[str]) -> None:
        """Ask jobs to end."""
        self._failed = [name for name in names if not self._try(name)] + self._failed

    def retry(self) -> None:
        """Ask jobs again that could not be asked before."""
        self._failed = [name for name in self._failed if not self._try(name)]

    def _poll(self) -> bool:
        try:
            self.requested = frozenset(self._requests())
        except OSError as error:  # the disk is away
            self._warn_once(f"requests to cancel stages cannot be read ({error}); they are read again")
        for name in self.requested - self._forwarded:
            if self._is_running(name) and self._try(name):
                self._forwarded.add(name)
        return True

    def _try(self, name: str) -> bool:
        try:
            self._engine.cancel(name)
        except (OSError, SmaugError) as error:
            self._warn_once(f"stage {name[:12]} cannot be cancelled now ({error}); it is tried again")
            return False
        return True

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s", message)
