"""The side of the Slurm engine that runs in a job: starts a stage's worker, passes signals on, and says how it ended.

A job's folder, shared with the driver, holds `jobs/` (what to run), `cancel/` (marks that ask a job to end), and
`ended/` (how jobs ended); `saved/` holds how far jobs came that queued themselves again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

from experiments.store.attempt import StoreError, checkpoint_step, read_attempts, write_down, write_json
from experiments.store.documents import CLASS, RENAME, Shape, read_document
from experiments.store.failures import Failure, FailureClass
from experiments.worker.device import SLURM_JOB, SLURM_RESTART
from experiments.worker.follower import Follower
from experiments.worker.outcome import INTERRUPTED
from smaug_core.files import COUNT, NAME, TIME, Map, Maybe, Number

FOLDER = "SMAUG_SLURM_FOLDER"
"""Variable with the folder of the jobs that were submitted together."""
LOOK_S = 0.2
ANSWER_S = 30.0
"""The job ends by itself soon: without an answer by then its driver takes over."""
GRACE_S = 60.0
"""Time a cancelled worker has to save its state before it is killed."""

SUBMITTED_ADVICE = "restore it from a backup, or keep {folder} until `squeue` shows no job of it"
JOB = Shape({"name": NAME, "command": [str], "env": Map(str)}, SUBMITTED_ADVICE)
"""What a job of Slurm runs."""
WORD = Shape(
    {"exit_code": Number(-255, 255, whole=True), "reason?": Maybe(CLASS), "time?": TIME, "restart?": COUNT},
    f"{RENAME}what became of the job is then asked of Slurm",
)
"""How a job of Slurm ended, by its supervisor."""
SAVED = Shape({"step": COUNT}, f"{RENAME}the job goes on from its newest checkpoint")
"""How far a job of Slurm came that queued itself again."""


def run(directory: str) -> None:
    """Run the worker of the stage in `directory` to its end, or share its work on another node of the job.

    SIGUSR2, which Slurm sends before the time limit, has the stage saved and the job queued again, as long as each
    run of the job saves a later checkpoint. SIGTERM, which Slurm sends to end a job, has it saved: Slurm itself queues
    again what it preempts.

    Raises:
        SystemExit: the worker ended with another code than 0; Slurm's accounting then shows it.
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
    """How often the job was queued again."""
    return str(environment.get("SLURM_RESTART_COUNT", "0"))


def in_folder(job: str, name: str) -> str:
    """A name for a job's files: by id and stage, for a controller that has lost its memory gives ids again."""
    return f"{job}-{name[:12]}.json"


class _Supervisor:
    def __init__(self, directory: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._directory, self._job, self._restarts = directory, slurm_id(environment), restarts(environment)
        told = read_document(folder / "jobs" / f"{directory.name}.json", JOB)
        if told is None:
            raise StoreError(f"{folder}: says nothing of {directory.name}; it must be there while its jobs run")
        self._told, name = told, in_folder(self._job, told["name"])
        self._mark, self._ended, self._saved = (folder / kind / name for kind in ("cancel", "ended", "saved"))
        self._near_limit = False
        self._asked = False

    def run(self) -> int:
        self._ended.unlink(missing_ok=True)  # of a run of this job before it was queued again
        before = max(checkpoint_step(self._directory), (read_document(self._saved, SAVED) or {}).get("step", 0))
        self._note_before()
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._hear)
        code = INTERRUPTED if self._mark.exists() else self._run_worker()
        saved = checkpoint_step(self._directory)
        # Not the attempts' steps: one that was killed had taken more than it had saved.
        if code == INTERRUPTED and self._near_limit and not self._mark.exists() and saved > before:
            self._queue_again(saved)
        reason = "timeout" if code == INTERRUPTED and self._near_limit else None
        told = {"exit_code": code, "reason": reason, "time": time.time(), "restart": int(self._restarts)}
        write_json(self._ended, told)
        return code

    def follow(self, node: int) -> None:
        """Share the work of the worker that the job's first node runs; it is asked to stop there, and passes it on."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)
        os.environ.update(self._told["env"])
        job = {"slurm": {"job": self._job, "restart": int(self._restarts)}}
        Follower(self._directory, node, job, self._has_ended).run()

    def _has_ended(self) -> bool:
        """Whether the first node's part has ended since the job was queued last."""
        told = read_document(self._ended, WORD)
        return told is not None and told.get("restart") == int(self._restarts)

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
                cwd=self._directory,
                env=os.environ | self._told["env"] | {SLURM_JOB: self._job, SLURM_RESTART: self._restarts},
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

    def _note_before(self) -> None:
        """Write down why this job's attempt ended before Slurm queued the job again by itself: no driver sees that."""
        before = [attempt for attempt in read_attempts(self._directory) if attempt.state not in ("running", "done")]
        last = before[-1] if before else None
        if last is None or last.failure is not None or last.slurm_job != self._job:
            return
        kind: FailureClass = "node_lost" if last.end is None else "preempted"
        seen = "it left no word" if last.end is None else last.end["message"]
        failure = Failure(kind=kind, cause=f"{seen}; Slurm queued job {self._job} again")
        write_down(last.directory, failure, "resumed by the same job")

    def _queue_again(self, saved: int) -> None:
        """Give this job back to the queue and end; where Slurm refuses, the driver tries again.

        Should the checkpoint get lost, the next run must save a later one: else it would come back here for ever.
        """
        with suppress(OSError, StoreError):
            self._saved.parent.mkdir(mode=0o700, exist_ok=True)
            write_json(self._saved, {"step": saved})
        near = Failure(kind="timeout", cause=f"the time limit of job {self._job} came near")
        attempt = read_attempts(self._directory)[-1]
        write_down(attempt.directory, near, "queued again, to be resumed by the same job")
        if refusal := self._requeue():
            sys.stderr.write(f"not queued again: {refusal}\n")
            write_down(attempt.directory, near, f"left to the driver, for Slurm did not queue it again ({refusal})")
            return
        os._exit(INTERRUPTED)

    def _requeue(self) -> str:
        """Ask Slurm to queue this job again; gives why it does not."""
        try:
            asked = subprocess.run(
                ["scontrol", "requeue", self._job], capture_output=True, text=True, timeout=ANSWER_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"no answer within {ANSWER_S:.0f} s"
        except OSError as error:
            return str(error)
        return asked.stderr.strip() or f"exit code {asked.returncode}" if asked.returncode else ""
