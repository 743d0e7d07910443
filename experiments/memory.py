"""Memory: what the processes of a stage have held of it, as the kernel counts it."""

import re
from contextlib import suppress
from pathlib import Path

import psutil

PEAK_MEMORY = "peak_memory_bytes"
"""In an attempt's account: the most memory that its processes held; accounts of earlier versions have none."""

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
