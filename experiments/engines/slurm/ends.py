"""The end of a job of Slurm: by its supervisor's exit record, by Slurm, and by what it printed."""

import re
from dataclasses import dataclass
from pathlib import Path

from experiments.engines.base import Job, JobState
from experiments.engines.slurm.job import EXIT_RECORD, ExitRecord, file_name
from experiments.engines.slurm.queue import QueueSnapshot, status_of
from experiments.engines.slurm.submissions import exit_file, is_final
from experiments.store.attempt import read_attempts
from experiments.store.documents import read_document
from experiments.store.failures import FailureClass
from experiments.worker.outcome import INTERRUPTED

SHOWN_WITHIN_S = 10.0
"""Slurm has forgotten a job that it does not list so long after it was submitted."""

REASONS: dict[str, FailureClass] = {
    "BOOT_FAIL": "node_lost",
    "CANCELLED": "cancelled",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_lost",
    "OUT_OF_MEMORY": "host_memory",
    "PREEMPTED": "preempted",
    "TIMEOUT": "timeout",
}
"""Failure classes by Slurm's states. FAILED and COMPLETED only repeat the worker."""

LAST_LINES = 5
"""Lines shown of what a job printed that failed early."""

IRRELEVANT = re.compile(r"srun:|slurmstepd:|Current thread\b|<no Python frame>")
"""Beginnings of lines of a job's output that name no cause, but the job, node or thread."""


@dataclass(slots=True)
class SubmittedJob:
    """A job that Slurm has."""

    job: Job
    id: str
    """As squeue prints it."""
    folder: Path
    """Of its submission, maybe by an earlier driver."""
    since: float
    """Monotonic time when this driver began to follow it."""
    inherited: bool = False
    """From an earlier driver."""
    cancelled: bool = False

    @property
    def file(self) -> str:
        """Name of its files in the folders `cancel` and `ended`."""
        return file_name(self.id, self.job.name)

    def exit_record(self) -> ExitRecord | None:
        """Its supervisor's record of its end; None before that."""
        return read_document(exit_file(self.folder, self.id, self.job.name), EXIT_RECORD)


def end_of(submitted: SubmittedJob, record: ExitRecord | None, snapshot: QueueSnapshot) -> JobState | None:
    """The end of a job, by its supervisor's exit record and Slurm's queue; None while it has not ended."""
    code = None if record is None else record.exit_code
    reason = None if record is None else record.reason
    if is_final(record):
        return JobState(True, code)
    status = status_of(snapshot.jobs, submitted.id) if snapshot.queried > submitted.since else None
    if status is None:
        if snapshot.queried - submitted.since < SHOWN_WITHIN_S:
            return None
        return JobState(True, code, "" if record else f"Slurm no longer knows job {submitted.id}", reason)
    if not status.ended:
        return None
    if submitted.cancelled:
        return JobState(True, INTERRUPTED, "" if record else "cancelled before it started")
    if record is None and status.state == "FAILED":
        return _failed_silently(submitted)
    message = _ended_by_slurm(submitted, status.state) if status.state in REASONS or record is None else ""
    return JobState(True, code, message, REASONS.get(status.state, reason))


def explained(ended: JobState, submitted: SubmittedJob) -> JobState:
    """An end, with the cause where a job failed before its worker began: set-up lines, no Python or home there.

    Slurm opens a job's log before it starts anything.
    """
    if ended != _failed_silently(submitted):
        return ended
    if any(attempt.slurm_job == submitted.id for attempt in read_attempts(submitted.job.directory)):
        return ended
    began, python = "its job failed before the stage began", submitted.job.command[0]
    log = submitted.folder / "slurm" / f"{submitted.id}_0_log.out"
    try:
        printed = log.read_text(errors="replace")
    except OSError as error:
        home = submitted.folder.parent.parent
        expected = f"expected {home} and {python} on every node, at the same path"
        return JobState(True, None, f"{began}: it left no log ({log}: {error.strerror}); {expected}", "user_error")
    lines = [line.strip() for line in printed.splitlines()]
    output = "; ".join([line for line in lines if line and not IRRELEVANT.match(line)][-LAST_LINES:])
    code = re.search(r"^srun: error: .*Exited with exit code (\d+)", printed, re.MULTILINE)
    exit_code = f", exit code {code[1]}" if code else ""
    expected = f"expected set-up lines in the profile that succeed, and {python} on every node"
    message = f"{began}: {output or 'it printed nothing'} ({log}{exit_code}); {expected}"
    return JobState(True, None, message, "user_error")


def _failed_silently(submitted: SubmittedJob) -> JobState:
    """The end of a job whose supervisor was killed, or never began."""
    return JobState(True, None, _ended_by_slurm(submitted, "FAILED"), "killed")


def _ended_by_slurm(submitted: SubmittedJob, state: str) -> str:
    return f"Slurm ended job {submitted.id}: {state}"
