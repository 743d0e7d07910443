"""What Slurm says of jobs: one query for all of them, seldom, and never in the way of whoever asks."""

import logging
import math
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from smaug_core.errors import SmaugError

QUERY_EVERY_S = 5.0
"""At most one query in so long, however many jobs there are: a site's scheduler is everybody's."""
QUERY_LIMIT_S = 60.0

ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)
"""States that a job leaves only by being queued again. Slurm says PREEMPTED of what it has not queued again."""

_log = logging.getLogger(__name__)


class Pace:
    """Whose turn it is to ask Slurm: one question of this process in `QUERY_EVERY_S`, whoever asks what."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest = -math.inf
        """Monotonic time of the latest turn, maybe one to come."""

    def take(self) -> bool:
        """Whether it is time for a question; then it is the caller's turn."""
        with self._lock:
            now = time.monotonic()
            if now - self._latest < QUERY_EVERY_S:
                return False
            self._latest = now
            return True

    def wait(self) -> None:
        """Return when it is the caller's turn: the next one is kept free of others."""
        with self._lock:
            now = time.monotonic()
            self._latest = max(now, self._latest + QUERY_EVERY_S)
            pause = self._latest - now
        time.sleep(pause)


PACE = Pace()


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """Where a job stands in Slurm's words."""

    state: str
    reason: str
    """Why it waits, or `None`."""

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED


def standing_of(jobs: Mapping[str, QueueStatus], job: str) -> QueueStatus | None:
    """Where a job stands by Slurm's answer.

    Tasks of an array that were cancelled together while they waited have no lines of their own, but one of the array.
    """
    return jobs.get(job) or jobs.get(job.partition("_")[0])


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """An answer of Slurm."""

    asked: float = -1.0
    """Monotonic time of the question."""
    jobs: dict[str, QueueStatus] = field(default_factory=dict)
    """By id; `7_1` in an array."""


class SlurmQueue:
    """Asks for all jobs of a name.

    Args:
        name: the jobs' name.
    """

    def __init__(self, name: str) -> None:
        self._name, self._environment = name, dict(os.environ)
        self._latest = QueueSnapshot()
        self._asking: threading.Thread | None = None
        self._complained = ""
        self.queries = 0
        """Asked so far."""

    def look(self) -> QueueSnapshot:
        """The latest answer; asks anew beside, if it is time."""
        if (self._asking is None or not self._asking.is_alive()) and PACE.take():
            self.queries += 1
            self._asking = threading.Thread(target=self._ask, args=(time.monotonic(),), name="squeue", daemon=True)
            self._asking.start()
        return self._latest

    def _ask(self, now: float) -> None:
        try:
            # This process's environment is changed for a moment whenever jobs are submitted.
            self._latest = QueueSnapshot(now, query(self._name, self._environment, limit_s=QUERY_LIMIT_S))
        except QueryError as error:
            self._complain(str(error))
            return
        self._complain("")

    def _complain(self, why: str) -> None:
        """Tell once that Slurm does not answer, and once that it does again; jobs go on meanwhile."""
        if bool(why) != bool(self._complained):
            _log.warning("Slurm %s", f"does not answer ({why}); it is asked again" if why else "answers again")
        self._complained = why


class QueryError(SmaugError):
    """Slurm gave no answer."""


def query(name: str, environment: Mapping[str, str] = os.environ, *, limit_s: float) -> dict[str, QueueStatus]:
    """Ask once for all of this user's jobs of a name, and wait `limit_s` at most; gives them by id.

    Raises:
        QueryError: there is no answer.
    """
    # Not by ids: Slurm refuses a list of which it knows none, and it may be long.
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}"]
    try:
        ran = subprocess.run(
            [*command, f"--name={name}", "--format=%i|%T|%r"],
            capture_output=True,
            text=True,
            timeout=limit_s,
            env=environment,
            check=False,
            start_new_session=True,  # Ctrl-C is for this process
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueryError(str(error)) from error
    if ran.returncode != 0:
        raise QueryError(ran.stderr.strip() or f"squeue ended with exit code {ran.returncode}")
    return read_squeue(ran.stdout)


def read_squeue(text: str) -> dict[str, QueueStatus]:
    """The jobs of squeue's answer, of which each line is `ID|STATE|REASON`."""
    rows = (line.strip().split("|", 2) for line in text.splitlines() if line.count("|") >= 2)
    return {job: QueueStatus(state, reason) for job, state, reason in rows}
