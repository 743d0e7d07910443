"""How a job of Slurm's ended: by its supervisor's word, by Slurm's, and by what it printed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.engines.base import Job, JobState
from experiments.engines.slurm.folder import is_final, last_word
from experiments.engines.slurm.job import WORD, in_folder
from experiments.engines.slurm.queue import QueueSnapshot, standing_of
from experiments.store.attempt import read_attempts
from experiments.store.documents import read_document
from experiments.store.failures import FailureClass
from experiments.worker.outcome import INTERRUPTED

SHOWN_WITHIN_S = 10.0
"""A job that Slurm does not list so long after it was submitted is one it has forgotten."""

REASONS: dict[str, FailureClass] = {
    "BOOT_FAIL": "node_lost",
    "CANCELLED": "cancelled",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_lost",
    "OUT_OF_MEMORY": "host_memory",
    "PREEMPTED": "preempted",
    "TIMEOUT": "timeout",
}
"""What Slurm's states say about an end. FAILED and COMPLETED only repeat the worker."""

LAST_LINES = 5
"""So much is told of what a job printed that failed early."""

NOT_TELLING = re.compile(r"srun:|slurmstepd:|Current thread\b|<no Python frame>")
"""Begins lines of a job's output that tell no cause, but which job, node or thread it was."""


@dataclass(slots=True)
class Placed:
    """A job that Slurm has."""

    job: Job
    id: str
    """As squeue prints it."""
    folder: Path
    """Of its submission, maybe by an earlier driver."""
    since: float
    """Monotonic time when we knew of it first."""
    inherited: bool = False
    """From an earlier driver."""
    cancelled: bool = False

    @property
    def file(self) -> str:
        """Name of its files in the folders `cancel` and `ended`."""
        return in_folder(self.id, self.job.name)

    def told(self) -> dict[str, Any] | None:
        """What its supervisor told at its end."""
        return read_document(last_word(self.folder, self.id, self.job.name), WORD)


def end_of(placed: Placed, told: dict[str, Any] | None, look: QueueSnapshot) -> JobState | None:
    """How a job ended, by what its supervisor told and Slurm says; none while it has not."""
    code = None if told is None else int(told["exit_code"])
    reason = None if told is None else told.get("reason")
    if is_final(told):
        return JobState(True, code)
    standing = standing_of(look.jobs, placed.id) if look.asked > placed.since else None
    if standing is None:
        if look.asked - placed.since < SHOWN_WITHIN_S:
            return None
        return JobState(True, code, "" if told else f"Slurm no longer knows job {placed.id}", reason)
    if not standing.ended:
        return None
    if placed.cancelled:
        return JobState(True, INTERRUPTED, "" if told else "cancelled before it started")
    if told is None and standing.state == "FAILED":
        return _failed_silently(placed)
    message = _ended_by_slurm(placed, standing.state) if standing.state in REASONS or told is None else ""
    return JobState(True, code, message, REASONS.get(standing.state, reason))


def explained(ended: JobState, placed: Placed) -> JobState:
    """An end; of a job that failed before its worker could say a word, why: its set-up lines, no Python or home there.

    Slurm opens a job's log before it starts anything.
    """
    if ended != _failed_silently(placed):
        return ended
    if any(attempt.slurm_job == placed.id for attempt in read_attempts(placed.job.directory)):
        return ended
    began, python = "its job failed before the stage began", placed.job.command[0]
    log = placed.folder / "slurm" / f"{placed.id}_0_log.out"
    try:
        printed = log.read_text(errors="replace")
    except OSError as error:
        home = placed.folder.parent.parent
        needed = f"right would be {home} and {python} on every node, at the same path"
        return JobState(True, None, f"{began}: it left no log ({log}: {error.strerror}); {needed}", "user_error")
    lines = [line.strip() for line in printed.splitlines()]
    said = "; ".join([line for line in lines if line and not NOT_TELLING.match(line)][-LAST_LINES:])
    code = re.search(r"^srun: error: .*Exited with exit code (\d+)", printed, re.MULTILINE)
    exit_code = f", exit code {code[1]}" if code else ""
    needed = f"right would be set-up lines in the profile that end well, and {python} on every node"
    return JobState(True, None, f"{began}: {said or 'it printed nothing'} ({log}{exit_code}); {needed}", "user_error")


def _failed_silently(placed: Placed) -> JobState:
    """The end of a job whose supervisor was killed, or never began."""
    return JobState(True, None, _ended_by_slurm(placed, "FAILED"), "killed")


def _ended_by_slurm(placed: Placed, state: str) -> str:
    return f"Slurm ended job {placed.id}: {state}"
