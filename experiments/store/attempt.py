"""Attempts at a stage: the processes that claimed it, and whether they are alive.

The directory of an attempt is the lease. Claiming is one `rename` of a prepared directory to the next number,
which fails if that number is taken; nothing is ever removed, so two claims can never both succeed.
"""

import os
import re
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.store.attempt_files import (
    ACCOUNTED,
    END,
    FAILED,
    OWNER,
    PROGRESS,
    Accounting,
    AttemptEnd,
    End,
    FailureNote,
    Heartbeat,
    Owner,
)
from experiments.store.documents import CurvePoint, StoreError, read_document, read_point, unwritable, write_json
from experiments.store.failures import Failure
from experiments.store.process import is_alive, this_process
from smaug_core.files import sync

FAILURE = "failure.json"
"""In an attempt's folder, or a stage's: why it ended without a result, and what was done about it."""
ACCOUNTING = "accounting.json"
"""In an attempt's folder: the run of its job by Slurm's accounting."""

AttemptState = Literal["running", "dead"] | AttemptEnd


class HeldError(StoreError):
    """Another process is working on the stage."""


class SupersededError(StoreError):
    """A newer attempt has begun, because this one was considered dead; it must not publish."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at a stage, as its files record it."""

    number: int
    directory: Path
    owner: Owner
    progress: Heartbeat
    end: End | None
    """None while it runs, and for ever if it was killed."""
    failure: FailureNote | None = None
    """None if no driver saw an ending without a result."""
    accounting: Accounting | None = None
    """None if it ran in no Slurm job, or Slurm's accounting could not be queried."""
    fault: str = ""
    """Error of its progress.json, for which `progress` is an estimate; empty if there is none."""

    @property
    def failed_as(self) -> str | None:
        """Class of its failure, as in `experiments.store.failures`; None without a failure or a known class."""
        if self.failure is not None:
            return self.failure.kind
        return None if self.end is None else self.end.failure

    @property
    def slurm_job(self) -> str | None:
        """Id of its Slurm job as squeue prints it; None if no job was made for it."""
        return None if self.owner.slurm is None else self.owner.slurm.job

    @property
    def state(self) -> AttemptState:
        """State of the attempt; `dead`: its process is gone and recorded no end."""
        if self.end is not None:
            return self.end.outcome
        return "running" if is_alive(self.owner, self.progress.time) else "dead"

    @property
    def last(self) -> Heartbeat:
        """The newest record of its time and steps."""
        return self.end or self.progress


def read_attempts(stage_directory: Path) -> list[Attempt]:
    """Read all attempts at a stage, oldest first."""
    try:
        names = sorted(n for n in os.listdir(stage_directory / "attempts") if re.fullmatch(r"\d{4,}", n))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise StoreError(f"{stage_directory}: there is a file in the way; choose another --home") from error
    return [_read_attempt(stage_directory / "attempts" / name) for name in names]


def _read_attempt(directory: Path) -> Attempt:
    owner = read_document(directory / "owner.json", OWNER)
    if owner is None:
        raise OWNER.fault(directory / "owner.json", "is missing")
    progress, fault = _read_progress(directory, owner)
    return Attempt(
        number=int(directory.name),
        directory=directory,
        owner=owner,
        progress=progress,
        end=read_document(directory / "end.json", END),
        failure=read_document(directory / FAILURE, FAILED),
        accounting=read_document(directory / ACCOUNTING, ACCOUNTED),
        fault=fault,
    )


def _read_progress(directory: Path, owner: Owner) -> tuple[Heartbeat, str]:
    """Read an attempt's last heartbeat, and the error of its file, which a power failure may leave empty.

    Then the heartbeat is estimated from the curve: the time that the attempt held its devices until its last step. A
    running worker writes the file again with its next heartbeat.
    """
    path = directory / "progress.json"
    try:
        found = read_document(path, PROGRESS)
        if found is not None:
            return found, ""
        fault = str(PROGRESS.fault(path, "is missing"))
    except StoreError as error:
        fault = str(error)
    last = _last_point(directory / "metrics.jsonl")
    ended = owner.started if last is None else last.time
    wall_s = max(0.0, ended - owner.started)
    estimate = {
        "time": path.stat().st_mtime if path.exists() else ended,
        "spent_s": wall_s * (owner.gpus or owner.cpus),
        "wall_s": wall_s,
    }
    curve = {} if last is None else {"step": last.step, "values": last.values}
    return Heartbeat.of(NOTHING_SPENT | estimate | curve), fault


