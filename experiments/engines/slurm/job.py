"""The supervisor of a stage in a job of Slurm: runs its worker, forwards signals, and records its end.

It shares the folder of the submission with the driver, see `experiments.engines.slurm.submissions`.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from experiments.engines.slurm.commands import CommandError, output_of
from experiments.engines.supervisor import run_worker
from experiments.store.attempt import checkpoint_step, read_attempts, record_failure
from experiments.store.attempt_files import CLASS
from experiments.store.documents import RENAME, Shape, StoreError, read_document, write_json
from experiments.store.failures import Failure, FailureClass
from experiments.worker.device import SLURM_JOB, SLURM_RESTART
from experiments.worker.follower import Follower
from experiments.worker.outcome import INTERRUPTED
from smaug_core.files import COUNT, NAME, TIME, Map, Maybe, Number, StoredDocument, key

FOLDER = "SMAUG_SLURM_FOLDER"
"""Variable with the folder of the jobs that were submitted together."""
REQUEUE_LIMIT_S = 30.0
"""The job ends by itself soon: without an answer by then its driver takes over."""

SUBMITTED_ADVICE = "restore it from a backup, or keep {folder} until `squeue` shows no job of it"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobDocument(StoredDocument):
    """A file of the folder `jobs`: the command of a job."""

    name: str = key(NAME)
    """Fingerprint of its stage."""
    command: list[str] = key([str])
    env: dict[str, str] = key(Map(str))


@dataclass(frozen=True, kw_only=True, slots=True)
class ExitRecord(StoredDocument):
    """A file of the folder `ended`: the end of a job, recorded by its supervisor."""

    exit_code: int = key(Number(-255, 255, whole=True))
    reason: FailureClass | None = key(Maybe(CLASS), absent=None)
    time: float | None = key(TIME, absent=None)
    restart: int | None = key(COUNT, absent=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedStep(StoredDocument):
    """A file of the folder `saved`: the step of the checkpoint with which a job queued itself again."""

    step: int = key(COUNT)


JOB = Shape(JobDocument.form(), SUBMITTED_ADVICE, JobDocument.of)
EXIT_RECORD = Shape(ExitRecord.form(), f"{RENAME}the end of the job is then read from Slurm", ExitRecord.of)
SAVED = Shape(SavedStep.form(), f"{RENAME}the job continues from its newest checkpoint", SavedStep.of)


def run(directory: str) -> None:
    """Run the worker of the stage in `directory` to its end, or share its work on another node of the job.

    On SIGUSR2, which Slurm sends before the time limit, the stage is saved and the job queued again, as long as each
    run of the job saves a later checkpoint. On SIGTERM, which Slurm sends to end a job, it is saved only: Slurm itself
    queues again what it preempts. Exits with the worker's code, so that Slurm's accounting shows it.
    """
    supervisor = _Supervisor(Path(directory), Path(os.environ[FOLDER]), os.environ)
    if (node := int(os.environ.get("SLURM_NODEID", "0"))) > 0:
        supervisor.follow(node)
        return
    if code := supervisor.run():
        raise SystemExit(code if code > 0 else 128 - code)


def slurm_id(environment: Mapping[str, str]) -> str:
    """The job's id as squeue prints it, `7_1` in an array."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else str(environment["SLURM_JOB_ID"])


def restarts(environment: Mapping[str, str]) -> str:
    """Number of times that the job was queued again."""
    return str(environment.get("SLURM_RESTART_COUNT", "0"))


def file_name(job: str, name: str) -> str:
    """Name of a job's files: id and stage, since a controller that has lost its memory gives ids again."""
    return f"{job}-{name[:12]}.json"


class _Supervisor:
    def __init__(self, directory: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._directory, self._job, self._restarts = directory, slurm_id(environment), restarts(environment)
        description = read_document(folder / "jobs" / f"{directory.name}.json", JOB)
        if description is None:
            raise StoreError(f"{folder}: has no job for {directory.name}; it must stay while its jobs run")
        self._description, name = description, file_name(self._job, description.name)
        self._cancel, self._ended, self._saved = (folder / kind / name for kind in ("cancel", "ended", "saved"))
        self._near_limit = False
        self._signalled = False

    def run(self) -> int:
        self._ended.unlink(missing_ok=True)  # of a run of this job before it was queued again
        requeued = read_document(self._saved, SAVED)
        before = max(checkpoint_step(self._directory), 0 if requeued is None else requeued.step)
        self._record_requeue()
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        code = INTERRUPTED if self._cancel.exists() else self._run_worker()
        saved = checkpoint_step(self._directory)
        # Not the attempts' steps: one that was killed had taken more than it had saved.
        if code == INTERRUPTED and self._near_limit and not self._cancel.exists() and saved > before:
            self._queue_again(saved)
        reason = "timeout" if code == INTERRUPTED and self._near_limit else None
        record = {"exit_code": code, "reason": reason, "time": time.time(), "restart": int(self._restarts)}
        write_json(self._ended, record)
        return code

    def follow(self, node: int) -> None:
        """Share the work of the worker on the job's first node, which forwards requests to stop."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)
        os.environ.update(self._description.env)
        job = {"slurm": {"job": self._job, "restart": int(self._restarts)}}
        Follower(self._directory, node, job, self._has_ended).run()

    def _has_ended(self) -> bool:
        """Return whether the first node's part has ended since the job was queued last."""
        record = read_document(self._ended, EXIT_RECORD)
        return record is not None and record.restart == int(self._restarts)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        self._near_limit = self._near_limit or number == signal.SIGUSR2

    def _run_worker(self) -> int:
        return run_worker(
            self._description.command,
            self._directory,
            os.environ | self._description.env | {SLURM_JOB: self._job, SLURM_RESTART: self._restarts},
            is_stopping=lambda: self._signalled or self._cancel.exists(),
            may_kill=lambda: not self._near_limit,
        )

    def _record_requeue(self) -> None:
        """Record why this job's attempt ended before Slurm queued the job again by itself: no driver sees that."""
        before = [attempt for attempt in read_attempts(self._directory) if attempt.state not in ("running", "done")]
        last = before[-1] if before else None
        if last is None or last.failure is not None or last.slurm_job != self._job:
            return
        kind: FailureClass = "node_lost" if last.end is None else "preempted"
        seen = "it left no word" if last.end is None else last.end.message
        failure = Failure(kind=kind, cause=f"{seen}; Slurm queued job {self._job} again")
        record_failure(last.directory, failure, "resumed by the same job")

    def _queue_again(self, saved: int) -> None:
        """Give this job back to the queue and end; where Slurm refuses, the driver tries again.

        Should the checkpoint get lost, the next run must save a later one: else it would come back here for ever.
        """
        with suppress(OSError, StoreError):
            self._saved.parent.mkdir(mode=0o700, exist_ok=True)
            write_json(self._saved, {"step": saved})
        near = Failure(kind="timeout", cause=f"the time limit of job {self._job} came near")
        attempt = read_attempts(self._directory)[-1]
        record_failure(attempt.directory, near, "queued again, to be resumed by the same job")
        try:
            output_of("scontrol", "requeue", self._job, limit_s=REQUEUE_LIMIT_S)
        except CommandError as error:
            sys.stderr.write(f"not queued again: {error}\n")
            record_failure(attempt.directory, near, f"left to the driver, for Slurm did not queue it again ({error})")
            return
        os._exit(INTERRUPTED)
