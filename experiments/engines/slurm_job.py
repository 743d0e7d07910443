"""The side of the Slurm engine that runs in a job: starts a stage's worker, passes signals on, and says how it ended.

A job's folder, shared with the driver, holds `jobs/` (what to run), `cancel/` (marks that ask a job to end), and
`ended/` (how jobs ended).
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.attempt import StoreError, read_attempts, read_json, write_json
from experiments.host import SLURM_JOB, SLURM_RESTART
from experiments.work import INTERRUPTED

FOLDER = "SMAUG_SLURM_FOLDER"
"""Variable with the folder of the jobs that were submitted together."""
LOOK_S = 0.2
GRACE_S = 60.0
"""Time a cancelled worker has to save its state before it is killed."""


def run(directory: str) -> None:
    """Run the worker of the stage in `directory` to its end.

    SIGUSR2, which Slurm sends before the time limit, has the stage saved and the job queued again, as long as the
    stage gets on. SIGTERM, which Slurm sends to end a job, has it saved: Slurm itself queues again what it preempts.

    Raises:
        SystemExit: the worker ended with another code than 0; Slurm's accounting then shows it.
    """
    code = _Supervisor(Path(directory), Path(os.environ[FOLDER]), slurm_id(os.environ)).run()
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def slurm_id(environment: Any) -> str:
    """The job's id as squeue prints it, `7_1` in an array."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else str(environment["SLURM_JOB_ID"])


def restarts(environment: Any) -> str:
    """How often the job was queued again."""
    return str(environment.get("SLURM_RESTART_COUNT", "0"))


def in_folder(job: str, name: str) -> str:
    """A name for a job's files: by id and stage, for a controller that has lost its memory gives ids again."""
    return f"{job}-{name[:12]}.json"


class _Supervisor:
    def __init__(self, directory: Path, folder: Path, job: str) -> None:
        self._directory, self._job = directory, job
        told = read_json(folder / "jobs" / f"{directory.name}.json")
        if told is None:
            raise StoreError(f"{folder}: says nothing of {directory.name}; it must be there while its jobs run")
        self._told, name = told, in_folder(job, told["name"])
        self._mark, self._ended = folder / "cancel" / name, folder / "ended" / name
        self._near_limit = False
        self._asked = False

    def run(self) -> int:
        self._ended.unlink(missing_ok=True)  # of a run of this job before it was queued again
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._hear)
        code = INTERRUPTED if self._mark.exists() else self._run_worker()
        if code == INTERRUPTED and self._near_limit and not self._mark.exists() and self._gets_on():
            self._queue_again()
        reason = "timeout" if code == INTERRUPTED and self._near_limit else None
        write_json(self._ended, {"exit_code": code, "reason": reason, "time": time.time()})
        return code

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self._near_limit = self._near_limit or number == signal.SIGUSR2

    def _run_worker(self) -> int:
        with (self._directory / "launch.txt").open("wb") as output:
            child = subprocess.Popen(
                [*self._told["command"], "--parent", str(os.getpid())],  # it stops should this process be killed
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | self._told["env"] | {SLURM_JOB: self._job, SLURM_RESTART: restarts(os.environ)},
                start_new_session=True,
            )
        asked_at: float | None = None
        while child.poll() is None:
            if asked_at is None and (self._asked or self._mark.exists()):
                asked_at = time.monotonic()
                child.terminate()
            if asked_at is not None and not self._near_limit and time.monotonic() - asked_at > GRACE_S:
                child.kill()
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=LOOK_S)
        return child.returncode

    def _gets_on(self) -> bool:
        """Whether the attempt that was stopped came further than those before it: else the limit is too short."""
        *before, last = (attempt.last["step"] for attempt in read_attempts(self._directory))
        return last > max(before, default=0)

    def _queue_again(self) -> None:
        """Give this job back to the queue and end; where Slurm refuses, the driver tries again."""
        asked = subprocess.run(["scontrol", "requeue", self._job], capture_output=True, text=True, check=False)
        if asked.returncode != 0:
            sys.stderr.write(f"not queued again: {asked.stderr}")
            return
        os._exit(INTERRUPTED)