def _last_point(path: Path) -> CurvePoint | None:
    """Return the last whole line of a curve that can be read."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for line in reversed(lines):
        with suppress(StoreError):
            return read_point(line, path)
    return None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a stage, until a process that considers this one dead takes it."""

    stage_directory: Path
    number: int

    @property
    def directory(self) -> Path:
        """Folder of this attempt."""
        return self.stage_directory / "attempts" / f"{self.number:04d}"

    def check(self) -> None:
        """Raise `SupersededError` if a newer attempt has begun."""
        if (self.stage_directory / "attempts" / f"{self.number + 1:04d}").exists():
            raise SupersededError(
                f"{self.directory}: another worker took over this stage, thinking this one dead; it publishes"
            )

    def heartbeat(self, account: dict[str, Any]) -> None:
        """Record a heartbeat: `account` holds the time spent so far and the step."""
        self.check()
        write_json(self.directory / "progress.json", {"time": time.time(), **account})

    def end(
        self,
        outcome: AttemptState,
        account: dict[str, Any],
        message: str,
        details: str = "",
        failure: str | None = None,
    ) -> None:
        """Release the stage, and record how the attempt ended and the class of a failure."""
        end = {"time": time.time(), "class": outcome, "message": message, "traceback": details}
        end |= {} if failure is None else {"failure": failure}
        write_json(self.directory / "end.json", end | account, durable=True)


def claim(stage_directory: Path, owner: dict[str, Any]) -> Lease:
    """Begin the next attempt at a stage; `owner` holds its device, CPUs and GPUs.

    Raises:
        HeldError: the newest attempt is alive, or another process claimed at the same moment.
        StoreError: the store cannot be written.
    """
    attempts = read_attempts(stage_directory)
    if attempts and attempts[-1].state == "running":
        raise held(attempts[-1])
    lease = Lease(stage_directory, attempts[-1].number + 1 if attempts else 1)
    now = time.time()
    prepared = stage_directory / "attempts" / f".claim-{uuid.uuid4().hex[:12]}"
    try:
        prepared.mkdir(parents=True)
        write_json(prepared / "owner.json", {**this_process().raw, "started": now, **owner}, durable=True)
        write_json(prepared / "progress.json", {"time": now, **NOTHING_SPENT})
        prepared.rename(lease.directory)
        sync(prepared.parent)
    except StoreError:
        shutil.rmtree(prepared, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(prepared, ignore_errors=True)
        if lease.directory.exists():
            raise held(_read_attempt(lease.directory)) from None
        raise unwritable(prepared, error) from error
    return lease


def held(attempt: Attempt) -> HeldError:
    """Return the error that names the process that works on a stage."""
    owner = attempt.owner
    return HeldError(
        f"{attempt.directory}: process {owner.pid} on {owner.host} is working on this stage; wait for it or stop it"
    )


NOTHING_SPENT = {
    "spent_s": 0.0,
    "wall_s": 0.0,
    "cpu_s": 0.0,
    "useful_s": 0.0,
    "train_s": 0.0,
    "step": 0,
    "total": 0,
    "values": {},
}
"""Progress of an attempt that has just begun."""


def record_failure(folder: Path, failure: Failure, done: str) -> None:
    """Record a failure and what was done, in the folder of its attempt, or of the stage if there was no attempt yet."""
    with suppress(StoreError):  # a full disk, maybe the failure itself; the driver reports it in any case
        note = {"class": failure.kind, "seen": failure.cause, "done": done, "time": time.time()}
        write_json(folder / FAILURE, note)


def checkpoint_step(directory: Path) -> int:
    """Return the step of a stage's newest checkpoint; 0 without one."""
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in (directory / "checkpoints").glob("step-*"))
    return max((int(match[1]) for match in found if match), default=0)
