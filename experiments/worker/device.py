"""Device of a stage: its description, the time used on it, and the versions of the libraries."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from experiments.stages.memory import PEAK_MEMORY, peak_bytes_of_tree
from experiments.worker.energy import energy_mj, joules_since, visible_gpus
from smaug_core.errors import SmaugError

SLURM_JOB, SLURM_RESTART = "SMAUG_SLURM_JOB", "SMAUG_SLURM_RESTART"
"""Variables of a worker that a Slurm job was made for: the job's id as squeue prints it, and how often it was queued
again. Not Slurm's own, which whatever runs in an allocation has."""

LIBRARIES = ("smaug", "torch", "timm", "transformers", "numpy", "av")
"""Packages whose versions may change a result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Start of a clock, which other processes of this machine can go on reading."""

    pid: int
    """The process whose tree's CPU time counts."""
    wall_from: float
    cpu_from: float
    energy_from: dict[str, int] = field(default_factory=dict)
    """Millijoules of each GPU; empty where nothing counts them."""


class DeviceClock:
    """Device seconds since it was made, or since a start: wall time x GPUs, or CPU time of a process and its children.

    Args:
        gpus: how many are held; 0 counts CPU time.
        start: of another process's clock, to read on; none starts a clock of this process.
        nodes: machines that the GPUs are in, equally many in each; CPU time and energy are this one's.
    """

    def __init__(self, gpus: float, start: Start | None = None, *, nodes: int = 1) -> None:
        self._gpus, self._peak_bytes = gpus, 0
        pid = os.getpid()
        self.start = start or Start(
            pid=pid,
            wall_from=time.monotonic(),
            cpu_from=_cpu_seconds_of_tree(pid),
            energy_from=energy_mj(visible_gpus(int(gpus) // nodes)) if gpus >= 1 else {},
        )

    def wall_s(self) -> float:
        """Seconds by the clock on the wall."""
        return time.monotonic() - self.start.wall_from  # it counts from the boot, in all processes

    def cpu_s(self) -> float:
        """User and system seconds of the process tree."""
        return _cpu_seconds_of_tree(self.start.pid) - self.start.cpu_from

    def spent_s(self) -> float:
        """Return what is billed: GPUs held x time, or CPU time if no GPU is held."""
        return self.wall_s() * self._gpus if self._gpus else self.cpu_s()

    def account(self) -> dict[str, float]:
        """All three, the process tree's `peak_memory_bytes`, and `joules` where the GPUs' energy is known."""
        joules = joules_since(self.start.energy_from) if self.start.energy_from else None
        # Kept, since a process that ended meanwhile does not count any more.
        self._peak_bytes = max(self._peak_bytes, peak_bytes_of_tree(self.start.pid))
        account = {"spent_s": self.spent_s(), "wall_s": self.wall_s(), "cpu_s": self.cpu_s()}
        account[PEAK_MEMORY] = self._peak_bytes
        return account if joules is None else account | {"joules": joules}


def _cpu_seconds_of_tree(pid: int) -> float:
    root = psutil.Process(pid)
    if pid == os.getpid():
        # getrusage counts in microseconds; psutil in hundredths, in which a short stage would have cost nothing.
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        seconds = sum(used.ru_utime + used.ru_stime for used in own)
    else:
        seconds = _cpu_seconds_of(root)
    for child in root.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended in between, and counts with those its parent waited for
            seconds += _cpu_seconds_of(child)
    return seconds


def _cpu_seconds_of(process: psutil.Process) -> float:
    """CPU time of a process, and of its children that have ended."""
    used = process.cpu_times()
    return float(used.user + used.system + used.children_user + used.children_system)


def oom_kills() -> dict[str, int]:
    """Return how many processes the kernel has killed for want of memory, by the file that counts them.

    The own control group's count where there is one, else that of the whole machine.
    """
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        own = "/"
    groups = Path("/sys/fs/cgroup")
    for path in (groups / own.lstrip("/") / "memory.events", groups / "memory.events", Path("/proc/vmstat")):
        if (count := _oom_kills_in(path)) is not None:
            return {str(path): count}
    return {}


def oom_kills_since(before: Mapping[str, int]) -> int:
    """Return how many more there are now than `before`, on the same machine."""
    now = ((path, _oom_kills_in(Path(path))) for path in before)
    return sum(max(0, count - before[path]) for path, count in now if count is not None)


def _oom_kills_in(path: Path) -> int | None:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(line[1]) for line in lines if line and line[0] == "oom_kill"), None)


def describe_device(device: str) -> dict[str, Any]:
    """The device's kind and name, and the unit its hours are counted in."""
    if device == "cpu":
        return {"device": "cpu", "device_name": _cpu_name(), "unit": "CPU h"}
    name = _gpu_name()
    return {"device": device, "device_name": name, "unit": f"{name.removeprefix('NVIDIA ')} GPU h"}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else os.uname().machine


def _gpu_name() -> str:
    """Name of the first GPU this process may use; `unknown` where the driver's tool does not name it."""
    # The driver's own tool rather than torch: torch is not loaded yet, and must see its environment first.
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", f"--id={first}"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip().splitlines()[0]


def slurm_job() -> dict[str, Any]:
    """The Slurm job made for this attempt, `{"slurm": {"job": "7_1", "restart": 0}}`; empty if there is none."""
    job = os.environ.get(SLURM_JOB)
    return {} if job is None else {"slurm": {"job": job, "restart": int(os.environ[SLURM_RESTART])}}


def library_versions() -> dict[str, str]:
    """Versions of Python and of the packages that may change a result."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # not needed by this installation
    return found


def source_commit() -> dict[str, Any] | None:
    """Commit of the source tree and whether files differ from it; none outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"id": head.stdout.strip(), "changed": bool(changes.stdout.strip())}


def check_device(device: str) -> None:
    """Check that torch can use a device.

    Raises:
        SmaugError: it cannot, or the name is unknown.
    """
    import torch

    if device not in ("cpu", "cuda"):
        raise SmaugError(f"--device {device}: is unknown; expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SmaugError("--device cuda: torch finds no GPU here; expected cpu")
