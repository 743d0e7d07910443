"""Attempts at a stage: who holds it, and whether they still live.

The directory of an attempt is the lease. Claiming is one `rename` of a prepared directory to the next number,
which fails if that number is taken; nothing is ever removed, so two claims can never both succeed.
"""

import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from experiments.store.documents import (
    ACCOUNTED,
    ANY,
    END,
    FAILED,
    OWNER,
    PROGRESS,
    StoreError,
    read_document,
    read_point,
    unwritable,
    write_json,
)
from experiments.store.failures import Failure
from experiments.store.process import start_ticks
from smaug_core.files import sync

__all__ = [
    "ACCOUNTING",
    "FAILURE",
    "HEARTBEAT_S",
    "NOTHING_SPENT",
    "SILENT_S",
    "Attempt",
    "AttemptState",
    "HeldError",
    "Lease",
    "StoreError",
    "SupersededError",
    "claim",
    "held",
    "is_alive",
    "read_attempts",
    "read_json",
    "this_process",
    "unwritable",
    "write_json",
]

HEARTBEAT_S = 15.0
"""Time between signs of life of a running attempt."""
SILENT_S = 120.0
"""An attempt on another machine that gave no sign of life for so long is dead; clocks must agree to a minute."""

FAILURE = "failure.json"
"""In an attempt's folder: why it ended without a result, and what was done about it."""
ACCOUNTING = "accounting.json"
"""In an attempt's folder: what Slurm's accounting says of the run of the job that the attempt was."""

AttemptState = Literal["running", "dead", "done", "failed", "diverged", "interrupted", "cancelled"]


class HeldError(StoreError):
    """Somebody else is working on the stage."""


class SupersededError(StoreError):
    """This attempt was taken for dead and a newer one has begun; it must not publish."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at a stage, as its files tell."""

    number: int
    directory: Path
    owner: dict[str, Any]
    """Who claimed it, where, on what device, when."""
    progress: dict[str, Any]
    """The last sign of life: time, hours so far, step."""
    end: dict[str, Any] | None
    """How it ended; none while it runs, and for ever if it was killed."""
    failure: dict[str, Any] | None = None
    """What a driver made of an ending without a result: `class`, `seen`, `done`; none if there was no driver."""
    accounting: dict[str, Any] | None = None
    """What Slurm says of the run of its job: `start` and `end` in seconds since 1970, `state`, `cpu_s`; none where it
    ran in no job, or nobody could ask."""
    fault: str = ""
    """What is wrong with its progress.json, so that `progress` is an estimate; empty if nothing is."""

    @property
    def failed_as(self) -> str | None:
        """Class of its failure, as in `experiments.store.failures`; None without a failure or a known class."""
        told: str | None = (self.failure or {}).get("class") or (self.end or {}).get("failure")
        return told

    @property
    def slurm_job(self) -> str | None:
        """Id of the Slurm job that it was, as squeue prints it; none where it ran in no job made for it."""
        job: str | None = self.owner.get("slurm", {}).get("job")
        return job

    @property
    def state(self) -> AttemptState:
        """How it ended, or whether it runs or died without a word."""
        if self.end is not None:
            ended: AttemptState = self.end["class"]
            return ended
        return "running" if is_alive(self.owner, self.progress["time"]) else "dead"

    @property
    def last(self) -> dict[str, Any]:
        """The newest account of its time and steps."""
        return self.end or self.progress


