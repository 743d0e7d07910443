"""The state of jobs by squeue: one rare query for all of them, on a thread of its own."""

import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.engines.slurm.commands import CommandError, output_of

QUERY_EVERY_S = 5.0
"""Minimum time between two queries, however many jobs there are: all users share a site's scheduler."""

ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)
"""States that a job leaves only by being queued again. Slurm reports PREEMPTED of what it has not queued again."""

_log = logging.getLogger(__name__)


class Pace:
    """Rate limit of this process's queries to Slurm: one in `QUERY_EVERY_S`, of any kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest = -math.inf
        """Monotonic time of the latest turn, maybe one to come."""

    def take(self) -> bool:
        """Take the turn for a query, if it is time for one."""
        with self._lock:
            now = time.monotonic()
            if now - self._latest < QUERY_EVERY_S:
                return False
            self._latest = now
            return True

    def wait(self) -> None:
        """Wait for a turn; the next one is reserved for this caller."""
        with self._lock:
            now = time.monotonic()
            self._latest = max(now, self._latest + QUERY_EVERY_S)
            pause = self._latest - now
        time.sleep(pause)


PACE = Pace()


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """State of a job in Slurm's words."""

    state: str
    reason: str
    """Why it waits, or `None`."""

    @property
    def ended(self) -> bool:
        """True if it is over."""
        return self.state in ENDED


def status_of(jobs: Mapping[str, QueueStatus], job: str) -> QueueStatus | None:
    """Status of a job; None if squeue does not list it.

    Tasks of an array that were cancelled together while they waited have no lines of their own, but one of the array.
    """
    return jobs.get(job) or jobs.get(job.partition("_")[0])


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """An answer of squeue."""

    queried: float = -1.0
    """Monotonic time of the query; negative before the first answer."""
    jobs: dict[str, QueueStatus] = field(default_factory=dict)
    """By id; `7_1` in an array."""


class SlurmQueue:
    """The jobs of a name in Slurm's queue."""

    def __init__(self, name: str) -> None:
        self._name, self._environment = name, dict(os.environ)
        self._latest = QueueSnapshot()
        self._thread: threading.Thread | None = None
        self._problem = ""
        self.queries = 0
        """Number of queries so far."""

    def snapshot(self) -> QueueSnapshot:
        """Return the latest answer; start a new query in the background if it is time for one."""
        if (self._thread is None or not self._thread.is_alive()) and PACE.take():
            self.queries += 1
            self._thread = threading.Thread(target=self._query, args=(time.monotonic(),), name="squeue", daemon=True)
            self._thread.start()
        return self._latest

    def _query(self, now: float) -> None:
        problem = ""
        try:
            # This process's environment is changed for a moment whenever jobs are submitted.
            self._latest = QueueSnapshot(now, query(self._name, self._environment))
        except CommandError as error:
            problem = str(error)
        if bool(problem) != bool(self._problem):  # jobs go on meanwhile
            _log.warning(
                "Slurm %s", f"does not answer ({problem}); it is queried again" if problem else "answers again"
            )
        self._problem = problem


def query(
    name: str, environment: Mapping[str, str] | None = None, *, limit_s: float | None = None
) -> dict[str, QueueStatus]:
    """Query the status of all of this user's jobs of a name, by id."""
    # Not by ids: Slurm refuses a list of which it knows none, and it may be long.
    options = ("--noheader", "--array", "--states=all", f"--user={os.getuid()}", f"--name={name}", "--format=%i|%T|%r")
    return read_squeue(output_of("squeue", *options, limit_s=limit_s, environment=environment))


def read_squeue(text: str) -> dict[str, QueueStatus]:
    """The jobs of squeue's answer, of which each line is `ID|STATE|REASON`."""
    rows = (line.strip().split("|", 2) for line in text.splitlines() if line.count("|") >= 2)
    return {job: QueueStatus(state, reason) for job, state, reason in rows}
