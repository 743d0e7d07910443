"""Memory: what the processes of a stage have held of it, as the kernel counts it, and what there is of it here."""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

PEAK_MEMORY = "peak_memory_bytes"
"""In an attempt's account: the most memory that its processes held; accounts of earlier versions have none."""

GIB = 2**30
SHARE_OF_JOBS = 0.9
"""Of a machine's memory; the rest is for the system, the driver and Ray, which kills where 95 % are in use."""
MARGIN = 1.2
"""What a stage asks for, by the peak of those like it. Four seeds of each stage differed by 0.3 % at most on a busy
machine; the rest is for longer runs, whose allocator keeps more, and for what the kernel caches on a stage's behalf."""
STEP_BYTES = 256 * 2**20
"""What a stage asks for is a multiple of it, so that those like it ask for the same: Ray reuses a process for these."""
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def peak_bytes_of_tree(pid: int) -> int:
    """Peak resident memory of a process and of all that it started and that live: the sum of each one's own peak.

    Memory that several of them share counts for each, and their peaks may have been at different times: it is never
    less than what they held together.
    """
    processes = [pid]
    with suppress(psutil.NoSuchProcess):
        processes += [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return sum(map(_peak_bytes_of, processes))


def forget_peak() -> None:
    """Have the kernel count this process's peak from what it holds now, where it can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def bytes_for_jobs() -> int:
    """What jobs may ask for on this machine: most of its memory, or of what this process's control groups leave it."""
    return int(SHARE_OF_JOBS * min([psutil.virtual_memory().total, *_limits()]))


def bytes_to_ask(peak_bytes: int) -> int:
    """What a stage asks for where those like it held so much at most."""
    return math.ceil(MARGIN * peak_bytes / STEP_BYTES) * STEP_BYTES


def _limits() -> Iterator[int]:
    """Limits of the control groups that this process is in, of either version of Linux's."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (CGROUPS / "memory", "memory.limit_in_bytes") if controllers else (CGROUPS, "memory.max")
        here = root / own.lstrip("/")
        for group in (here, *here.parents):
            with suppress(OSError, ValueError):  # `max`: no limit
                yield int((group / name).read_text())


def _peak_bytes_of(pid: int) -> int:
    """Of one process; on a system that counts no peaks (macOS), what it holds now; 0 if it has ended."""
    try:
        told = HIGH_WATER.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        told = None
    if told is not None:
        return int(told[1]) * 1024
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0
