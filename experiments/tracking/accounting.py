"""Slurm's accounting of attempts that ran in its jobs, stored beside each attempt.

Without accounting, or without Slurm, nothing is queried and nothing changes.
"""

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.engines.slurm.accounting import Sacct, by_job, run_at
from experiments.scheduler.events import Event
from experiments.stages.stage import Stage
from experiments.store.attempt import ACCOUNTING, Attempt, read_attempts
from experiments.store.documents import StoreError, write_json
from experiments.store.store import Store, all_stages

PATIENCE_S = 15.0
"""Time that the end of a run waits for what Slurm's database does not know yet."""
DRIVER_LIMIT_S = 10.0
"""Limit of a driver's query: one that hangs delays what is recorded next, and the end of the run."""
KNOWN_WITHIN_S = 600.0
"""Age of an attempt's last heartbeat after which a driver queries it once, and no more: Slurm's database may never know
it. `smaug sync` queries it again."""
ENDS = frozenset(("retry", "done", "failed", "cancelled"))
"""Events after which an attempt may be over."""

_log = logging.getLogger(__name__)


def unaccounted(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return the attempts that are over and whose time Slurm may know better: those with GPUs, and those that died.

    An attempt that ended normally without GPUs has recorded its processor time itself.
    """
    return [
        attempt
        for attempt in attempts
        if attempt.owner.slurm is not None
        and attempt.accounting is None
        and (attempt.owner.gpus or attempt.end is None)
        and attempt.state != "running"
    ]


def account(attempts: Sequence[Attempt], sacct: Sacct) -> list[Attempt]:
    """Query attempts all at once; return those with an answer, which is in their folders now.

    Raises:
        StoreError: an answer cannot be written.
    """
    jobs = [(attempt, attempt.owner.slurm) for attempt in attempts if attempt.owner.slurm is not None]
    runs, accounted = by_job(sacct.query({slurm.job for _, slurm in jobs})), []
    for attempt, slurm in jobs:
        run = run_at(runs.get(slurm.job, ()), attempt.owner.started, slurm.restart)
        if run is not None and run.end is not None:
            answer = {"source": "sacct", "state": run.state, "start": run.start, "end": run.end, "cpu_s": run.cpu_s}
            write_json(attempt.directory / ACCOUNTING, answer | {"time": time.time()})
            accounted.append(attempt)
    return accounted


def account_all(home: Path) -> int:
    """Query all attempts in a home folder; return how many were answered.

    Raises:
        StoreError: an answer cannot be written, or an attempt cannot be read.
    """
    return len(account([attempt for facts in all_stages(home) for attempt in unaccounted(facts.attempts)], Sacct()))


class Accountant:
    """Accounting of the attempts of a driver's stages. Events come from one thread, queries from another.

    Args:
        store: holds the attempts.
        stages: the driver's; an earlier driver may have left some of their attempts unaccounted.
    """

    def __init__(self, store: Store, stages: Iterable[Stage]) -> None:
        self._store, self._sacct, self._lock = store, Sacct(DRIVER_LIMIT_S), threading.Lock()
        self._due = {stage.fingerprint: stage for stage in stages}
        self._is_waiting = False
        """Whether Slurm may soon know more about some attempts."""

    def __call__(self, event: Event) -> None:
        """Note that an attempt of a stage may be over."""
        if event.kind in ENDS:
            with self._lock:
                self._due[event.stage.fingerprint] = event.stage

    def finish(self) -> list[Stage]:
        """Query until Slurm's database knows every end, but not for long; return the stages as `query` does."""
        give_up, corrected = time.monotonic() + PATIENCE_S, self.query()
        while self._is_waiting and time.monotonic() < give_up:  # each query waits for its turn
            corrected += self.query()
        return corrected

    def query(self) -> list[Stage]:
        """Query the attempts that are over; return the stages whose hours were corrected."""
        self._is_waiting = False
        if self._sacct.is_off or not (self._store.home / "slurm").is_dir():
            return []
        with self._lock:
            due, self._due = self._due, {}
        attempts = {name: self._attempts_of(stage) for name, stage in due.items()}
        queried = [(name, attempt) for name, each in attempts.items() for attempt in unaccounted(each)]
        answered = {attempt.directory for attempt in self._account([attempt for _, attempt in queried])}
        since = time.time() - KNOWN_WITHIN_S
        unknown = [(name, attempt) for name, attempt in queried if attempt.directory not in answered]
        later = {name for name, attempt in unknown if attempt.last.time > since}
        running = {name for name, each in attempts.items() if each and each[-1].state == "running"}
        with self._lock:
            self._due = {name: due[name] for name in later | running} | self._due
        self._is_waiting = bool(later)
        return [due[n] for n in dict.fromkeys(name for name, attempt in queried if attempt.directory in answered)]

    def _attempts_of(self, stage: Stage) -> list[Attempt]:
        try:
            return read_attempts(self._store.directory(stage))
        except StoreError as error:
            _log.warning("not queried in Slurm's accounting: %s", error)
            return []

    def _account(self, attempts: list[Attempt]) -> list[Attempt]:
        try:
            return account(attempts, self._sacct)
        except StoreError as error:
            _log.warning("Slurm's accounting is not stored: %s", error)
            return []