def read_attempts(stage_directory: Path) -> list[Attempt]:
    """All attempts at a stage, oldest first."""
    try:
        names = sorted(n for n in os.listdir(stage_directory / "attempts") if re.fullmatch(r"\d{4,}", n))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise StoreError(f"{stage_directory}: there is a file in the way; choose another --home") from error
    return [_read_attempt(stage_directory / "attempts" / name) for name in names]


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that `path` holds, whatever its keys; none if there is no such file.

    Raises:
        StoreError: the file is not a JSON object.
    """
    return read_document(path, ANY)


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


def _read_progress(directory: Path, owner: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """An attempt's account, and what is wrong with its file, which a power failure may leave empty.

    Such an account is estimated from the curve: what the attempt held until its last step. A worker that lives
    writes the file again with its next heartbeat.
    """
    path = directory / "progress.json"
    try:
        found = read_document(path, PROGRESS)
        if found is not None:
            return found, ""
        fault = str(PROGRESS.fault(path, "is missing"))
    except StoreError as error:
        fault = str(error)
    last = _last_point(directory / "metrics.jsonl") or {"time": owner["started"], "step": 0, "values": {}}
    wall_s = max(0.0, last["time"] - owner["started"])
    written = path.stat().st_mtime if path.exists() else last["time"]
    spent = {"spent_s": wall_s * (owner["gpus"] or owner["cpus"]), "wall_s": wall_s}
    return NOTHING_SPENT | spent | {"time": written, "step": last["step"], "values": last["values"]}, fault


def _last_point(path: Path) -> dict[str, Any] | None:
    """The last whole line of a curve that can be read."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for line in reversed(lines):
        with suppress(StoreError):
            return read_point(line, path)
    return None


def this_process() -> dict[str, Any]:
    """What tells this process from any other, on this machine and elsewhere, before and after a reboot."""
    with suppress(NotImplementedError):
        return _named_by_clock() | {"start_ticks": start_ticks(os.getpid())}
    return _named_by_clock()


def _named_by_clock() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
    }


def _boot() -> str:
    """Equal for processes that can see each other's ids: same start of the machine, same container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def is_alive(owner: dict[str, Any], last_sign: float, now: float | None = None) -> bool:
    """Whether the process that claimed an attempt still runs: looked up here, else judged by its last sign."""
    if (owner["host"], owner["boot"]) != (socket.gethostname(), _boot()):
        return (time.time() if now is None else now) - last_sign <= SILENT_S
    if "start_ticks" in owner:
        return start_ticks(owner["pid"]) == owner["start_ticks"]
    return _lives_by_clock(owner)


def _lives_by_clock(owner: dict[str, Any]) -> bool:
    """The same where no start since the boot was noted: on macOS, and by an earlier version."""
    try:
        process = psutil.Process(owner["pid"])
        # A killed worker whose parent has not asked for its exit status yet still has a process id.
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # The start time is derived from the clock, which may be corrected in between.
        return abs(process.create_time() - owner["process_started"]) < 2.0
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a stage, until somebody with reason to think us dead takes it."""

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
        """Give a sign of life: `account` holds the time spent so far and the step."""
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
        """Give the stage back, saying how the attempt ended, and of what class a failure is."""
        end = {"time": time.time(), "class": outcome, "message": message, "traceback": details}
        end |= {} if failure is None else {"failure": failure}
        write_json(self.directory / "end.json", end | account, durable=True)


def claim(stage_directory: Path, owner: dict[str, Any]) -> Lease:
    """Begin the next attempt at a stage; `owner` says on what device, with how many CPUs and GPUs.

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
        write_json(prepared / "owner.json", {**this_process(), "started": now, **owner}, durable=True)
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
    """The error that says who is at work."""
    owner = attempt.owner
    return HeldError(
        f"{attempt.directory}: process {owner['pid']} on {owner['host']} is working on this stage;"
        " wait for it or stop it"
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
"""The account of an attempt that has just begun."""


def write_down(folder: Path, failure: Failure, done: str) -> None:
    """Leave in an attempt's folder, or a stage's whose job ended before it made one, why, and what was done."""
    with suppress(StoreError):  # a disk that is full, maybe the failure itself; the driver tells it all the same
        told = {"class": failure.kind, "seen": failure.cause, "done": done, "time": time.time()}
        write_json(folder / FAILURE, told)


def checkpoint_step(directory: Path) -> int:
    """Step of a stage's newest checkpoint; 0 without one."""
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in (directory / "checkpoints").glob("step-*"))
    return max((int(match[1]) for match in found if match), default=0)
