"""Identity of a process on any machine, and whether it is alive."""

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from smaug_core.files import COUNT, POSITIVE, SECONDS, StoredDocument, key

HEARTBEAT_S = 15.0
"""Time between heartbeats of an attempt or a driver."""
SILENT_S = 120.0
"""A process on another machine without a heartbeat for so long is dead; clocks must agree to a minute."""

PROC = Path("/proc")
AFTER_NAME = 3
"""Number in proc_pid_stat(5) of the first field behind the program's name, which may hold spaces and brackets."""
STATE, START = 3 - AFTER_NAME, 22 - AFTER_NAME
ENDED = ("Z", "X")
"""States of a process that has ended, and is still listed until its parent has read its exit code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity(StoredDocument):
    """A process, distinguishable from all others on this machine and elsewhere, before and after a reboot."""

    host: str = key(str)
    boot: str = key(str, partly="")
    """Equal for processes that can see each other's ids: same start of the machine, same container."""
    pid: int = key(POSITIVE, partly=0)
    process_started: float = key(SECONDS, partly=0.0)
    start_ticks: int | None = key(COUNT, absent=None)


def this_process() -> ProcessIdentity:
    """Identify this process."""
    identity: dict[str, Any] = {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
    }
    with suppress(NotImplementedError):
        identity["start_ticks"] = start_ticks(os.getpid())
    return ProcessIdentity.of(identity)


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def start_ticks(pid: int) -> int | None:
    """Count the clock ticks from the machine's boot to a process's start; None if it has ended or never was.

    With the boot's id it distinguishes a process from every other one that ever had its number. `psutil` adds the time
    of the boot, which the kernel derives from the clock: that start moves whenever the clock is set.

    Raises:
        NotImplementedError: this system has no /proc (macOS).
    """
    if not (PROC / "self" / "stat").exists():
        raise NotImplementedError("start_ticks: /proc/self/stat is not there")
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[STATE] in ENDED else int(fields[START])


def is_alive(process: ProcessIdentity, heartbeat: float, now: float | None = None) -> bool:
    """Return whether a process runs: looked up on its own machine, elsewhere judged by its last heartbeat."""
    if (process.host, process.boot) != (socket.gethostname(), _boot()):
        return (time.time() if now is None else now) - heartbeat <= SILENT_S
    if process.start_ticks is not None:
        return start_ticks(process.pid) == process.start_ticks
    return _lives_by_clock(process)


def _lives_by_clock(process: ProcessIdentity) -> bool:
    """The same without a start since the boot: on macOS, and of an earlier version."""
    try:
        running = psutil.Process(process.pid)
        # A killed worker whose parent has not read its exit status yet still has a process id.
        if running.status() == psutil.STATUS_ZOMBIE:
            return False
        # The start time is derived from the clock, which may be corrected in between.
        return abs(running.create_time() - process.process_started) < 2.0
    except psutil.NoSuchProcess:
        return False
