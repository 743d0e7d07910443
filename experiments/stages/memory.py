"""Peak memory of a stage's processes, as the kernel counts it, and memory limits of this machine."""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

PEAK_MEMORY = "peak_memory_bytes"
"""Key of an attempt's account: peak memory of its processes; accounts of earlier versions lack it."""

GIB = 2**30
SHARE_OF_JOBS = 0.9
"""Share of a machine's memory; the rest is for the system, the driver and Ray, which kills at 95 %."""
MARGIN = 1.2
"""Requested memory of a stage, relative to the peak of similar ones. Four seeds of each stage differed by 0.3 %
at most on a busy machine; the rest is for longer runs, whose allocator keeps more, and for the kernel's caches."""
STEP_BYTES = 256 * 2**20
"""Requests are multiples of this, so that similar stages request the same: Ray then reuses processes."""
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def peak_bytes_of_tree(pid: int) -> int:
    """Return the sum of the peaks of resident memory of a process and its live descendants.

    Shared memory counts for each process, and their peaks may have been at different times, so this is an upper bound
    of what they held together.
    """
    processes = [pid]
    with suppress(psutil.NoSuchProcess):
        processes += [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return sum(map(_peak_bytes_of, processes))


def forget_peak() -> None:
    """Reset the kernel's count of this process's peak to the present value, if supported (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def bytes_for_jobs() -> int:
    """Return the memory for jobs on this machine: most of it, or of the limit of this process's control groups."""
    return int(SHARE_OF_JOBS * min([psutil.virtual_memory().total, *_limits()]))


def bytes_to_ask(peak_bytes: int) -> int:
    """Return the requested memory of a stage from the peak of similar ones."""
    return math.ceil(MARGIN * peak_bytes / STEP_BYTES) * STEP_BYTES


def _limits() -> Iterator[int]:
    """Memory limits of this process's control groups, version 1 or 2."""
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
    """Return the peak of one process; its present memory on a system without peaks (macOS); 0 if it has ended."""
    try:
        peak = HIGH_WATER.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        peak = None
    if peak is not None:
        return int(peak[1]) * 1024
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0
