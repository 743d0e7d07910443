"""How a process of this machine is recognised, whatever is done to the clock meanwhile."""

from pathlib import Path

PROC = Path("/proc")
AFTER_NAME = 3
"""Number in proc_pid_stat(5) of the first field behind the program's name, which may hold spaces and brackets."""
STATE, START = 3 - AFTER_NAME, 22 - AFTER_NAME
ENDED = ("Z", "X")
"""States of a process that has ended, and is still listed until its parent has asked for its exit code."""


def start_ticks(pid: int) -> int | None:
    """Clock ticks from the machine's boot to a process's start; none if there is no such process, or it has ended.

    With the boot's id it tells a process from every other one that ever had its number. `psutil` adds the time of the
    boot, which the kernel derives from the clock: that start moves whenever the clock is set.

    Raises:
        NotImplementedError: this system does not tell (macOS).
    """
    if not (PROC / "self" / "stat").exists():
        raise NotImplementedError("start_ticks: /proc/self/stat is not there")
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[STATE] in ENDED else int(fields[START])
