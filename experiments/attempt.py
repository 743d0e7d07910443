"""Attempts at a stage: who holds it, and whether they still live.

The directory of an attempt is the lease. Claiming is one `rename` of a prepared directory to the next number,
which fails if that number is taken; nothing is ever removed, so two claims can never both succeed.
"""

import json
import os
import re
import shutil
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from experiments.process import start_ticks
from smaug_core.errors import SmaugError

HEARTBEAT_S = 15.0
"""Time between signs of life of a running attempt."""
SILENT_S = 120.0
"""An attempt on another machine that gave no sign of life for so long is dead; clocks must agree to a minute."""

FAILURE = "failure.json"
"""In an attempt's folder: why it ended without a result, and what was done about it."""
ACCOUNTING = "accounting.json"
"""In an attempt's folder: what Slurm's accounting says of the run of the job that the attempt was."""

AttemptState = Literal["running", "dead", "done", "failed", "diverged", "interrupted", "cancelled"]


class StoreError(SmaugError):
    """The store cannot be written, or holds something that contradicts itself."""


class HeldError(StoreError):
    """Somebody else is working on the stage."""


class SupersededError(StoreError):
    """This attempt was taken for dead and a newer one has begun; it must not publish."""


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Make `path` hold `value`, complete or not at all.

    Raises:
        StoreError: it cannot be written, e.g. the disk is full.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("w") as file:
            json.dump(value, file, indent=1)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.rename(path)
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):  # a read-only disk refuses to remove even what is not there
            partial.unlink()
        raise unwritable(path, error) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that `path` holds; none if there is no such file.

    Raises:
        StoreError: the file is not a JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete its directory to start over") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path}: holds {type(value).__name__}, not an object; delete its directory")
    return value


def sync_directory(directory: Path) -> None:
    """Make renames within `directory` survive a power failure."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: Path, error: OSError) -> StoreError:
    """The error that names what could not be written, why, and what to do."""
    return StoreError(
        f"{path}: cannot be written ({error.strerror}); free some space or choose another --home,"
        " then give the same command again"
    )


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

    @property
    def failed_as(self) -> str | None:
        """Class of its failure, in the words of `experiments.failures`; none if it has none or nobody could tell."""
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


def _read_attempt(directory: Path) -> Attempt:
    owner, progress = read_json(directory / "owner.json"), read_json(directory / "progress.json")
    if owner is None or progress is None:
        raise StoreError(
            f"{directory}: owner.json or progress.json is missing; delete the stage {directory.parent.parent}"
        )
    return Attempt(
        number=int(directory.name),
        directory=directory,
        owner=owner,
        progress=progress,
        end=read_json(directory / "end.json"),
        failure=read_json(directory / FAILURE),
        accounting=read_json(directory / ACCOUNTING),
    )


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
        write_json(prepared / "owner.json", {**this_process(), "started": now, **owner})
        write_json(prepared / "progress.json", {"time": now, **NOTHING_SPENT})
        prepared.rename(lease.directory)
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
